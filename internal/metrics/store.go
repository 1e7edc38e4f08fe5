// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
)

// Store is a datastore whose calls are counted. Make one with NewStore.
type Store struct {
	store.Store
	counts *Counts
	newest atomic.Uint64
	beat   atomic.Pointer[time.Time] // of the last heartbeat that was written
}

// NewStore counts the calls to s.
func NewStore(s store.Store, counts *Counts) *Store { return &Store{Store: s, counts: counts} }

// Get reads one object.
func (s *Store) Get(ctx context.Context, key store.Key) (store.Entry, error) {
	start := time.Now()
	entry, err := s.Store.Get(ctx, key)
	s.count("get", start, err)
	s.saw(entry.Revision)
	return entry, err
}

// List reads all objects of a kind whose names start with prefix.
func (s *Store) List(ctx context.Context, kind store.Kind, prefix string) ([]store.Entry, store.Revision, error) {
	start := time.Now()
	entries, rev, err := s.Store.List(ctx, kind, prefix)
	s.count("list", start, err)
	s.saw(rev)
	return entries, rev, err
}

// Put writes an object if its revision still is prev.
func (s *Store) Put(ctx context.Context, key store.Key, value []byte, prev store.Revision) (store.Revision, error) {
	start := time.Now()
	rev, err := s.Store.Put(ctx, key, value, prev)
	s.count("put", start, err)
	s.saw(rev)
	if err == nil && key.Kind == store.Heartbeat {
		s.beat.Store(&start)
	}
	return rev, err
}

// Delete removes an object if its revision still is prev.
func (s *Store) Delete(ctx context.Context, key store.Key, prev store.Revision) error {
	start := time.Now()
	err := s.Store.Delete(ctx, key, prev)
	s.count("delete", start, err)
	return err
}

// Commit carries out all writes as one, or none; errors.ErrUnsupported if the
// datastore cannot.
func (s *Store) Commit(ctx context.Context, writes []store.Write) error {
	inner, ok := s.Store.(interface {
		Commit(ctx context.Context, writes []store.Write) error
	})
	if !ok {
		return errors.ErrUnsupported
	}
	start := time.Now()
	err := inner.Commit(ctx, writes)
	s.count("commit", start, err)
	return err
}

// Watch streams every change of a kind and prefix after revision since.
func (s *Store) Watch(ctx context.Context, kind store.Kind, prefix string, since store.Revision) (<-chan store.Event, error) {
	start := time.Now()
	events, err := s.Store.Watch(ctx, kind, prefix, since)
	s.count("watch", start, err)
	return events, err
}

func (s *Store) count(op string, start time.Time, err error) {
	outcome := result(err)
	if fault.Is(err, fault.NotFound) {
		outcome = "ok" // it answered
	}
	s.counts.Add("ocicat_datastore_calls_total", 1, op, outcome)
	s.counts.Observe("ocicat_datastore_call_duration_seconds", time.Since(start), op)
}

// saw remembers the newest revision.
func (s *Store) saw(rev store.Revision) {
	for {
		known := s.newest.Load()
		if uint64(rev) <= known || s.newest.CompareAndSwap(known, uint64(rev)) {
			return
		}
	}
}

// Collect adds what is known of the datastore itself to a page.
func (s *Store) Collect(p *Page) {
	p.Set("ocicat_datastore_revision", float64(s.newest.Load()))
	if beat := s.beat.Load(); beat != nil {
		p.Set("ocicat_datastore_heartbeat_age_seconds", time.Since(*beat).Seconds())
	}
}
