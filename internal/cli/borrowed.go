// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"net/netip"
	"slices"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/store"
)

// loan is an address that a node uses of another's block.
type loan struct {
	IP       netip.Addr   `json:"ip"`
	Borrower string       `json:"borrowingNode"`
	Block    netip.Prefix `json:"block"`
	Owner    string       `json:"blockOwner,omitempty"` // "" where the block is nobody's
	Holder   string       `json:"allocatedTo"`
}

func (g *globals) ipamBorrowed(ctx context.Context) error {
	s, err := g.openStore(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	entries, _, err := s.List(ctx, store.Block, "")
	if err != nil {
		return err
	}
	list := []loan{}
	for _, e := range entries {
		b, err := alloc.ParseBlock(e.Value)
		if err != nil {
			g.warn("read %s: %v", e.Key, err)
			continue
		}
		list = append(list, loans(b)...)
	}
	slices.SortFunc(list, func(a, b loan) int { return a.IP.Compare(b.IP) })
	return g.show(list, nil, func(bool) *table {
		t := newTable("IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "ALLOCATED-TO")
		for _, l := range list {
			t.add(l.IP.String(), l.Borrower, l.Block.String(), dash(l.Owner), l.Holder)
		}
		return t
	})
}

// loans are the addresses of b that other nodes use.
func loans(b *alloc.Block) []loan {
	owner, _ := b.Node()
	var list []loan
	for _, addr := range b.HeldBy(func(who alloc.Attribute) bool { return borrower(b, who) != "" }) {
		who, _ := b.Holder(addr)
		list = append(list, loan{addr, borrower(b, who), b.CIDR, owner, who.String()})
	}
	return list
}

// borrower is the node of a holder that is not the block's, "" where it is or
// where no node is known.
func borrower(b *alloc.Block, who alloc.Attribute) string {
	if node := who.Secondary[alloc.AttrNode]; !b.OwnedBy(node) {
		return node
	}
	return ""
}
