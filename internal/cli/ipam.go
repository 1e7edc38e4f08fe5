// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/convert"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/internal/resource"
	"github.com/ocicat-net/ocicat/internal/store"
)

func newIPAMCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "ipam", Short: "Show, check and repair how addresses are used"}
	c.AddCommand(newIPAMShowCommand(g), newIPAMCheckCommand(g), newIPAMReleaseCommand(g))
	return c
}

func newIPAMShowCommand(g *globals) *cobra.Command {
	var blocks, borrowed bool
	var ip string
	c := &cobra.Command{
		Use:   "show",
		Short: "Show the use of pools, blocks or one address",
		Long: `Show how many addresses of each pool are in use, with --show-blocks also of
each block and which node it belongs to, with --show-borrowed each address that
one node's pod has of another node's block, or with --ip who holds one address.

HELD counts addresses that an agent holds ready for pods to come; they are not
in use. RESERVED counts those that are free, but that IPReservations keep for
pods that ask for them by address.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if borrowed {
				return g.ipamBorrowed(c.Context())
			}
			if ip == "" {
				return g.ipamShow(c.Context(), blocks)
			}
			addr, err := netip.ParseAddr(ip)
			if err != nil {
				return usageError{fault.Hint(fault.New(fault.Invalid, "--ip %q: not an address", ip), "Write it as --ip=172.16.196.1.")}
			}
			return g.ipamAddress(c.Context(), addr)
		},
	}
	c.Flags().BoolVar(&blocks, "show-blocks", false, "show each block too")
	c.Flags().BoolVar(&borrowed, "show-borrowed", false, "show borrowed addresses")
	c.Flags().StringVar(&ip, "ip", "", "show who holds `ADDRESS`")
	return c
}

// usage is one line of ipam show.
type usage struct {
	Grouping string       `json:"grouping"` // "IP Pool" or "Block"
	CIDR     netip.Prefix `json:"cidr"`
	Total    float64      `json:"total"` // an IPv6 pool can have more than an integer counts
	InUse    int          `json:"inUse"`
	Held     int          `json:"held"`
	Reserved float64      `json:"reserved"` // free, but only given to who asks for it by address
	Node     string       `json:"node,omitempty"`

	block *alloc.Block // nil for a pool
}

// reservedFree counts the free addresses of a block that are reserved.
func (u usage) reservedFree(kept []netip.Prefix) float64 {
	free := u.block.Assignable(nil)
	return float64(free - u.block.Assignable(func(addr netip.Addr) bool {
		return slices.ContainsFunc(kept, func(p netip.Prefix) bool { return p.Contains(addr) })
	}))
}

// reservedIn counts the reserved addresses of p.
func reservedIn(kept []netip.Prefix, p netip.Prefix) float64 {
	n, _ := new(big.Float).SetInt(ipam.CountReserved(kept, p)).Float64()
	return n
}

func (g *globals) ipamShow(ctx context.Context, withBlocks bool) error {
	s, err := g.openStore(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	pools, err := g.readPools(ctx, s)
	if err != nil {
		return err
	}
	blocks, err := g.readBlocks(ctx, s)
	if err != nil {
		return err
	}
	kept, err := g.readReservations(ctx, s)
	if err != nil {
		return err
	}
	list := []usage{}
	for _, pool := range pools {
		line := usage{Grouping: "IP Pool", CIDR: pool, Total: size(pool), Reserved: reservedIn(kept, pool)}
		var inside []usage
		for _, b := range blocks {
			if pool.Contains(b.CIDR.Addr()) {
				line.InUse += b.InUse
				line.Held += b.Held
				taken := reservedIn(kept, b.CIDR) - b.reservedFree(kept)
				line.Reserved -= taken
				b.Reserved = b.reservedFree(kept)
				inside = append(inside, b)
			}
		}
		list = append(list, line)
		if withBlocks {
			list = append(list, inside...)
		}
	}
	return g.show(list, nil, func(bool) *table { return usageTable(list, withBlocks) })
}

func usageTable(list []usage, withNodes bool) *table {
	header := []string{"GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "HELD", "RESERVED", "IPS FREE"}
	if withNodes {
		header = append(header, "NODE")
	}
	t := newTable(header...)
	for _, u := range list {
		free := u.Total - float64(u.InUse+u.Held) - u.Reserved
		row := []string{u.Grouping, u.CIDR.String(), number(u.Total), share(float64(u.InUse), u.Total), share(float64(u.Held), u.Total), share(u.Reserved, u.Total), share(free, u.Total)}
		if withNodes {
			row = append(row, u.Node)
		}
		t.add(row...)
	}
	return t
}

func size(p netip.Prefix) float64 {
	total := 1.0
	for range p.Addr().BitLen() - p.Bits() {
		total *= 2
	}
	return total
}

func number(v float64) string {
	if v < 1e15 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.5g", v)
}

func share(part, total float64) string {
	return fmt.Sprintf("%s (%.0f%%)", number(part), 100*part/total)
}

func (g *globals) readPools(ctx context.Context, s store.Store) ([]netip.Prefix, error) {
	entries, _, err := s.List(ctx, store.IPPool, "")
	if err != nil {
		return nil, err
	}
	var pools []netip.Prefix
	for _, e := range entries {
		object, err := resource.Decode(e)
		if err == nil {
			pool, convertErr := convert.Pool(object.(*v3.IPPool))
			if err = convertErr; err == nil {
				pools = append(pools, pool.CIDR)
			}
		}
		if err != nil {
			g.warn("%v", err)
		}
	}
	slices.SortFunc(pools, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return pools, nil
}

// readReservations are the ranges of all IPReservations.
func (g *globals) readReservations(ctx context.Context, s store.Store) ([]netip.Prefix, error) {
	entries, _, err := s.List(ctx, store.IPReservation, "")
	if err != nil {
		return nil, err
	}
	var kept []netip.Prefix
	for _, e := range entries {
		object, err := resource.Decode(e)
		if err == nil {
			ranges, convertErr := convert.Reservation(object.(*v3.IPReservation))
			kept, err = append(kept, ranges...), convertErr
		}
		if err != nil {
			g.warn("%v", err)
		}
	}
	return kept, nil
}

func (g *globals) readBlocks(ctx context.Context, s store.Store) ([]usage, error) {
	entries, _, err := s.List(ctx, store.Block, "")
	if err != nil {
		return nil, err
	}
	var list []usage
	for _, e := range entries {
		b, err := alloc.ParseBlock(e.Value)
		if err != nil {
			g.warn("read %s: %v", e.Key, err)
			continue
		}
		node, _ := b.Node()
		held := len(b.HeldBy(isReserve))
		list = append(list, usage{Grouping: "Block", CIDR: b.CIDR, Total: size(b.CIDR), InUse: b.InUse() - held, Held: held, Node: node, block: b})
	}
	slices.SortFunc(list, func(a, b usage) int { return a.CIDR.Addr().Compare(b.CIDR.Addr()) })
	return list, nil
}

func isReserve(who alloc.Attribute) bool { return who.Secondary["type"] == alloc.TypeReserve }

// holding is who holds one address.
type holding struct {
	IP         netip.Addr        `json:"ip"`
	InUse      bool              `json:"inUse"`
	Held       bool              `json:"held,omitempty"`      // by a node's reserve
	ReleasedAt time.Time         `json:"releasedAt,omitzero"` // when it rests: ipCooldownSeconds
	Handle     string            `json:"handle,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
	Block      netip.Prefix      `json:"block,omitzero"`
	Node       string            `json:"node,omitempty"`     // the block's node
	Borrower   string            `json:"borrower,omitempty"` // the node it is used on, where that is another
}

func (g *globals) ipamAddress(ctx context.Context, addr netip.Addr) error {
	s, err := g.openStore(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	found, err := g.findHolding(ctx, s, addr)
	if err != nil {
		return err
	}
	if g.output == "json" || g.output == "yaml" {
		return g.show(found, nil, nil)
	}
	switch {
	case found.Held:
		fmt.Fprintf(g.stdout, "IP %s is held ready by node %s for pods to come\n", addr, found.Node)
	case !found.ReleasedAt.IsZero():
		fmt.Fprintf(g.stdout, "%s is not assigned: it was released at %s and rests (ipCooldownSeconds)\n", addr, found.ReleasedAt.UTC().Format(time.RFC3339))
	case !found.InUse:
		fmt.Fprintf(g.stdout, "%s is not assigned\n", addr)
	default:
		fmt.Fprintf(g.stdout, "IP %s is in use\nHandle: %s\n", addr, found.Handle)
		keys := make([]string, 0, len(found.Attributes))
		for key := range found.Attributes {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		fmt.Fprintln(g.stdout, "Attributes:")
		for _, key := range keys {
			fmt.Fprintf(g.stdout, "  %s: %s\n", key, found.Attributes[key])
		}
	}
	if found.Block.IsValid() {
		fmt.Fprintf(g.stdout, "Block: %s of node %s\n", found.Block, dash(found.Node))
	}
	if found.Borrower != "" {
		fmt.Fprintf(g.stdout, "Borrowed by node %s, which announces %s/%d\n", found.Borrower, addr, addr.BitLen())
	}
	return nil
}

func (g *globals) findHolding(ctx context.Context, s store.Store, addr netip.Addr) (holding, error) {
	found := holding{IP: addr}
	pools, err := g.readPools(ctx, s)
	if err != nil {
		return found, err
	}
	if !slices.ContainsFunc(pools, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return found, fault.Hint(fault.New(fault.NotFound, "%s lies in no IP pool", addr), "Pools are %s.", strings.Trim(fmt.Sprint(pools), "[]"))
	}
	entries, _, err := s.List(ctx, store.Block, "")
	if err != nil {
		return found, err
	}
	for _, e := range entries {
		b, err := alloc.ParseBlock(e.Value)
		if err != nil || !b.CIDR.Contains(addr) {
			continue
		}
		found.Block = b.CIDR
		found.Node, _ = b.Node()
		found.ReleasedAt, _ = b.Resting(addr)
		if who, ok := b.Holder(addr); ok {
			found.InUse, found.Held = !isReserve(who), isReserve(who)
			found.Handle, found.Attributes = who.Handle, who.Secondary
			found.Borrower = borrower(b, who)
		}
	}
	return found, nil
}
