// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/names"
)

// A node borrows when its own blocks are full and it can claim no other: a pod
// gets an address of another node's block, and the node announces that address
// on its own. What an agent holds ready stands in the datastore as held, so it
// is never lent; and an agent never borrows to hold ready.

// mayBorrow reports whether configuration and client allow borrowing.
func (f *flushing) mayBorrow() bool {
	if !f.r.c.Borrow {
		return false
	}
	conf, err := f.config()
	return err == nil && !conf.StrictAffinity
}

// borrow serves w, and whoever else it can, from blocks that are not the
// node's, in the node's order of blocks. It reports whether w was answered.
func (f *flushing) borrow(w *waiter) bool {
	if !f.mayBorrow() {
		return false
	}
	blocks, err := f.r.c.blocks(f.ctx)
	if err != nil {
		f.errs = append(f.errs, err)
		return false
	}
	own := blockSet(f.r.Blocks())
	room := map[netip.Prefix]bool{}
	for _, b := range blocks {
		if !own[b.CIDR] && !b.Virtual() && f.free(b) > 0 {
			room[b.CIDR] = true
		}
	}
	for _, p := range lendable(f.r.cfg.Node, f.ranges[w], room) {
		f.lend(p, f.suited(p)...)
		if !slices.Contains(f.waiting, w) {
			return true
		}
	}
	return false
}

// lendable orders the blocks with room as the node would come across them.
func lendable(node string, ranges []poolRange, room map[netip.Prefix]bool) []netip.Prefix {
	var order []netip.Prefix
	for _, pool := range ranges {
		left := 0
		for p := range room {
			if inRanges(p, []poolRange{pool}) {
				left++
			}
		}
		for p := range names.BlockOrder(node, pool.cidr, pool.bits) {
			if left == 0 {
				break
			}
			if room[p] {
				order = append(order, p)
				left--
			}
		}
	}
	return order
}

// lend writes a block that is not the node's for takers. That it concerns this
// node is noted before: a crash behind the write leaves an address that only
// the note leads back to.
func (f *flushing) lend(p netip.Prefix, takers ...*waiter) {
	if err := f.r.noteForeign(p); err != nil {
		f.errs = append(f.errs, err)
		return
	}
	bt := f.jobs[p]
	if bt == nil {
		bt = &batch{}
		f.jobs[p] = bt
	}
	bt.waiters = append(bt.waiters, takers...)
	f.block(p, false)
}

// noteForeign remembers, also on disk, that p may hold addresses of this node.
func (r *Reserve) noteForeign(p netip.Prefix) error {
	r.mu.Lock()
	known := r.foreign[p]
	r.foreign[p] = true
	r.mu.Unlock()
	if known {
		return nil
	}
	return r.saveLease(nil)
}

// foreignBlocks are the blocks of others that may hold addresses of this
// node; without a note of them, as after a reboot, all blocks are read once. Those that hold none are forgotten.
func (r *Reserve) foreignBlocks(ctx context.Context) ([]*alloc.Block, error) {
	r.mu.Lock()
	listed := r.foreignListed
	noted := slices.Collect(maps.Keys(r.foreign))
	r.mu.Unlock()
	var blocks []*alloc.Block
	if !listed && r.c.Borrow {
		all, err := r.c.blocks(ctx)
		if err != nil {
			return nil, err
		}
		blocks = all
	}
	for _, p := range noted {
		if slices.ContainsFunc(blocks, func(b *alloc.Block) bool { return b.CIDR == p }) {
			continue
		}
		b, err := r.cachedBlock(ctx, p)
		switch {
		case err == nil:
			blocks = append(blocks, b)
		case !fault.Is(err, fault.NotFound) && !fault.Is(err, fault.Internal):
			return nil, err
		}
	}
	blocks = slices.DeleteFunc(blocks, func(b *alloc.Block) bool {
		return b.OwnedBy(r.cfg.Node) || len(b.HeldBy(r.isMine)) == 0
	})
	slices.SortFunc(blocks, func(a, b *alloc.Block) int { return cidr.Compare(a.CIDR, b.CIDR) })
	r.mu.Lock()
	defer r.mu.Unlock()
	r.foreignListed = true
	for _, p := range noted {
		delete(r.foreign, p)
	}
	for _, b := range blocks {
		r.foreign[b.CIDR] = true
	}
	return blocks, nil
}

// exhausted is what a pod hears that no block can serve: why no other block
// could be claimed, why nothing was borrowed, and how the pools stand.
func (f *flushing) exhausted(err error) error {
	if !fault.Is(err, fault.Exhausted) {
		return err
	}
	hint := fault.HintOf(err)
	switch conf, confErr := f.config(); {
	case confErr != nil:
		return err
	case conf.StrictAffinity:
		err = fault.New(fault.Exhausted, "%w; strictAffinity keeps it to its own blocks", err)
	}
	pools, poolsErr := f.r.c.poolsFor(f.ctx, f.r.request())
	if poolsErr != nil {
		return fault.Hint(err, "%s", hint)
	}
	return fault.Hint(fault.New(fault.Exhausted, "%w; %s", err, f.r.c.shortage(f.ctx, pools)), "%s", hint)
}

// shortage says how pools stand and who uses them most.
func (c *Client) shortage(ctx context.Context, pools []cluster.Pool) string {
	blocks, err := c.blocks(ctx)
	kept, keptErr := c.reserved(ctx)
	if err = errors.Join(err, keptErr); err != nil {
		return "how the pools stand is not known"
	}
	return describe(pools, blocks, kept)
}
