// SPDX-License-Identifier: Apache-2.0

// Package journal is the record of the pods attached to this node, kept where
// the links themselves live: in /run, which no reboot survives. It lets an
// agent that restarts, or that finds its datastore away, know every endpoint,
// answer a repeated ADD as the first and release what a DEL gave back.
//
// It is an append-only file of lines, each with its own checksum. It must not
// know the kernel nor the datastore: what to do about a lost record is its
// reader's decision.
package journal

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
)

// State is how far an attachment is.
type State string

// The states, in the order an attachment goes through them; after the last it
// is forgotten.
const (
	Intent   State = "intent"   // an ADD was begun: its address is taken, links may exist
	Attached State = "attached" // the ADD was answered: Result holds what it said
	Detached State = "detached" // a DEL was answered; the datastore does not know yet
)

// Attachment is what the journal holds of one endpoint.
type Attachment struct {
	Endpoint  cluster.Endpoint   `json:"endpoint"`
	State     State              `json:"state"`
	Network   string             `json:"network"`          // name of the CNI network
	Handle    string             `json:"handle,omitempty"` // IPAM handle of its address
	NetNSPath string             `json:"netns,omitempty"`  // as the runtime spelled it
	Result    *cniwire.AddResult `json:"result,omitempty"` // set from Attached on
	// PermGateway says that the pod was given a permanent neighbour for its
	// gateway; false where that is not known.
	PermGateway bool `json:"permGateway,omitempty"`
	// PodUID is the pod's in Kubernetes; "" where the runtime did not say.
	PodUID string `json:"podUID,omitempty"`
}

// ID is the attachment's key.
func (a Attachment) ID() cluster.EndpointID { return a.Endpoint.ID }

// Condition is what Open found.
type Condition int

// The conditions. Links of pods that the journal does not name must be looked
// for in the kernel at every start; after all but Whole and Torn they must be
// expected.
const (
	Whole    Condition = iota // every record was read
	Torn                      // the last record was half written, and dropped
	Missing                   // no journal: the first start since boot, or somebody removed it
	Salvaged                  // damaged records were skipped: others may be stale
)

var conditions = [...]string{"whole", "torn", "missing", "salvaged"}

// String is the condition in one word.
func (c Condition) String() string { return conditions[c] }

// Journal is the open journal. Its methods may be called concurrently. A
// change is in the file when its call returns.
type Journal struct {
	lock *os.File

	mu    sync.Mutex
	file  *file
	state map[cluster.EndpointID]Attachment
}

// Open opens the journal in the directory dir, making both if need be, and
// reads it. It fails with Conflict when another process has it open and with
// Unsupported when a newer version of Ocicat wrote it; damage is no error but
// a Condition.
func Open(dir string) (*Journal, Condition, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, Missing, fault.New(fault.Internal, "open journal: %w", err)
	}
	path := filepath.Join(dir, "journal")
	lock, err := takeLock(path + ".lock")
	if err != nil {
		return nil, Missing, err
	}
	state, file, condition, err := load(path)
	if err != nil {
		lock.Close()
		return nil, Missing, err
	}
	return &Journal{lock: lock, file: file, state: state}, condition, nil
}

// Read returns what the journal in dir says, sorted by ID, and changes nothing:
// it is for who looks while no agent runs. What is damaged is left out; without
// a journal there is nothing. A newer one is Unsupported.
func Read(dir string) ([]Attachment, error) {
	path := filepath.Join(dir, "journal")
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fault.New(fault.Internal, "read journal: %w", err)
	}
	state, _, err := parse(content)
	if err != nil {
		return nil, fmt.Errorf("read journal %s: %w", path, err)
	}
	return sorted(state), nil
}

// Close closes the journal's files. The Journal must not be used after it.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	err := j.file.close()
	return cmp.Or(err, j.lock.Close())
}

// Put writes a, replacing what the journal held of its ID. On an error the
// journal still holds what it held before. Only an Intent can be refused for
// want of space: room for what must follow it is set aside with it.
func (j *Journal) Put(a Attachment) error {
	if err := a.check(); err != nil {
		return err
	}
	line, err := record{Put: &a}.encode() // before the lock: others need not wait for it
	if err != nil {
		return fault.New(fault.KindOf(err), "write %s of %s to the journal: %w", a.State, a.ID(), err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	var behind int64
	if a.State == Intent {
		behind = spare(len(j.state) + 1)
	}
	if err := j.file.append(line, behind); err != nil {
		return fault.New(fault.KindOf(err), "write %s of %s to the journal: %w", a.State, a.ID(), err)
	}
	j.state[a.ID()] = a
	j.compact()
	return nil
}

// Forget removes id; that the journal does not hold it is no error.
func (j *Journal) Forget(id cluster.EndpointID) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, ok := j.state[id]; !ok {
		return nil
	}
	line, err := record{Forget: &id}.encode()
	if err == nil {
		err = j.file.append(line, 0)
	}
	if err != nil {
		return fault.New(fault.KindOf(err), "forget %s in the journal: %w", id, err)
	}
	delete(j.state, id)
	j.compact()
	return nil
}

// Get returns what the journal holds of id.
func (j *Journal) Get(id cluster.EndpointID) (Attachment, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	a, ok := j.state[id]
	return a, ok
}

// List returns everything, sorted by ID. The slice is the caller's; Results
// are shared and must not be changed.
func (j *Journal) List() []Attachment {
	j.mu.Lock()
	defer j.mu.Unlock()
	return sorted(j.state)
}

// Find returns what match accepts, in no order. It is List for those who look
// for a few among many.
func (j *Journal) Find(match func(Attachment) bool) []Attachment {
	j.mu.Lock()
	defer j.mu.Unlock()
	var found []Attachment
	for _, a := range j.state {
		if match(a) {
			found = append(found, a)
		}
	}
	return found
}

// compact rewrites the file when most of it is history. That it cannot is no
// error: the history stays, and the next change tries again.
func (j *Journal) compact() {
	if j.file.worth(len(j.state)) {
		_ = j.file.rewrite(sorted(j.state))
	}
}

func sorted(state map[cluster.EndpointID]Attachment) []Attachment {
	return slices.SortedFunc(maps.Values(state), func(a, b Attachment) int {
		return cmp.Or(cmp.Compare(a.ID().ContainerID, b.ID().ContainerID), cmp.Compare(a.ID().IfName, b.ID().IfName))
	})
}

func (a Attachment) check() error {
	if err := cniwire.CheckContainerID(a.ID().ContainerID); err != nil {
		return fault.New(fault.Invalid, "container id %w", err)
	}
	if err := cniwire.CheckIfName(a.ID().IfName); err != nil {
		return fault.New(fault.Invalid, "interface name %w", err)
	}
	if a.State != Intent && a.State != Attached && a.State != Detached {
		return fault.New(fault.Invalid, "state %q of %s is unknown", a.State, a.ID())
	}
	return nil
}
