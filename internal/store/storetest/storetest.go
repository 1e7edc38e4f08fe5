// SPDX-License-Identifier: Apache-2.0

// Package storetest proves that a datastore keeps the contract of package
// store: one suite for every back end. It also wraps a store with faults, so
// that users of stores can be tested against what real ones do on bad days.
package storetest

import (
	"bytes"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
)

// patience is how long a test waits for what must happen. It is reached only
// by a test that fails.
const patience = 20 * time.Second

// Options are what a store that does not keep every value of every kind asks of
// the suite.
type Options struct {
	// Without is a kind that the store holds under rules of its own. The suite
	// uses nodes as its example; open's store must take them nevertheless.
	Without store.Kind
	// Room is how many bytes open's store adds to a value.
	Room int
}

// Run runs the conformance suite; open makes an empty store for each test,
// which the suite closes.
func Run(t *testing.T, open func(t *testing.T) store.Store) { RunWith(t, Options{}, open) }

// RunWith is Run for a store that asks something of the suite.
func RunWith(t *testing.T, o Options, open func(t *testing.T) store.Store) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s store.Store)
	}{
		{"create read update delete", testLifecycle},
		{"create if absent", testCreateIfAbsent},
		{"compare and swap", testCompareAndSwap},
		{"delete missing", testDeleteMissing},
		{"every kind", func(t *testing.T, s store.Store) { testEveryKind(t, s, o.Without) }},
		{"kinds do not mix", testKindsApart},
		{"list prefix and order", testList},
		{"one block", testListBlock},
		{"revisions grow", testRevisionsGrow},
		{"values", func(t *testing.T, s store.Store) { testValues(t, s, store.MaxValue-o.Room) }},
		{"value is copied", testValueCopied},
		{"invalid keys", testInvalidKeys},
		{"ended context", testEndedContext},
		{"closed store", testClosedStore},
		{"one of many writers wins", testOneWinner},
		{"concurrent increments", testIncrements},
		{"watch order", testWatchOrder},
		{"watch resumes", testWatchResumes},
		{"watch sees its kind and prefix only", testWatchScope},
		{"watch ends with its context", testWatchEnds},
		{"watch ends with the store", testWatchEndsWithStore},
		{"list and watch leave no gap", testNoGap},
		{"slow watcher misses nothing", testSlowWatcher},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := open(t)
			t.Cleanup(func() { _ = s.Close() })
			test.run(t, s)
		})
	}
}

func node(name string) store.Key { return store.Key{Kind: store.Node, Name: name} }

func mustPut(t *testing.T, s store.Store, key store.Key, value string, prev store.Revision) store.Revision {
	t.Helper()
	rev, err := s.Put(t.Context(), key, []byte(value), prev)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func mustGet(t *testing.T, s store.Store, key store.Key) store.Entry {
	t.Helper()
	e, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func mustDelete(t *testing.T, s store.Store, key store.Key, prev store.Revision) {
	t.Helper()
	if err := s.Delete(t.Context(), key, prev); err != nil {
		t.Fatal(err)
	}
}

func mustList(t *testing.T, s store.Store, kind store.Kind, prefix string) ([]store.Entry, store.Revision) {
	t.Helper()
	entries, rev, err := s.List(t.Context(), kind, prefix)
	if err != nil {
		t.Fatal(err)
	}
	return entries, rev
}

func mustWatch(t *testing.T, s store.Store, kind store.Kind, prefix string, since store.Revision) <-chan store.Event {
	t.Helper()
	events, err := s.Watch(t.Context(), kind, prefix, since)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// next is the next event of a watch that must have one.
func next(t *testing.T, events <-chan store.Event) store.Event {
	t.Helper()
	select {
	case ev, open := <-events:
		if !open {
			t.Fatal("the watch closed, want an event")
		}
		return ev
	case <-time.After(patience):
		t.Fatal("no event")
	}
	return store.Event{}
}

// drained waits until a watch closes.
func drained(t *testing.T, events <-chan store.Event) {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case _, open := <-events:
			if !open {
				return
			}
		case <-deadline:
			t.Fatal("the watch stays open")
		}
	}
}

func wantKind(t *testing.T, what string, err error, kind fault.Kind) {
	t.Helper()
	if !fault.Is(err, kind) {
		t.Errorf("%s: %v, want %v", what, err, kind)
	}
}

func wantEntry(t *testing.T, got store.Entry, key store.Key, value string, rev store.Revision) {
	t.Helper()
	if got.Key != key || !bytes.Equal(got.Value, []byte(value)) || got.Revision != rev {
		t.Errorf("got %v %.40q at %d, want %v %.40q at %d", got.Key, got.Value, got.Revision, key, value, rev)
	}
}

func listed(entries []store.Entry) []string {
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Key.Name)
	}
	return names
}
