// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/storetest"
)

// These tests run in synctest's bubbles: their sleeps pass in no time, and only
// once everybody waits.

// withPod is a node with a pod, which has looked at its blocks since.
func withPod(t *testing.T) (*site, *agent, netip.Addr) {
	s := newSite(t)
	a := s.run(ReserveConfig{Node: "n1", Size: 4})
	addr := s.take(a, "pod")
	time.Sleep(2 * checkInterval)
	return s, a, addr
}

// reads is how often the datastore was read.
func (a *agent) reads() int { return a.store.Calls(storetest.OpGet) + a.store.Calls(storetest.OpList) }

// blockWith is the block of addr, as stored.
func (s *site) blockWith(addr netip.Addr) (store.Entry, *alloc.Block) {
	s.t.Helper()
	e, err := s.mem.Get(s.t.Context(), blockKey(cidr.BlockOf(addr, 26)))
	if err != nil {
		s.t.Fatal(err)
	}
	b, err := alloc.ParseBlock(e.Value)
	if err != nil {
		s.t.Fatal(err)
	}
	return e, b
}

// TestIdleReadsNothing: while nobody changes anything a node reads nothing.
func TestIdleReadsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, a, addr := withPod(t)
		before, beats := a.reads(), a.store.Calls(storetest.OpPut)
		time.Sleep(20 * checkInterval)
		if n := a.reads() - before; n > 0 {
			t.Errorf("%d reads in 20 minutes", n)
		}
		if n := a.store.Calls(storetest.OpPut) - beats; n < 18 || n > 21 {
			t.Errorf("%d writes in 20 minutes, want a heartbeat a minute", n)
		}
		if got := s.holder(addr); got != "pod" {
			t.Errorf("%s is held by %s", addr, got)
		}
	})
}

// TestWatchesTell: what others do to a node's blocks, it mends at once.
func TestWatchesTell(t *testing.T) {
	for name, harm := range map[string]func(*site, *agent, netip.Addr) error{
		"address released": func(s *site, _ *agent, _ netip.Addr) error {
			return s.client(s.mem).ReleaseByHandle(s.t.Context(), "pod")
		},
		"block deleted": func(s *site, _ *agent, addr netip.Addr) error {
			e, _ := s.blockWith(addr)
			return s.mem.Delete(s.t.Context(), e.Key, e.Revision)
		},
		"claim deleted and written again": func(s *site, a *agent, addr netip.Addr) error {
			key := affinityKey("n1", cidr.BlockOf(addr, 26))
			e, err := s.mem.Get(s.t.Context(), key)
			if err != nil {
				return err
			}
			if err := s.mem.Delete(s.t.Context(), key, e.Revision); err != nil {
				return err
			}
			settle()
			if got := a.Blocks(); len(got) != 0 {
				s.t.Errorf("blocks without a claim: %v", got)
			}
			_, err = s.mem.Put(s.t.Context(), key, e.Value, 0)
			return err
		},
		"watches broken meanwhile": func(s *site, a *agent, _ netip.Addr) error {
			a.store.BreakWatches()
			return s.client(s.mem).ReleaseByHandle(s.t.Context(), "pod")
		},
		"datastore away meanwhile": func(s *site, a *agent, _ netip.Addr) error {
			a.store.Inject(storetest.Rule{Effect: storetest.Refuse})
			a.store.BreakWatches()
			settle()
			err := s.client(s.mem).ReleaseByHandle(s.t.Context(), "pod")
			a.store.Heal()
			settle() // it tries again
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, a, addr := withPod(t)
				if err := harm(s, a, addr); err != nil {
					t.Fatal(err)
				}
				settle()
				if got := s.holder(addr); got != "pod" {
					t.Errorf("%s is held by %s", addr, got)
				}
				if _, b := s.blockWith(addr); !b.OwnedBy("n1") {
					t.Errorf("the block is %s", ownerOf(b))
				}
				time.Sleep(2 * checkInterval)
				want := []cluster.Block{{CIDR: cidr.BlockOf(addr, 26), Confirmed: true}}
				if got := a.Blocks(); len(got) != 1 || got[0] != want[0] {
					t.Errorf("blocks: %v, want %v", got, want)
				}
				if claims, err := s.client(s.mem).claims(t.Context(), "n1"); err != nil || len(claims) != 1 || claims[0].state != alloc.Confirmed {
					t.Errorf("claims: %v, %v", claims, err)
				}
			})
		})
	}
}

// TestNewsAreBounded: somebody who writes against a node at every change of its
// block does not keep it busy.
func TestNewsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, a, addr := withPod(t)
		events, err := s.mem.Watch(t.Context(), store.Block, "", 0)
		if err != nil {
			t.Fatal(err)
		}
		before, released := a.store.Calls(storetest.OpPut), 0
		end := time.After(time.Minute)
		for running := true; running; {
			select {
			case <-events:
				if s.holder(addr) == "pod" {
					if err := s.client(s.mem).ReleaseByHandle(t.Context(), "pod"); err != nil {
						t.Fatal(err)
					}
					released++
				}
			case <-end:
				running = false
			}
		}
		if writes := a.store.Calls(storetest.OpPut) - before; released < 30 || writes > 4*61 {
			t.Errorf("%d writes for %d releases in a minute", writes, released)
		}
	})
}

// TestMissedNews: what a watch lost is found when all is read again.
func TestMissedNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, a, addr := withPod(t)
		a.store.DropEvents(func(store.Event) bool { return true })
		if err := s.client(s.mem).ReleaseByHandle(t.Context(), "pod"); err != nil {
			t.Fatal(err)
		}
		settle()
		if got := s.holder(addr); got != "free" {
			t.Fatalf("%s is held by %s: the event was not lost", addr, got)
		}
		time.Sleep(relist)
		if got := s.holder(addr); got != "pod" {
			t.Errorf("%s is held by %s", addr, got)
		}
	})
}
