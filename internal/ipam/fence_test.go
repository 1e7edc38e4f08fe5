// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocicat-net/ocicat/internal/store"
	cases "github.com/ocicat-net/ocicat/test/chaos"
)

// TestFence decides to take all from a node that is silent, lets the node come
// back, give an address and fall silent again, and only then goes on; the other node takes all it
// can get at once. Without the fence that is an address of two pods.
func TestFence(t *testing.T) {
	record := cases.Begin(t, "B12", "the collector has decided, the node comes back and gives an address, the collector goes on, another node takes what it freed", "0 addresses given twice")
	for _, fenced := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			twice, given := returning(t, fenced)
			switch {
			case fenced:
				record.Measuredf("%d given twice, the node gave %d before it had asserted its addresses", twice, given)
			default:
				record.Twinf("without the fence: %d of %d given twice", twice, given)
			}
			if fenced && twice+given > 0 || !fenced && twice == 0 {
				t.Errorf("fenced %t: %d given, %d of them twice", fenced, given, twice)
			}
		})
	}
}

// returning returns how many addresses the node gave while it was reclaimed, and
// how many of them the other node gave too.
func returning(t *testing.T, fenced bool) (twice, given int) {
	s := narrow(t, 2)
	n1, n2 := s.pair(ReserveConfig{})
	n1.stop()
	s.fill(n2, "full-")
	c := s.client(s.mem)
	e, err := s.mem.Get(t.Context(), store.Key{Kind: store.Heartbeat, Name: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	f := &nodeFence{c: c, key: e.Key, rev: e.Revision, start: time.Now(), limit: time.Hour}
	if fenced {
		if f, err = c.raiseFence(t.Context(), "n1", e.Revision, "a test", DefaultTimes()); err != nil {
			t.Fatal(err)
		}
	}
	seen, err := c.survey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	back := s.run(ReserveConfig{Node: "n1", Size: 2})
	settle()
	mine := map[netip.Addr]bool{}
	for i := range 2 {
		if addr, err := back.Take(t.Context(), Claim{Handle: fmt.Sprint("back-", i)}); err == nil {
			mine[addr] = true
		}
	}
	settle()
	back.stop() // else it would see what is taken from it
	_, err = c.takeFrom(t.Context(), seen, "n1", f, true)
	if fenced && err != nil {
		t.Errorf("take from n1: %v", err)
	}
	n2.Refresh()
	others, _ := s.fill(n2, "other-")
	for _, addr := range others {
		if mine[addr] {
			twice++
		}
	}
	return twice, len(mine)
}
