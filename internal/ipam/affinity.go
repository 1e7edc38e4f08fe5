// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"errors"
	"iter"
	"math/big"
	"net/netip"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/store"
)

// claimBlock makes a block the node's: in one transaction, or, where the
// datastore has none, affinity pending, block created (or found to be the
// node's), affinity confirmed. A block of somebody else is Conflict, and the
// node's stale affinity to it is gone then.
func (c *Client) claimBlock(ctx context.Context, node string, p netip.Prefix) error {
	return again(ctx, func() error {
		a, rev, err := c.affinity(ctx, node, p)
		if err != nil {
			return err
		}
		b, brev, err := c.block(ctx, p)
		missing := fault.Is(err, fault.NotFound)
		if err != nil && !missing {
			return err
		}
		if !missing && b.OwnedBy(node) && rev != 0 && a.State == alloc.Confirmed {
			return nil
		}
		if done, err := c.commitClaim(ctx, node, p, a, rev, b, brev); done || err != nil {
			return err
		}
		a.State = alloc.Pending
		if rev, err = c.putAffinity(ctx, node, p, a, rev); err != nil {
			return raced(err)
		}
		if err := c.createBlock(ctx, node, p); err != nil {
			if fault.Is(err, fault.Conflict) && !retryable(err) {
				err = errors.Join(err, c.remove(ctx, affinityKey(node, p), rev))
			}
			return err
		}
		a.State = alloc.Confirmed
		_, err = c.putAffinity(ctx, node, p, a, rev)
		return raced(err)
	})
}

// createBlock writes an empty block of the node, or a new version of the
// node's own one, so that a release of it under way fails. Conflict says
// whose the block is.
func (c *Client) createBlock(ctx context.Context, node string, p netip.Prefix) error {
	now := c.Now()
	data, err := alloc.NewBlock(p, node, now, uint64(now.UnixNano())).Encode()
	if err != nil {
		return err
	}
	_, err = c.put(ctx, blockKey(p), data, 0)
	if !fault.Is(err, fault.Conflict) {
		return err
	}
	b, rev, err := c.block(ctx, p)
	switch {
	case fault.Is(err, fault.NotFound):
		return lost{err} // deleted meanwhile
	case err != nil:
		return err
	case !b.OwnedBy(node):
		return fault.New(fault.Conflict, "claim block %s for %s: it belongs to %s", p, node, ownerOf(b))
	}
	_, err = c.putBlock(ctx, b, rev)
	return raced(err)
}

// ownerOf names the owner of a block for people.
func ownerOf(b *alloc.Block) string {
	if node, ok := b.Node(); ok {
		return "node " + node
	}
	if b.Affinity != "" {
		return b.Affinity
	}
	return "nobody, and addresses of it are still held"
}

// probes is how many candidates are looked up one by one before all blocks
// are listed: in a pool with room the first is mostly free.
const probes = 8

// freeBlock finds the block the node should claim next: the first of the
// node's order in each pool that does not exist, or is the node's own without
// being among known. fits false passes a candidate over, and so does a stored
// block that overlaps it. ok is false where the pools are full; if that is
// because of overlaps, Exhausted says so.
func (c *Client) freeBlock(ctx context.Context, r request, pools []poolRange, known map[netip.Prefix]bool, fits func(netip.Prefix) bool) (p netip.Prefix, ok bool, err error) {
	var blocked error
	look := overlaps{c: c, pools: pools}
	for p, err := range c.freeBlocks(ctx, r, pools, known, fits) {
		if err != nil {
			return p, false, err
		}
		stored, overlaps, err := look.find(ctx, p)
		if err != nil || !overlaps {
			return p, err == nil, err
		}
		if blocked == nil {
			blocked = overlapError(p, stored)
		}
	}
	return netip.Prefix{}, false, blocked
}

// freeBlocks yields the blocks that do not exist, or are the node's own without
// being among known, in the node's order; an error is the last.
func (c *Client) freeBlocks(ctx context.Context, r request, pools []poolRange, known map[netip.Prefix]bool, fits func(netip.Prefix) bool) iter.Seq2[netip.Prefix, error] {
	return func(yield func(netip.Prefix, error) bool) {
		var taken map[netip.Prefix]bool
		seen := 0
		for _, pool := range pools {
			for p := range names.BlockOrder(r.node, pool.cidr, pool.bits) {
				if known[p] || !fits(p) {
					continue
				}
				free, err := false, error(nil)
				if seen++; seen <= probes {
					free, err = c.isFree(ctx, r.node, p)
				} else if taken == nil {
					taken, err = c.takenBlocks(ctx, r.node)
					if err == nil && full(pools, taken) {
						return
					}
				}
				if seen > probes {
					free = !taken[p]
				}
				if (err != nil || free) && (!yield(p, err) || err != nil) {
					return
				}
			}
		}
	}
}

// isFree reports whether a block does not exist or is the node's. One that
// cannot be read is neither.
func (c *Client) isFree(ctx context.Context, node string, p netip.Prefix) (bool, error) {
	b, _, err := c.block(ctx, p)
	switch {
	case err == nil:
		return b.OwnedBy(node), nil
	case fault.Is(err, fault.NotFound):
		return true, nil
	case fault.Is(err, fault.Internal):
		return false, nil
	}
	return false, err
}

// poolRange is the part of a pool that a search for blocks needs.
type poolRange struct {
	cidr netip.Prefix
	bits int // length of its blocks
}

// takenBlocks is the set of blocks that exist and are not the node's.
func (c *Client) takenBlocks(ctx context.Context, node string) (map[netip.Prefix]bool, error) {
	stored, err := c.blockNames(ctx)
	if err != nil {
		return nil, err
	}
	taken := make(map[netip.Prefix]bool, len(stored))
	for _, p := range stored {
		taken[p] = true
	}
	own, err := c.claims(ctx, node)
	for _, a := range own {
		delete(taken, a.block)
	}
	return taken, err
}

// full reports whether every block of the pools is taken, so that a search
// through all of them can be spared.
func full(pools []poolRange, taken map[netip.Prefix]bool) bool {
	for _, pool := range pools {
		n := int64(0)
		for p := range taken {
			if p.Bits() == pool.bits && cidr.Covers(pool.cidr, p) {
				n++
			}
		}
		if cidr.Blocks(pool.cidr, pool.bits).Cmp(big.NewInt(n)) > 0 {
			return false
		}
	}
	return true
}

// EnsureBlock returns a block of the node in the pools for workloads of a
// family (4 or 6), claiming one if it has none.
func (c *Client) EnsureBlock(ctx context.Context, node string, family int) (netip.Prefix, error) {
	r := request{node: node, use: Workload, family: family}
	pools, err := c.poolsFor(ctx, r)
	if err != nil {
		return netip.Prefix{}, err
	}
	ranges := rangesOf(pools)
	own, err := c.claims(ctx, node, prefixesOf(ranges)...)
	if err != nil {
		return netip.Prefix{}, err
	}
	for _, a := range own {
		if err := c.claimBlock(ctx, node, a.block); err == nil {
			return a.block, nil
		} else if !fault.Is(err, fault.Conflict) {
			return netip.Prefix{}, err
		}
	}
	for range tries {
		p, ok, err := c.freeBlock(ctx, r, ranges, nil, anyBlock)
		if err != nil {
			return netip.Prefix{}, err
		}
		if !ok {
			return netip.Prefix{}, fault.New(fault.Exhausted, "claim a block for %s: every block of the pools is owned", node)
		}
		if err = c.claimBlock(ctx, node, p); err == nil || !fault.Is(err, fault.Conflict) {
			return p, err
		}
	}
	return netip.Prefix{}, fault.New(fault.Unavailable, "claim a block for %s: lost %d races", node, tries)
}

func anyBlock(netip.Prefix) bool { return true }

// ClaimAffinity claims every block inside p for the node, and says which it
// got and which belong to others. A p outside all pools, or smaller than
// their blocks, is Invalid.
func (c *Client) ClaimAffinity(ctx context.Context, node string, p netip.Prefix) (claimed, failed []netip.Prefix, err error) {
	pool, ok, err := c.poolOf(ctx, p.Addr())
	switch {
	case err != nil:
		return nil, nil, err
	case !ok || pool.Disabled || !cidr.Covers(pool.CIDR, p):
		return nil, nil, fault.Hint(fault.New(fault.Invalid, "claim %s: it is in no enabled pool", p), "ocicat get ippool lists the pools")
	case p.Bits() > pool.BlockSize:
		return nil, nil, fault.Hint(fault.New(fault.Invalid, "claim %s: smaller than a block", p), "blocks of pool %s are /%d", pool.Name, pool.BlockSize)
	}
	for n, last := new(big.Int), cidr.Blocks(p, pool.BlockSize); n.Cmp(last) < 0; n.Add(n, big.NewInt(1)) {
		block := cidr.BlockAt(p, pool.BlockSize, n)
		switch err := c.claimBlock(ctx, node, block); {
		case err == nil:
			claimed = append(claimed, block)
		case fault.Is(err, fault.Conflict):
			failed = append(failed, block)
		default:
			return claimed, failed, err
		}
	}
	return claimed, failed, nil
}

// ReleaseAffinity gives up the node's blocks inside p: an empty one is
// deleted, another stays as nobody's until its last address is released, or
// is Conflict with mustBeEmpty. Blocks of others are left alone.
func (c *Client) ReleaseAffinity(ctx context.Context, node string, p netip.Prefix, mustBeEmpty bool) error {
	return c.releaseClaims(ctx, node, mustBeEmpty, p)
}

// ReleaseHostAffinities gives up all blocks of the node, as ReleaseAffinity
// does; it goes on after a Conflict.
func (c *Client) ReleaseHostAffinities(ctx context.Context, node string, mustBeEmpty bool) error {
	return c.releaseClaims(ctx, node, mustBeEmpty)
}

// ReleasePoolAffinities gives up every node's blocks inside p.
func (c *Client) ReleasePoolAffinities(ctx context.Context, p netip.Prefix) error {
	return c.releaseClaims(ctx, "", false, p)
}

// RemoveHost gives up all blocks of a node that is gone. Addresses still held
// in them stay held.
func (c *Client) RemoveHost(ctx context.Context, node string) error {
	return c.releaseClaims(ctx, node, false)
}

func (c *Client) releaseClaims(ctx context.Context, node string, mustBeEmpty bool, within ...netip.Prefix) error {
	own, err := c.claims(ctx, node, within...)
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range own {
		if err := c.releaseBlock(ctx, a.node, a.block, mustBeEmpty); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// releaseBlock gives up one block: in one transaction, or, where the datastore
// has none, affinity pendingDeletion, block deleted or made nobody's, affinity
// deleted.
func (c *Client) releaseBlock(ctx context.Context, node string, p netip.Prefix, mustBeEmpty bool) error {
	return c.releaseBlockIf(ctx, node, p, mustBeEmpty, func() error { return nil })
}

// releaseBlockIf is releaseBlock; allowed is asked after each reading of the
// block and before it is written.
func (c *Client) releaseBlockIf(ctx context.Context, node string, p netip.Prefix, mustBeEmpty bool, allowed func() error) error {
	marked := false // the affinity was confirmed when we set out to write pendingDeletion
	return again(ctx, func() error {
		a, arev, err := c.affinity(ctx, node, p)
		if err != nil || arev == 0 {
			return err
		}
		b, brev, err := c.block(ctx, p)
		if fault.Is(err, fault.NotFound) || err == nil && !b.OwnedBy(node) {
			return raced(c.remove(ctx, affinityKey(node, p), arev))
		}
		if err != nil {
			return err
		}
		if mustBeEmpty && !b.Empty() {
			if marked {
				if err := c.unmark(ctx, node, p, b, brev, a, arev); err != nil {
					return raced(err)
				}
			}
			return fault.New(fault.Conflict, "release block %s of %s: %d of its addresses are in use", p, node, b.InUse())
		}
		if err := allowed(); err != nil {
			return err
		}
		if done, err := c.commitRelease(ctx, node, p, arev, b, brev); done || err != nil {
			return err
		}
		marked = marked || a.State == alloc.Confirmed
		if arev, err = c.mark(ctx, node, p, a, arev); err != nil {
			return raced(err)
		}
		b.ClearAffinity()
		if b.Empty() {
			err = c.remove(ctx, blockKey(p), brev)
		} else {
			_, err = c.putBlock(ctx, b, brev)
		}
		if err != nil {
			return raced(err)
		}
		return raced(c.remove(ctx, affinityKey(node, p), arev))
	})
}

// mark writes that an affinity is about to go, as a version of its own: whoever
// takes back another's mark must not take back this one. A datastore may leave
// an object as it is that is written as it is.
func (c *Client) mark(ctx context.Context, node string, p netip.Prefix, a alloc.Affinity, rev store.Revision) (store.Revision, error) {
	if a.State == alloc.PendingDeletion {
		a.State = alloc.Pending
		var err error
		if rev, err = c.putAffinity(ctx, node, p, a, rev); err != nil {
			return 0, err
		}
	}
	a.State = alloc.PendingDeletion
	return c.putAffinity(ctx, node, p, a, rev)
}

// unmark takes back a pendingDeletion. Another may have found it and be
// releasing the block too: the block's new version lets its write fail, as
// that of a claim does.
func (c *Client) unmark(ctx context.Context, node string, p netip.Prefix, b *alloc.Block, brev store.Revision, a alloc.Affinity, arev store.Revision) error {
	if _, err := c.putBlock(ctx, b, brev); err != nil {
		return err
	}
	a.State = alloc.Confirmed
	_, err := c.putAffinity(ctx, node, p, a, arev)
	return err
}
