// SPDX-License-Identifier: Apache-2.0

// Package mem is the datastore in memory: for tests, and for programs that
// model a cluster. It behaves as the real back ends do, storetest proves it,
// and it is fast enough for property tests. Nothing outlives the process.
package mem

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
)

// history is how many changes are kept for watches to resume from. A watch
// that falls further behind is closed, as by a compaction.
const history = 16384

// Store is a datastore in memory. Make one with New; it is safe for
// concurrent use.
type Store struct {
	mu      sync.Mutex
	rev     store.Revision
	entries map[store.Key]store.Entry
	log     []store.Event  // the last changes, oldest first
	floor   store.Revision // changes up to and including this one are not in log
	changed chan struct{}  // closed and replaced at each change
	closed  bool
}

var _ store.Store = (*Store)(nil)

// New returns an empty datastore.
func New() *Store {
	return &Store{entries: map[store.Key]store.Entry{}, changed: make(chan struct{})}
}

// Get reads one object.
func (s *Store) Get(ctx context.Context, key store.Key) (store.Entry, error) {
	if err := key.Validate(); err != nil {
		return store.Entry{}, err
	}
	unlock, err := s.lock(ctx, "get "+key.String())
	if err != nil {
		return store.Entry{}, err
	}
	defer unlock()
	e, ok := s.entries[key]
	if !ok {
		return store.Entry{}, fault.New(fault.NotFound, "get %s: not found", key)
	}
	return clone(e), nil
}

// List reads the objects of a kind whose names start with prefix.
func (s *Store) List(ctx context.Context, kind store.Kind, prefix string) ([]store.Entry, store.Revision, error) {
	if err := store.CheckList(kind, prefix); err != nil {
		return nil, 0, err
	}
	unlock, err := s.lock(ctx, "list "+string(kind))
	if err != nil {
		return nil, 0, err
	}
	defer unlock()
	var found []store.Entry
	for key, e := range s.entries {
		if key.Kind == kind && strings.HasPrefix(key.Name, prefix) {
			found = append(found, clone(e))
		}
	}
	slices.SortFunc(found, func(a, b store.Entry) int { return strings.Compare(a.Key.Name, b.Key.Name) })
	return found, s.rev, nil
}

// Put writes an object if its revision still is prev.
func (s *Store) Put(ctx context.Context, key store.Key, value []byte, prev store.Revision) (store.Revision, error) {
	if err := store.CheckPut(key, value); err != nil {
		return 0, err
	}
	unlock, err := s.lock(ctx, "put "+key.String())
	if err != nil {
		return 0, err
	}
	defer unlock()
	if at := s.entries[key].Revision; prev != store.AnyRevision && prev != at {
		return 0, fault.New(fault.Conflict, "put %s: at revision %d, not %d", key, at, prev)
	}
	s.rev++
	e := store.Entry{Key: key, Value: slices.Clone(value), Revision: s.rev}
	s.entries[key] = e
	s.record(store.Event{Entry: e})
	return s.rev, nil
}

// Delete removes an object if its revision still is prev.
func (s *Store) Delete(ctx context.Context, key store.Key, prev store.Revision) error {
	if err := key.Validate(); err != nil {
		return err
	}
	unlock, err := s.lock(ctx, "delete "+key.String())
	if err != nil {
		return err
	}
	defer unlock()
	e, ok := s.entries[key]
	if !ok {
		return fault.New(fault.NotFound, "delete %s: not found", key)
	}
	if prev != store.AnyRevision && prev != e.Revision {
		return fault.New(fault.Conflict, "delete %s: at revision %d, not %d", key, e.Revision, prev)
	}
	s.rev++
	delete(s.entries, key)
	s.record(store.Event{Entry: store.Entry{Key: key, Revision: s.rev}, Deleted: true})
	return nil
}

// Watch streams every change of a kind and prefix after revision since.
func (s *Store) Watch(ctx context.Context, kind store.Kind, prefix string, since store.Revision) (<-chan store.Event, error) {
	if err := store.CheckList(kind, prefix); err != nil {
		return nil, err
	}
	unlock, err := s.lock(ctx, "watch "+string(kind))
	if err != nil {
		return nil, err
	}
	unlock()
	out := make(chan store.Event)
	go s.stream(ctx, out, since, func(k store.Key) bool {
		return k.Kind == kind && strings.HasPrefix(k.Name, prefix)
	})
	return out, nil
}

// Compact forgets the changes up to and including rev: watches that still
// need them close. Tests use it; real stores compact by themselves.
func (s *Store) Compact(rev store.Revision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := 0
	for at < len(s.log) && s.log[at].Entry.Revision <= rev {
		at++
	}
	s.log = slices.Clone(s.log[at:])
	s.floor = max(s.floor, min(rev, s.rev))
	s.wake()
}

// Close ends all watches; every later call is Unavailable.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		s.wake()
	}
	return nil
}

// lock takes the lock unless ctx has ended or the store is closed.
func (s *Store) lock(ctx context.Context, what string) (unlock func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, fault.New(fault.Unavailable, "%s: %w", what, err)
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, fault.New(fault.Unavailable, "%s: the store is closed", what)
	}
	return s.mu.Unlock, nil
}

func (s *Store) record(ev store.Event) {
	s.log = append(s.log, ev)
	if len(s.log) >= 2*history {
		s.floor = s.log[history-1].Entry.Revision
		s.log = slices.Clone(s.log[history:])
	}
	s.wake()
}

func (s *Store) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// stream sends matching changes after since until ctx ends, the store closes
// or a change it still needs is forgotten.
func (s *Store) stream(ctx context.Context, out chan<- store.Event, since store.Revision, match func(store.Key) bool) {
	defer close(out)
	for {
		events, changed, ok := s.after(since)
		if !ok {
			return
		}
		for _, ev := range events {
			since = ev.Entry.Revision
			if !match(ev.Entry.Key) {
				continue
			}
			ev.Entry = clone(ev.Entry)
			select {
			case out <- ev:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// after returns the changes after since and a channel that closes at the next
// one; not ok if the store is closed or some of them are forgotten.
func (s *Store) after(since store.Revision) (events []store.Event, changed <-chan struct{}, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || since < s.floor {
		return nil, nil, false
	}
	at, found := slices.BinarySearchFunc(s.log, since, func(ev store.Event, rev store.Revision) int {
		switch {
		case ev.Entry.Revision < rev:
			return -1
		case ev.Entry.Revision > rev:
			return 1
		}
		return 0
	})
	if found {
		at++
	}
	return s.log[at:], s.changed, true
}

func clone(e store.Entry) store.Entry {
	e.Value = slices.Clone(e.Value)
	return e
}
