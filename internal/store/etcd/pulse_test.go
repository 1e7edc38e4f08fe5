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
// nothing comes, as from a frozen etcd, and wants every watch closed and the
// list after it refused within 10 s; while etcd answers, the watch of a quiet
// kind lives longer than that.
func TestFrozenServerIsNoticed(t *testing.T) {
	t.Parallel()
	r := chaos.Begin(t, "E3", "the connection to a real etcd stays up, nothing comes over it", "noticed in < 10 s, the next list says so at once")
	s, p := through(t, server(t, 0), 5*time.Second)
	ended := make(chan store.Kind, 10)
	kinds := []store.Kind{store.BGPPeer, store.IPPool, store.IPReservation, store.Block, store.Affinity}
	for _, kind := range kinds { // they share their signs of life
		events, err := s.Watch(t.Context(), kind, "", 0)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for range events {
				t.Error("an event of a quiet kind")
			}
			ended <- kind
		}()
	}
	select {
	case kind := <-ended:
		t.Errorf("the watch of %s, a quiet kind, ended", kind)
	case <-time.After(11 * time.Second):
	}
	start := time.Now()
	p.set(true, false)
	for range kinds {
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Fatal("a watch is open after 20s of silence")
		}
	}
	_, _, err := s.List(t.Context(), store.BGPPeer, "")
	took := time.Since(start)
	r.Measuredf("noticed after %.1f s: %q", took.Seconds(), err)
	r.Twinf("a quiet kind for 11 s while etcd answers: the watch stays")
	if took > 10*time.Second || !fault.Is(err, fault.Unavailable) {
		t.Errorf("noticed after %v with %v, want less than 10s and it unavailable", took, err)
	}
}
