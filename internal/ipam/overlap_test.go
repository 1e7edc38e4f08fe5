// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/mem"
	cases "github.com/ocicat-net/ocicat/test/chaos"
)

// TestOverlappingBlocksAreNotClaimed changes a pool's blockSize behind the
// back of its blocks, both ways: no block is claimed that shares an address
// with a stored one.
func TestOverlappingBlocksAreNotClaimed(t *testing.T) {
	r := cases.Begin(t, "B7", "blockSize of a pool with blocks changed by a raw edit, from 26 to 28 and 30, from 28 to 26 and from 124 to 122", "0 blocks claimed that overlap stored ones, and the error names one")
	claimed, apart := 0, 0
	for _, change := range []struct {
		pool     string
		from, to int
	}{{"10.0.0.0/24", 26, 28}, {"10.0.0.0/24", 28, 26}, {"10.0.0.0/24", 26, 30}, {"fd00:0:0:1:1::/120", 124, 122}} {
		pool := cluster.Pool{Name: "p", CIDR: netip.MustParsePrefix(change.pool), BlockSize: change.from}
		s := mem.New()
		c := NewClient(ClientConfig{Store: s, Pools: func(context.Context) ([]cluster.Pool, error) { return []cluster.Pool{pool}, nil }, NodeLabels: noLabels})
		req := AssignRequest{Use: Workload, Family: cidr.Family(pool.CIDR.Addr()), Num: 1}
		for _, node := range []string{"a", "b"} {
			req.Node = node
			if _, err := c.AutoAssign(t.Context(), req); err != nil {
				t.Fatal(err)
			}
		}
		pool.BlockSize = change.to
		var err error
		for n := 0; err == nil; n++ {
			req.Node = fmt.Sprint("n", n)
			if _, err = c.AutoAssign(t.Context(), req); err == nil {
				claimed++
			}
		}
		if !fault.Is(err, fault.Exhausted) || !strings.Contains(err.Error(), "overlaps block") || !strings.Contains(fault.HintOf(err), fmt.Sprint(change.from)) {
			t.Errorf("%+v: in the end %v", change, err)
		}
		apart += disjoint(t, s)
	}
	r.Measuredf("0 of %d blocks overlap another, %d claimed after the change", apart, claimed)
	r.Twinf("%d overlaps found in blocks written without asking", overlapsOf(netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("10.0.0.64/26")))
}

// disjoint checks that no two stored blocks overlap and answers how many
// there are.
func disjoint(t *testing.T, s *mem.Store) int {
	entries, _, err := s.List(t.Context(), store.Block, "")
	if err != nil {
		t.Fatal(err)
	}
	var all []netip.Prefix
	for _, e := range entries {
		p, err := names.ParseBlock(e.Key.Name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if n := overlapsOf(all...); n > 0 {
		t.Errorf("%d pairs of %v overlap", n, all)
	}
	return len(all)
}

func overlapsOf(all ...netip.Prefix) int {
	n := 0
	for i, p := range all {
		for _, q := range all[:i] {
			if p.Overlaps(q) {
				n++
			}
		}
	}
	return n
}

// TestSharedText checks that the names of all blocks inside a block start as
// sharedText says.
func TestSharedText(t *testing.T) {
	for _, text := range []string{"10.0.0.0/26", "10.0.16.0/20", "10.1.2.8/29", "10.1.2.192/29", "fd00::/116", "fd00:0:0:1:1::/122", "fd00::1:0/122", "fd00::1:f0/124"} {
		p := netip.MustParsePrefix(text)
		if !alloc.Fits(p, p.Bits()) {
			t.Errorf("%s is no block", p)
		}
		for n := range cidr.Size(p) {
			addr := cidr.At(p, n)
			for bits := p.Bits(); bits <= addr.BitLen(); bits++ {
				if q := cidr.BlockOf(addr, bits); !strings.HasPrefix(names.Block(q), sharedText(p)) {
					t.Fatalf("%s does not start with %q", q, sharedText(p))
				}
			}
		}
	}
}
