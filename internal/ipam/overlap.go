// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"net/netip"

	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/store"
)

// A pool whose blockSize was changed while it had blocks offers blocks that
// overlap stored ones: an address would be given by two. Such a block is not
// claimed.

// overlaps is a search for overlaps that looks at one candidate after the
// other, and lists all blocks once several did overlap.
type overlaps struct {
	c     *Client
	pools []poolRange
	seen  int
	by    map[netip.Prefix]netip.Prefix // blocks, also those of the pools' sizes around them, to stored ones
}

// find is overlapping for the next candidate.
func (o *overlaps) find(ctx context.Context, p netip.Prefix) (found netip.Prefix, ok bool, err error) {
	if o.seen++; o.seen <= probes {
		return o.c.overlapping(ctx, p)
	}
	if o.by == nil {
		stored, err := o.c.blockNames(ctx)
		if err != nil {
			return found, false, err
		}
		o.by = map[netip.Prefix]netip.Prefix{}
		for _, q := range stored {
			o.add(q)
		}
	}
	for bits := largestBlock(p); bits <= p.Bits(); bits++ {
		if q, ok := o.by[cidr.BlockOf(p.Addr(), bits)]; ok && q != p {
			return q, true, nil
		}
	}
	return found, false, nil
}

func (o *overlaps) add(q netip.Prefix) {
	o.by[q] = q
	for _, pool := range o.pools {
		if pool.bits < q.Bits() && pool.cidr.Overlaps(q) {
			o.by[cidr.BlockOf(q.Addr(), pool.bits)] = q
		}
	}
}

// overlapping is a stored block of another size that shares addresses with p;
// ok is false where there is none. It reads the blocks around p alone.
func (c *Client) overlapping(ctx context.Context, p netip.Prefix) (found netip.Prefix, ok bool, err error) {
	for bits := largestBlock(p); bits < p.Bits(); bits++ {
		around := cidr.BlockOf(p.Addr(), bits)
		_, err := c.Store.Get(ctx, blockKey(around))
		if err == nil {
			return around, true, nil
		}
		if !fault.Is(err, fault.NotFound) {
			return found, false, err
		}
	}
	entries, _, err := c.Store.List(ctx, store.Block, sharedText(p))
	if err != nil {
		return found, false, err
	}
	for _, e := range entries {
		if q, err := names.ParseBlock(e.Key.Name); err == nil && q != p && q.Overlaps(p) {
			return q, true, nil
		}
	}
	return found, false, nil
}

// largestBlock is the shortest prefix length that a block of p's family has.
func largestBlock(p netip.Prefix) int { return p.Addr().BitLen() - 12 }

// sharedText is what the names of all blocks inside p start with.
func sharedText(p netip.Prefix) string {
	first, last := p.Addr().String(), cidr.At(p, cidr.Size(p)-1).String()
	n := 0
	for n < len(first) && n < len(last) && first[n] == last[n] {
		n++
	}
	return first[:n]
}

// overlapError says that no block can be claimed because of a stored one.
func overlapError(p, stored netip.Prefix) error {
	return fault.Hint(fault.New(fault.Exhausted, "claim block %s: it overlaps block %s, and no other block of the pools is left", p, stored),
		"the pool's blockSize was changed while it had blocks: put it back to %d, or move the pods to another pool", stored.Bits())
}
