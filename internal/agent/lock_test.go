// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/store"
)

// lockedStore is a datastore that is locked as told, and refuses what the lock
// forbids.
type lockedStore struct {
	store.Store
	locked  atomic.Bool
	changes chan bool
}

func (s *lockedStore) FollowLock(ctx context.Context, changed func(bool)) {
	for {
		select {
		case locked := <-s.changes:
			s.locked.Store(locked)
			changed(locked)
		case <-ctx.Done():
			return
		}
	}
}

func (s *lockedStore) Put(ctx context.Context, key store.Key, value []byte, prev store.Revision) (store.Revision, error) {
	switch key.Kind {
	case store.Block, store.Affinity, store.Handle:
		if s.locked.Load() {
			return 0, fault.New(fault.Unavailable, "put %s: locked", key)
		}
	}
	return s.Store.Put(ctx, key, value, prev)
}

// TestLockedDatastore: while the datastore is locked a new pod is told to come
// again although the reserve has addresses, one that is there gets its answer
// again, DEL works, and what it released is written once the lock is gone.
func TestLockedDatastore(t *testing.T) {
	n := newNode(t)
	s := &lockedStore{Store: n.cfg.Store, changes: make(chan bool)}
	n.cfg.Store = s
	n.start()
	there := n.pod("web", "c1")
	n.add(there)
	nstest.Eventually(t, 5*time.Second, func() bool { return len(n.handles()) == 1 && n.agent.Report().Status.Counts.ReserveHeld == 16 }, "the address is written, the reserve full")
	s.changes <- true
	locked := func() bool {
		for _, p := range n.agent.Report().Status.Problems {
			if p.Code == string(problem.StoreLocked) {
				return true
			}
		}
		return false
	}
	nstest.Eventually(t, 5*time.Second, locked, "OC5011 is reported")
	next := n.pod("web-2", "c2")
	if _, err := n.agent.Add(t.Context(), next.req); !fault.Is(err, fault.Unavailable) || fault.HintOf(err) == "" {
		t.Errorf("a new pod: %v, want unavailable with a hint", err)
	}
	n.add(there)
	n.del(there)
	if len(n.handles()) != 1 {
		t.Error("the release is written while the datastore is locked")
	}
	s.changes <- false
	nstest.Eventually(t, 30*time.Second, func() bool { return len(n.handles()) == 0 && !locked() }, "the release is written, OC5011 gone")
	n.add(next)
}
