// SPDX-License-Identifier: Apache-2.0

package mem

import (
	"context"
	"slices"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
)

// Commit carries out all writes, at one revision, if every object still is at
// its own; else none.
func (s *Store) Commit(ctx context.Context, writes []store.Write) error {
	if err := store.CheckWrites(writes); err != nil {
		return err
	}
	unlock, err := s.lock(ctx, "commit")
	if err != nil {
		return err
	}
	defer unlock()
	for _, w := range writes {
		if at := s.entries[w.Key].Revision; at != w.Prev {
			return fault.New(fault.Conflict, "commit %s: at revision %d, not %d", w.Key, at, w.Prev)
		}
	}
	s.rev++
	for _, w := range writes {
		e := store.Entry{Key: w.Key, Revision: s.rev}
		if w.Delete {
			delete(s.entries, w.Key)
		} else {
			e.Value = slices.Clone(w.Value)
			s.entries[w.Key] = e
		}
		s.record(store.Event{Entry: e, Deleted: w.Delete})
	}
	return nil
}
