// SPDX-License-Identifier: Apache-2.0

package etcd_test

import (
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// TestFrozenServerIsNoticed has a connection that stays up and over which
// nothing comes, as from a frozen etcd, and wants the watch closed and the
// list after it refused within 10 s; while etcd answers, the watch of a quiet
// kind lives longer than that.
func TestFrozenServerIsNoticed(t *testing.T) {
	t.Parallel()
	r := chaos.Begin(t, "E3", "the connection to a real etcd stays up, nothing comes over it", "noticed in < 10 s, the next list says so at once")
	s, p := through(t, server(t, 0), 5*time.Second)
	watch := func() <-chan store.Event {
		events, err := s.Watch(t.Context(), store.BGPPeer, "", 0)
		if err != nil {
			t.Fatal(err)
		}
		return events
	}
	events := watch()
	select {
	case <-events:
		t.Error("the watch of a quiet kind ended")
	case <-time.After(11 * time.Second):
	}
	start := time.Now()
	p.set(true, false)
	select {
	case <-events:
	case <-time.After(20 * time.Second):
		t.Fatal("the watch is open after 20s of silence")
	}
	_, _, err := s.List(t.Context(), store.BGPPeer, "")
	took := time.Since(start)
	r.Measuredf("noticed after %.1f s: %q", took.Seconds(), err)
	r.Twinf("a quiet kind for 11 s while etcd answers: the watch stays")
	if took > 10*time.Second || !fault.Is(err, fault.Unavailable) {
		t.Errorf("noticed after %v with %v, want less than 10s and it unavailable", took, err)
	}
}
