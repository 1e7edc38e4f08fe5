// SPDX-License-Identifier: Apache-2.0

// Package store is the contract of the datastore: keys, compare-and-swap
// writes and watches. Back ends live in packages below it (mem, etcd; kube
// comes with Kubernetes) and are proven equal by storetest. It knows what a
// key is called, never what a value means.
package store

import (
	"context"
	"errors"
)

// Kind is the kind of a stored object, in the resource's own spelling.
type Kind string

// The kinds we store. The first group are resources in the group
// projectcalico.org/v3, the second IPAM objects in Calico's shapes, the third
// objects of our own in ocicat.net/v1.
const (
	IPPool           Kind = "IPPool"
	IPReservation    Kind = "IPReservation"
	BGPConfiguration Kind = "BGPConfiguration"
	BGPPeer          Kind = "BGPPeer"
	Node             Kind = "Node"

	Block      Kind = "IPAMBlock"     // name: CIDR with "-" for "/", as "172.16.109.64-26"
	Affinity   Kind = "BlockAffinity" // name: node "/" block name, as "k8s-node-1/172.16.109.64-26"
	Handle     Kind = "IPAMHandle"    // name: the handle
	IPAMConfig Kind = "IPAMConfig"    // name: "default"

	OcicatConfiguration Kind = "OcicatConfiguration" // name: "default"
	NodeStatus          Kind = "NodeStatus"          // name: the node
	Heartbeat           Kind = "Heartbeat"           // name: the node
	Election            Kind = "Election"            // name: the duty, as "collector"
)

// Key names one object.
type Key struct {
	Kind Kind
	Name string
}

// String is kind and name as they appear in messages.
func (k Key) String() string { return string(k.Kind) + " " + k.Name }

// Revision is the version of one object, or of the whole store in List and
// Watch. It grows with every write; 0 is "does not exist".
type Revision uint64

// AnyRevision as the expected revision of Put or Delete skips the comparison.
const AnyRevision = ^Revision(0)

// Entry is a stored object: its bytes are what the kind's codec wrote.
type Entry struct {
	Key      Key
	Value    []byte
	Revision Revision
}

// Event is one change seen by a watch: the entry as written, or, where
// Deleted, its key and the revision of the deletion.
type Event struct {
	Entry   Entry
	Deleted bool
}

// ErrAmbiguous is in the chain of a write error when the write may or may not
// have happened, or may still happen: a timeout or a lost connection after
// the request left. Only the same compare-and-swap, repeated until it
// succeeds or its comparison fails, resolves it; a read does not, because the
// request may still be on its way to the store.
var ErrAmbiguous = errors.New("the write may have happened")

// ErrDenied is in the chain of an error when the datastore and this program do
// not accept each other: a wrong password, a missing right, a certificate that
// is wrong or expired. Waiting does not help; the error's hint does.
var ErrDenied = errors.New("not accepted")

// Store is a datastore. All methods are safe for concurrent use and obey
// their context. Errors carry a fault kind: NotFound, Conflict (a comparison
// failed), Invalid (a key the back end cannot hold), Unavailable (no answer;
// with ErrAmbiguous where a write's fate is unknown).
type Store interface {
	// Get reads one object.
	Get(ctx context.Context, key Key) (Entry, error)
	// List reads all objects of a kind whose names start with prefix, sorted
	// by name, with the store's revision they were read at. For affinities
	// the prefix node+"/" is one node's; of blocks, heartbeats and node
	// statuses a back end may take prefix for a whole name.
	List(ctx context.Context, kind Kind, prefix string) ([]Entry, Revision, error)
	// Put writes an object if its revision still is prev (0: it does not
	// exist) and returns the new one. value is copied. A back end may leave an
	// object that already has this value at its revision.
	Put(ctx context.Context, key Key, value []byte, prev Revision) (Revision, error)
	// Delete removes an object if its revision still is prev. A missing
	// object is NotFound, also with AnyRevision.
	Delete(ctx context.Context, key Key, prev Revision) error
	// Watch streams every change of a kind and prefix after revision since,
	// in order. The channel closes when ctx ends, the store is closed, the
	// stream breaks or changes after since are no longer known; the caller
	// then lists again. Follow does all that.
	Watch(ctx context.Context, kind Kind, prefix string, since Revision) (<-chan Event, error)
	// Close ends all watches and releases connections; later calls are
	// Unavailable.
	Close() error
}
