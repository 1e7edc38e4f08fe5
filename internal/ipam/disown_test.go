// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/fault"
)

// TestDisown leaves behind what an agent killed in the middle of an ADD does: a
// handle that counts an address it does not hold, and an address without a
// pod. The runtime's DEL frees both; that of a living pod, and of a container
// on another node, frees nothing.
func TestDisown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		a := s.run(ReserveConfig{Node: "n1", Size: 4})
		b := s.run(ReserveConfig{Node: "n2", Size: 4})
		synctest.Wait()
		living, other := s.take(a, "living"), s.take(b, "other")
		synctest.Wait()
		c := s.client(s.mem)
		block := a.Blocks()[0].CIDR
		if err := c.countAtLeast(t.Context(), "counted", block, 1); err != nil {
			t.Fatal(err)
		}
		held, err := c.AutoAssign(t.Context(), AssignRequest{Node: "n1", Handle: "held", Use: Workload, Family: 4, Num: 1, Attrs: map[string]string{alloc.AttrNode: "n1"}})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if s.holder(held[0]) != "held" {
			t.Fatalf("%s is held by %q", held[0], s.holder(held[0]))
		}
		for _, handle := range []string{"counted", "held", "living", "other", "unknown"} {
			a.Disown(handle)
		}
		time.Sleep(time.Second)
		for _, handle := range []string{"counted", "held"} {
			if _, _, err := c.handle(t.Context(), handle); !fault.Is(err, fault.NotFound) {
				t.Errorf("handle %s: %v, want it gone", handle, err)
			}
		}
		for addr, want := range map[netip.Addr]string{held[0]: "free", living: "living", other: "other"} {
			if got := s.holder(addr); got != want {
				t.Errorf("%s is held by %q, want %q", addr, got, want)
			}
		}
		if len(a.disowned) > 0 {
			t.Errorf("still disowned: %v", a.disowned)
		}
		s.take(a, "held") // the same container again
		time.Sleep(time.Second)
		if got, err := c.IPsByHandle(t.Context(), "held"); err != nil || len(got) != 1 {
			t.Errorf("added again: %v, %v", got, err)
		}
	})
}

// TestForgottenWhileAlive forgets a living node by force: it stops giving
// addresses at once, asserts its pods' again, and goes on.
func TestForgottenWhileAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		a := s.run(ReserveConfig{Node: "n1", Size: 4})
		s.run(ReserveConfig{Node: "n10", Size: 4})
		synctest.Wait()
		addr := s.take(a, "living")
		time.Sleep(time.Second)
		e, _, err := a.getHeartbeat(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.client(s.mem).Forget(t.Context(), "n1", e.Revision, "a test", DefaultTimes()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, err := a.Take(t.Context(), Claim{Handle: "early"}); !fault.Is(err, fault.Unavailable) {
			t.Errorf("a take at once: %v, want Unavailable", err)
		}
		time.Sleep(time.Second)
		if got := s.holder(addr); got != "living" {
			t.Errorf("a second later %s is held by %q", addr, got)
		}
		time.Sleep(2*DefaultTimes().Beat + time.Second)
		s.take(a, "later")
	})
}
