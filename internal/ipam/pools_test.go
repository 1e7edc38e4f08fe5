// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store/storetest"
	cases "github.com/ocicat-net/ocicat/test/chaos"
)

// TestExhaustedPool fills a pool: the error says how it stands, and an address
// that is released serves the next ADD.
func TestExhaustedPool(t *testing.T) {
	record := cases.Begin(t, "B9", "a pool of 32 addresses filled by two nodes", "error names pool, counts and biggest users; a released address serves the next ADD")
	synctest.Test(t, func(t *testing.T) {
		s := narrow(t, 4)
		n1, n2 := s.pair(ReserveConfig{})
		s.fill(n2, "two-")
		given, _ := s.fill(n1, "one-")
		s.fill(n2, "more-")
		_, err := n1.Take(t.Context(), Claim{Handle: "late"})
		for _, text := range []string{"pool narrow 10.0.0.0/27 has 32 addresses", "0 free", "used by n"} {
			if !fault.Is(err, fault.Exhausted) || !strings.Contains(err.Error(), text) || fault.HintOf(err) == "" {
				t.Errorf("error %v does not say %q", err, text)
			}
		}
		record.Measuredf("the error says: %v", err)
		last := len(given) - 1
		n1.Release(fmt.Sprint("one-", last), given[last], nil)
		start := time.Now()
		addr, err := n1.Take(t.Context(), Claim{Handle: "late"})
		if err != nil || addr != given[last] {
			t.Errorf("after a release: %s, %v, want %s", addr, err, given[last])
		}
		record.Measuredf("a released address is given %s later", time.Since(start))
	})
}

// TestBlockLimit reaches the limit of blocks, the configured one and the
// default: the error says so. Without strict affinity the node borrows instead.
func TestBlockLimit(t *testing.T) {
	record := cases.Begin(t, "B11", "maxBlocksPerHost 1 with strictAffinity; the default of 20 with blocks of one address", "the error names the limit and what to raise")
	synctest.Test(t, func(t *testing.T) {
		s := narrow(t, 4)
		if err := s.client(s.mem).SetConfig(t.Context(), alloc.Config{StrictAffinity: true, AutoAllocate: true, MaxBlocks: 1}); err != nil {
			t.Fatal(err)
		}
		a := s.run(ReserveConfig{Node: "n1", Size: 2})
		given, err := s.fill(a, "pod-")
		if len(given) != 8 || !fault.Is(err, fault.Exhausted) || !strings.Contains(err.Error(), "the node's 1 blocks are full, and that is its limit") || !strings.Contains(fault.HintOf(err), "maxBlocksPerHost") {
			t.Errorf("%d given, then %v (%s)", len(given), err, fault.HintOf(err))
		}
		record.Measuredf("after %d addresses: %v", len(given), err)
	})
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, cluster.Pool{Name: "single", CIDR: netip.MustParsePrefix("10.0.0.0/24"), BlockSize: 32})
		given, err := s.fill(s.run(ReserveConfig{Node: "n1", Size: 2}), "pod-")
		if len(given) != defaultMaxBlocks || !strings.Contains(fmt.Sprint(err), "20 blocks are full, and that is its limit") {
			t.Errorf("blocks of one: %d given, then %v", len(given), err)
		}
		record.Measuredf("blocks of one address: %d given", len(given))
	})
}

// TestPoolsChangeInUse disables, deletes and hides a pool whose addresses are
// in use: nothing new comes from it, nothing in use is lost, releases work.
func TestPoolsChangeInUse(t *testing.T) {
	record := cases.Begin(t, "B17", "a pool in use is disabled, deleted, moved to other nodes, found to overlap a network", "0 new addresses of it, those in use kept, each released")
	change := map[string]func(s *site, p *cluster.Pool){
		"disabled":          func(_ *site, p *cluster.Pool) { p.Disabled = true },
		"for other nodes":   func(_ *site, p *cluster.Pool) { p.NodeSelector = "has(nobody)" },
		"overlaps":          func(_ *site, p *cluster.Pool) { p.Unusable = "overlaps network 10.0.0.0/25 on eth0" },
		"deleted":           func(s *site, _ *cluster.Pool) { s.pools = s.pools[1:] },
		"for tunnels":       func(_ *site, p *cluster.Pool) { p.AllowedUses = []string{"Tunnel"} },
		"assigned manually": func(_ *site, p *cluster.Pool) { p.Manual = true },
	}
	for name, edit := range change {
		synctest.Test(t, func(t *testing.T) {
			old, next := netip.MustParsePrefix("10.0.0.0/25"), netip.MustParsePrefix("10.0.1.0/25")
			s := newSite(t, cluster.Pool{Name: "a", CIDR: old, BlockSize: 27}, cluster.Pool{Name: "b", CIDR: next, BlockSize: 27})
			a := s.run(ReserveConfig{Node: "n1", Size: 4})
			first := s.take(a, "first")
			settle()
			edit(s, &s.pools[0])
			a.Refresh()
			settle()
			second := s.take(a, "second")
			if !old.Contains(first) || !next.Contains(second) || s.holder(first) != "first" {
				t.Errorf("%s: first %s held by %s, second %s", name, first, s.holder(first), second)
			}
			b, _, err := s.client(s.mem).block(t.Context(), netip.PrefixFrom(first, 27).Masked())
			if err != nil || b.InUse() != 1 {
				t.Errorf("%s: the old block is %+v, %v, want one address in use: what was held ready goes back", name, b, err)
			}
			a.Release("first", first, nil)
			settle()
			if who := s.holder(first); who != "free" {
				t.Errorf("%s: %s is held by %s after its release", name, first, who)
			}
		})
	}
	record.Measuredf("%d changes, each as it should be", len(change))
}

// TestTinyBlocks gives out whole pools of blocks of one, two and four
// addresses, some reserved: every address that is not reserved, each once.
func TestTinyBlocks(t *testing.T) {
	record := cases.Begin(t, "B18", "random pools of /32, /31, /30 and /29 blocks with random reservations, first and last addresses included", "every address but the reserved ones given, each once")
	pools := 0
	rapid.Check(t, func(rt *rapid.T) {
		pools++
		bits := rapid.IntRange(29, 32).Draw(rt, "block")
		pool := netip.PrefixFrom(netip.MustParseAddr("10.0.0.0"), rapid.IntRange(28, bits).Draw(rt, "pool"))
		var kept reserved
		for _, n := range rapid.SliceOfN(rapid.IntRange(0, 15), 0, 4).Draw(rt, "reserved") {
			p, _ := netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}).Prefix(rapid.IntRange(30, 32).Draw(rt, "bits"))
			kept = append(kept, p)
		}
		want := 0
		for addr := pool.Addr(); pool.Contains(addr); addr = addr.Next() {
			if !kept.has(addr) {
				want++
			}
		}
		size := rapid.IntRange(0, 4).Draw(rt, "reserve")
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, cluster.Pool{Name: "tiny", CIDR: pool, BlockSize: bits})
			s.kept, s.borrow = kept, true
			given, err := s.fill(s.run(ReserveConfig{Node: "n1", Size: size}), "pod-")
			seen := map[netip.Addr]bool{}
			for _, addr := range given {
				if seen[addr] || kept.has(addr) || !pool.Contains(addr) {
					rt.Errorf("%s given wrongly", addr)
				}
				seen[addr] = true
			}
			if len(given) != want || !fault.Is(err, fault.Exhausted) {
				rt.Errorf("pool %s of /%d, reserved %v: %d given, want %d; then %v", pool, bits, kept, len(given), want, err)
			}
		})
	})
	record.Measuredf("%d pools, 0 violations", pools)
}

// TestSpareBlockComesAhead starts pods one by one over three blocks on a slow
// datastore: none waits for a write, as the next block is claimed while the
// last one still has addresses ready.
func TestSpareBlockComesAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		a := s.run(ReserveConfig{Node: "n1", Size: 16})
		settle()
		a.store.Inject(storetest.Rule{Op: storetest.OpPut, Delay: 20 * time.Millisecond})
		waited := 0
		for i := range 3 * 64 {
			start := time.Now()
			s.take(a, fmt.Sprint("pod-", i))
			if time.Since(start) > 0 {
				waited++
			}
			time.Sleep(200 * time.Millisecond)
			synctest.Wait()
		}
		if waited > 0 || len(a.Blocks()) < 4 {
			t.Errorf("%d of 192 pods waited for the datastore; blocks %v", waited, a.Blocks())
		}
	})
}
