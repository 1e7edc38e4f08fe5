// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	cases "github.com/ocicat-net/ocicat/test/chaos"
)

// narrow is a site with as many blocks of eight addresses as given, whose
// nodes may borrow.
func narrow(t *testing.T, blocks int) *site {
	bits := 29
	for n := 1; n < blocks; n *= 2 {
		bits--
	}
	s := newSite(t, cluster.Pool{Name: "narrow", CIDR: netip.PrefixFrom(netip.MustParseAddr("10.0.0.0"), bits), BlockSize: 29})
	s.borrow = true
	return s
}

// pair runs two nodes, each with a first pod and so a block.
func (s *site) pair(first ReserveConfig) (n1, n2 *agent) {
	first.Node, first.Size = "n1", 2
	n1, n2 = s.run(first), s.run(ReserveConfig{Node: "n2", Size: 2})
	settle()
	s.take(n1, "first-1")
	s.take(n2, "first-2")
	settle()
	return n1, n2
}

// settle lets everything under way end.
func settle() {
	time.Sleep(5 * time.Second)
	synctest.Wait()
}

// fill takes addresses until none is left, and returns them and the last
// error.
func (s *site) fill(a *agent, prefix string) ([]netip.Addr, error) {
	var all []netip.Addr
	for {
		addr, err := a.Take(s.t.Context(), Claim{Handle: fmt.Sprint(prefix, len(all))})
		if err != nil {
			return all, err
		}
		all = append(all, addr)
	}
}

// TestBorrowing fills a node's own block: it borrows what the other node's
// block has free, never what that node holds ready, and gives it back.
func TestBorrowing(t *testing.T) {
	record := cases.Begin(t, "B10", "own block full, no block left, the other node holds 2 of its 8 ready", "all free addresses of the other's block lent, 0 of those held ready")
	synctest.Test(t, func(t *testing.T) {
		s := narrow(t, 2)
		n1, n2 := s.pair(ReserveConfig{})
		own := n1.Blocks()[0].CIDR
		given, err := s.fill(n1, "pod-")
		if !fault.Is(err, fault.Exhausted) {
			t.Fatalf("at the end: %v, want exhausted", err)
		}
		lent := slices.DeleteFunc(slices.Clone(given), own.Contains)
		if len(given) != 12 || len(lent) != 5 {
			t.Errorf("%d given, %d of them borrowed, want 12 and 5", len(given), len(lent))
		}
		if st := n2.State(); st.Held != 2 {
			t.Errorf("the other's reserve holds %d, want 2", st.Held)
		}
		for _, text := range []string{"pool narrow 10.0.0.0/28 has 16 addresses: 14 in use, 2 held ready, 0 reserved, 0 free", "used by n1 (13), n2 (3)"} {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("error %v does not say %q", err, text)
			}
		}
		record.Measuredf("%d of 5 free addresses lent, %d of 2 held ready", len(lent), 2-n2.State().Held)
		for i, addr := range given {
			n1.Release(fmt.Sprint("pod-", i), addr, nil)
		}
		settle()
		for _, addr := range lent {
			if who := s.holder(addr); who != "free" {
				t.Errorf("%s is held by %s after its release", addr, who)
			}
		}
		if len(n1.foreign) > 1 { // none, once it has looked again
			t.Errorf("blocks borrowed from: %v", n1.foreign)
		}
	})
}

// TestStrictAffinityForbidsBorrowing is the twin: the same with strict
// affinity ends with the own block.
func TestStrictAffinityForbidsBorrowing(t *testing.T) {
	record := cases.Begin(t, "B10", "the same with strictAffinity", "0 addresses lent, and the error says why")
	synctest.Test(t, func(t *testing.T) {
		s := narrow(t, 2)
		if err := s.client(s.mem).SetConfig(t.Context(), alloc.Config{StrictAffinity: true, AutoAllocate: true}); err != nil {
			t.Fatal(err)
		}
		n1, _ := s.pair(ReserveConfig{})
		given, err := s.fill(n1, "pod-")
		if len(given) != 7 || !fault.Is(err, fault.Exhausted) || !strings.Contains(err.Error(), "strictAffinity keeps it to its own blocks") {
			t.Errorf("%d given, then %v", len(given), err)
		}
		own := n1.Blocks()[0].CIDR
		record.Measuredf("%d of %d addresses lent", len(slices.DeleteFunc(slices.Clone(given), own.Contains)), len(given))
		foreign := netip.MustParseAddr("10.0.0.5")
		if own.Contains(foreign) {
			foreign = netip.MustParseAddr("10.0.0.13")
		}
		_, err = n1.Take(t.Context(), Claim{Handle: "static", Want: foreign})
		if !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "belongs to node n2") {
			t.Errorf("an address of another's block: %v, want a conflict naming n2", err)
		}
	})
}

// TestExhaustedIsSaid fills the pool, so that nothing can be claimed or
// borrowed: STATUS says so until an address comes back, on this node or another.
func TestExhaustedIsSaid(t *testing.T) {
	record := cases.Begin(t, "A16", "pool full on both nodes, nothing to borrow; then an address comes back on the other node, and on this one", "an ADD would fail: Exhausted (50); else not")
	synctest.Test(t, func(t *testing.T) {
		s := narrow(t, 2)
		n1, n2 := s.pair(ReserveConfig{})
		before := n1.Available()
		given, err := s.fill(n1, "pod-")
		if !fault.Is(err, fault.Exhausted) || len(given) == 0 {
			t.Fatalf("%d given, then %v", len(given), err)
		}
		full := n1.Available()
		time.Sleep(10 * time.Minute)
		later := n1.Available()
		n1.Release("pod-0", given[0], nil)
		time.Sleep(time.Second)
		own := n1.Available()
		s.take(n1, "again")
		_, err = n1.Take(t.Context(), Claim{Handle: "over"})
		twice := n1.Available()
		n2.SetSize(0) // what it held ready goes back
		time.Sleep(2 * time.Minute)
		lent := n1.Available()
		if before != nil || !fault.Is(full, fault.Exhausted) || !fault.Is(later, fault.Exhausted) || own != nil || !fault.Is(err, fault.Exhausted) || !fault.Is(twice, fault.Exhausted) || lent != nil {
			t.Errorf("before %v, full %v, later %v, after a release %v, full again %v, with something to borrow %v", before, full, later, own, twice, lent)
		}
		record.Measuredf("full: Exhausted, 10 min later too: %t; after an own release and after one elsewhere an error: %t", fault.Is(later, fault.Exhausted), own != nil || lent != nil)
	})
}

// TestRequestedAddresses asks for addresses by name that are taken, lent or
// nowhere.
func TestRequestedAddresses(t *testing.T) {
	record := cases.Begin(t, "B20", "requested: held ready by this node and by another, in use, free in another's block, outside pools, in a pool for others", "each given, or refused naming who has it")
	synctest.Test(t, func(t *testing.T) {
		s := narrow(t, 4)
		s.pools = append(s.pools,
			cluster.Pool{Name: "tunnels", CIDR: netip.MustParsePrefix("10.9.0.0/24"), BlockSize: 26, AllowedUses: []string{"Tunnel"}},
			cluster.Pool{Name: "off", CIDR: netip.MustParsePrefix("10.8.0.0/24"), BlockSize: 26, Disabled: true},
			cluster.Pool{Name: "manual", CIDR: netip.MustParsePrefix("10.7.0.0/24"), BlockSize: 26, Manual: true},
		)
		n1, n2 := s.pair(ReserveConfig{})
		block1, block2 := n1.Blocks()[0].CIDR, n2.Blocks()[0].CIDR
		busy, _ := n2.Take(t.Context(), Claim{Handle: "busy", Attrs: map[string]string{alloc.AttrPod: "web-0", alloc.AttrNamespace: "shop"}})
		settle()
		right := 0
		for _, c := range []struct {
			what string
			want netip.Addr
			says string // "" is given
			kind fault.Kind
		}{
			{"held ready here", n1.queue[0], "", 0},
			{"free here", cidr.At(block1, 6), "", 0},
			{"of a manual pool", netip.MustParseAddr("10.7.0.9"), "", 0},
			{"free in another's block", cidr.At(block2, 7), "", 0},
			{"held ready by another", n2.queue[0], "held by the reserve on n2", fault.Conflict},
			{"of a pod", busy, "held by pod shop/web-0 on n2", fault.Conflict},
			{"outside pools", netip.MustParseAddr("192.0.2.1"), "in no pool", fault.Invalid},
			{"of a pool for tunnels", netip.MustParseAddr("10.9.0.1"), "its pool tunnels has allowedUses [Tunnel]", fault.Invalid},
			{"of a disabled pool", netip.MustParseAddr("10.8.0.1"), "its pool off is disabled", fault.Invalid},
		} {
			handle := "static-" + strings.NewReplacer(" ", "-", "'", "").Replace(c.what)
			got, err := n1.Take(t.Context(), Claim{Handle: handle, Want: c.want})
			settle()
			switch {
			case c.says == "" && (err != nil || got != c.want || s.holder(c.want) != handle):
				t.Errorf("%s: %s, %v, held by %s", c.what, got, err, s.holder(c.want))
			case c.says != "" && (!fault.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) || fault.HintOf(err) == "" || s.holder(c.want) == handle):
				t.Errorf("%s: %v (%v), want %v %q", c.what, err, fault.KindOf(err), c.kind, c.says)
			default:
				right++
			}
		}
		record.Measuredf("%d of 9 answered right", right)
	})
}

// TestBorrowedStrays kills an agent between the write of a borrowed address
// and the record of its pod: the next run finds the address, in the same boot
// by its note, in another by looking at all blocks, and releases it.
func TestBorrowedStrays(t *testing.T) {
	record := cases.Begin(t, "B14", "agent killed between the write of a borrowed address and its journal; same boot and another", "0 borrowed addresses left")
	for name, boot := range map[string]string{"same boot": "boot-1", "another boot": "boot-2"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				s := narrow(t, 2)
				cfg := ReserveConfig{LeaseFile: filepath.Join(dir, "lease"), BootID: "boot-1"}
				first, n2 := s.pair(cfg)
				cfg.Node, cfg.Size = "n1", 2
				given, _ := s.fill(first, "pod-")
				settle()
				first.stop()
				own := first.Blocks()[0].CIDR
				lent := slices.DeleteFunc(slices.Clone(given), own.Contains)
				if len(lent) == 0 {
					t.Fatal("nothing was borrowed")
				}
				cfg.BootID = boot
				s.run(cfg)
				time.Sleep(LeaseTime + 5*time.Minute)
				synctest.Wait()
				left := 0
				for _, addr := range lent {
					if strings.HasPrefix(s.holder(addr), "pod-") {
						left++
					}
				}
				if left > 0 || n2.State().Held != 2 {
					t.Errorf("%d of %d borrowed addresses left; the lender holds %d", left, len(lent), n2.State().Held)
				}
				record.Measuredf("%s: %d of %d left", name, left, len(lent))
			})
		})
	}
}
