// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/fault"
)

// unselected reports whether p lies in a pool that does not select node any
// more. A node that does not exist is not judged.
func (c *Client) unselected(ctx context.Context, node string, p netip.Prefix) (bool, error) {
	pool, ok, err := c.poolOf(ctx, p.Addr())
	if err != nil || !ok {
		return false, err
	}
	labels, err := c.NodeLabels(ctx, node)
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	return err == nil && !matches(pool.NodeSelector, labels), err
}

// giveUp gives up a block of the node that is empty and in a pool that does
// not select it any more. Every other block stays.
func (c *Client) giveUp(ctx context.Context, node string, p netip.Prefix) error {
	leave, err := c.unselected(ctx, node, p)
	if err != nil || !leave {
		return err
	}
	return notLost(c.releaseBlock(ctx, node, p, true))
}

// emptied is what an edit of a block may leave behind: nobody in it, and a
// node that owns it.
type emptied struct {
	node string
	is   bool
}

func (e *emptied) note(b *alloc.Block) {
	e.node, e.is = b.Node()
	e.is = e.is && b.Empty()
}

// giveUpEmptied gives p up if an edit emptied it and its pool does not select
// its node any more.
func (c *Client) giveUpEmptied(ctx context.Context, p netip.Prefix, e emptied) error {
	if !e.is {
		return nil
	}
	return c.giveUp(ctx, e.node, p)
}

// reclaim makes other nodes give up their empty blocks, one after the other,
// and takes from them, as far as the configuration allows it.
func (a *assignment) reclaim(ctx context.Context, own map[netip.Prefix]bool) error {
	blocks, err := a.c.blocks(ctx)
	if err != nil {
		return err
	}
	slices.SortFunc(blocks, func(x, y *alloc.Block) int { return cidr.Compare(x.CIDR, y.CIDR) })
	for _, b := range blocks {
		owner, owned := b.Node()
		if a.short() == 0 || len(own) >= a.maxBlocks() {
			break
		}
		if !owned || owner == a.req.Node || !b.Empty() || b.ClaimTime == nil || !inRanges(b.CIDR, rangesOf(a.pools)) {
			continue
		}
		allowed, err := a.c.Reclaim(ctx, owner, *b.ClaimTime)
		if err != nil {
			return err
		}
		if !allowed {
			continue
		}
		err = a.c.releaseBlock(ctx, owner, b.CIDR, true)
		if err == nil {
			_, err = a.fromNew(ctx, own)
		}
		if err != nil && !fault.Is(err, fault.Conflict) {
			return err
		}
	}
	return nil
}

// outgrown gives up the node's own empty blocks among those passed over.
func (a *assignment) outgrown(ctx context.Context, claims []claim) error {
	var errs []error
	for _, cl := range claims {
		if !inside(cl.block, prefixesOf(rangesOf(a.pools))) {
			errs = append(errs, a.c.giveUp(ctx, a.req.Node, cl.block))
		}
	}
	return errors.Join(errs...)
}

// idleLooks is for how many looks an own block must be idle to be given up.
const idleLooks = 10

// giveUpIdle gives up own blocks of which nothing has been held for a while,
// so that other nodes can have them; the last block stays. Whoever looks holds
// the writes, so none is taken from meanwhile.
func (r *Reserve) giveUpIdle(ctx context.Context) error {
	own := blockSet(r.Blocks())
	idle := map[netip.Prefix]time.Time{}
	for _, p := range slices.SortedFunc(maps.Keys(own), cidr.Compare) {
		seen, ok := r.cache.get(p)
		if !ok {
			continue
		}
		b, err := alloc.ParseBlock(seen.value)
		if err != nil || !b.OwnedBy(r.cfg.Node) || !b.Empty() {
			continue
		}
		idle[p] = firstSeen(r.idle[p])
		if len(own) == 1 || time.Since(idle[p]) < idleLooks*r.checkInterval() {
			continue
		}
		if err := r.c.releaseBlock(ctx, r.cfg.Node, p, true); err != nil {
			if notLost(err) != nil {
				return err
			}
			continue
		}
		r.log.Info("block given up, nothing of it was held", "block", p)
		delete(own, p)
		delete(idle, p)
		r.cache.drop(p)
		delete(r.counted, p)
		r.dropBlock(p)
	}
	r.idle = idle
	return nil
}

// dropBlock takes a block off the node's own.
func (r *Reserve) dropBlock(p netip.Prefix) {
	r.mu.Lock()
	blocks := maps.Clone(r.blocks)
	r.room = -1
	r.mu.Unlock()
	delete(blocks, p)
	r.setBlocks(blocks)
}
