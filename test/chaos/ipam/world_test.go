// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
)

// Errors of the simulated datastore, made once: the simulator makes millions.
var (
	errMissing   = fault.New(fault.NotFound, "simulated: not found")
	errCompare   = fault.New(fault.Conflict, "simulated: another revision")
	errRefused   = fault.New(fault.Unavailable, "simulated: refused")
	errAmbiguous = fault.New(fault.Unavailable, "simulated: %w", store.ErrAmbiguous)
)

// world is a datastore for one goroutine, without locks and copies. Revisions
// count the writes of one key, so that writes of different keys in either
// order lead to the same world.
type world struct {
	entries map[store.Key]store.Entry
	writes  map[store.Key]store.Revision // also of keys that are gone
	blind   bool                         // compare nothing: what a broken datastore would do
	lazy    bool                         // a write of what is stored already makes no new version, as in Kubernetes
	forget  func(store.Key) bool         // writes that are acknowledged and not done; nil is none
	// applied is told of each write; a nil value is a deletion.
	applied func(key store.Key, value []byte)
}

func newWorld() *world {
	return &world{entries: map[store.Key]store.Entry{}, writes: map[store.Key]store.Revision{}}
}

func (w *world) get(key store.Key) (store.Entry, error) {
	e, ok := w.entries[key]
	if !ok {
		return e, errMissing
	}
	return e, nil
}

func (w *world) list(kind store.Kind, prefix string) []store.Entry {
	var found []store.Entry
	for key, e := range w.entries {
		if key.Kind == kind && strings.HasPrefix(key.Name, prefix) {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, func(a, b store.Entry) int { return strings.Compare(a.Key.Name, b.Key.Name) })
	return found
}

func (w *world) put(key store.Key, value []byte, prev store.Revision) (store.Revision, error) {
	if w.entries[key].Revision != prev && prev != store.AnyRevision && !w.blind {
		return 0, errCompare
	}
	if now, ok := w.entries[key]; ok && w.lazy && bytes.Equal(now.Value, value) {
		return now.Revision, nil
	}
	w.writes[key]++
	rev := w.writes[key]
	if w.forget != nil && w.forget(key) {
		return rev, nil
	}
	w.entries[key] = store.Entry{Key: key, Value: value, Revision: rev}
	w.applied(key, value)
	return rev, nil
}

func (w *world) remove(key store.Key, prev store.Revision) error {
	e, ok := w.entries[key]
	switch {
	case !ok:
		return errMissing
	case e.Revision != prev && prev != store.AnyRevision && !w.blind:
		return errCompare
	}
	w.writes[key]++
	delete(w.entries, key)
	w.applied(key, nil)
	return nil
}

// op is what a call asks for.
type op uint8

// The calls, and the end of an operation, where a client decides what is next.
const (
	opGet op = iota
	opList
	opPut
	opDelete
	opCommit
	opNext
)

// call is one datastore call of a client, waiting to be carried out.
type call struct {
	op    op
	kind  store.Kind // of a list
	key   store.Key  // of the others; of a list the prefix is its name
	value []byte
	prev  store.Revision
	// writes are those of a commit; its key is the first one's.
	writes []store.Write
}

// changes says whether the call may change the datastore.
func (c *call) changes() bool { return c.op == opPut || c.op == opDelete || c.op == opCommit }

// String is the call for people.
func (c *call) String() string {
	return fmt.Sprintf("%s %s at %d", [...]string{"get", "list", "put", "delete", "commit", "next"}[c.op], c.key, c.prev)
}

// answer is what a call comes back with.
type answer struct {
	entry   store.Entry
	entries []store.Entry
	rev     store.Revision
	err     error
}

// do carries out a call.
func (w *world) do(c *call) (a answer) {
	switch c.op {
	case opGet:
		a.entry, a.err = w.get(c.key)
	case opList:
		a.entries = w.list(c.kind, c.key.Name)
	case opPut:
		a.rev, a.err = w.put(c.key, c.value, c.prev)
	case opDelete:
		a.err = w.remove(c.key, c.prev)
	case opCommit:
		a.err = w.commit(c.writes)
	}
	return a
}

// commit carries out all writes, or none.
func (w *world) commit(writes []store.Write) error {
	for _, c := range writes {
		if w.entries[c.Key].Revision != c.Prev && !w.blind {
			return errCompare
		}
	}
	for _, c := range writes {
		if c.Delete {
			_ = w.remove(c.Key, c.Prev)
		} else if _, err := w.put(c.Key, c.Value, c.Prev); err != nil {
			return err
		}
	}
	return nil
}

// link is a client's way to the datastore: each call stops the client until
// the scheduler answers it.
type link struct {
	stop func(call) answer
}

var _ store.Store = link{}

// Get reads one object.
func (l link) Get(_ context.Context, key store.Key) (store.Entry, error) {
	a := l.stop(call{op: opGet, key: key})
	return a.entry, a.err
}

// List reads the objects of a kind.
func (l link) List(_ context.Context, kind store.Kind, prefix string) ([]store.Entry, store.Revision, error) {
	a := l.stop(call{op: opList, kind: kind, key: store.Key{Kind: kind, Name: prefix}})
	return a.entries, 0, a.err
}

// Put writes an object.
func (l link) Put(_ context.Context, key store.Key, value []byte, prev store.Revision) (store.Revision, error) {
	a := l.stop(call{op: opPut, key: key, value: slices.Clone(value), prev: prev})
	return a.rev, a.err
}

// Delete removes an object.
func (l link) Delete(_ context.Context, key store.Key, prev store.Revision) error {
	return l.stop(call{op: opDelete, key: key, prev: prev}).err
}

// committing is a link to a datastore with transactions.
type committing struct{ link }

// Commit carries out all writes, or none.
func (l committing) Commit(_ context.Context, writes []store.Write) error {
	return l.stop(call{op: opCommit, key: writes[0].Key, writes: writes}).err
}

// Watch is not simulated: clients of address management do not watch.
func (l link) Watch(context.Context, store.Kind, string, store.Revision) (<-chan store.Event, error) {
	return nil, errRefused
}

// Close does nothing.
func (l link) Close() error { return nil }
