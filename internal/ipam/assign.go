// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/names"
)

// defaultMaxBlocks is how many blocks a node may own where neither the
// configuration nor the request says, so that a fault cannot eat a pool.
const defaultMaxBlocks = 20

// AssignRequest asks for addresses of one family.
type AssignRequest struct {
	Node   string
	Handle string            // under which they are released; "" for none
	Attrs  map[string]string // who holds them: keys alloc.Attr…
	Use    Use
	Family int      // 4 or 6
	Num    int      // how many
	Pools  []string // names or CIDRs; none means all that suit
	// NamespaceLabels are those of the pod's namespace, for the pools'
	// namespace selectors; nil where they are not known.
	NamespaceLabels map[string]string
	// MaxBlocks is how many blocks the node may own for this request to claim
	// another; 0 leaves that to the configuration. The lower one counts.
	MaxBlocks int
	// MaxPerHandle is how many addresses of the family the handle may hold;
	// if it holds that many, the answer is those. 0 is no limit.
	MaxPerHandle int
}

func (r AssignRequest) holder() alloc.Attribute {
	return alloc.Attribute{Handle: r.Handle, Secondary: r.Attrs}
}

func (r AssignRequest) validate() error {
	switch {
	case r.Node == "":
		return fault.New(fault.Invalid, "assign an address: no node given")
	case r.Use == "":
		return fault.New(fault.Invalid, "assign an address: no use given")
	case r.Family != 4 && r.Family != 6:
		return fault.New(fault.Invalid, "assign an address: family %d is not 4 or 6", r.Family)
	case r.Num < 1:
		return fault.New(fault.Invalid, "assign an address: %d asked for", r.Num)
	}
	return nil
}

// assignment is an AutoAssign under way.
type assignment struct {
	c     *Client
	req   AssignRequest
	conf  alloc.Config
	pools []cluster.Pool
	kept  reserved // never given unasked
	given []netip.Addr
}

// AutoAssign gives addresses first in first out from the node's own blocks,
// then from blocks it claims, then, if allowed, from other nodes' blocks. Too
// few are Exhausted; those there were are answered all the same and are held.
func (c *Client) AutoAssign(ctx context.Context, req AssignRequest) ([]netip.Addr, error) {
	if err := req.validate(); err != nil {
		return nil, err
	}
	a := &assignment{c: c, req: req}
	if done, err := a.reuse(ctx); done || err != nil {
		return a.given, err
	}
	var err error
	if a.conf, err = c.GetConfig(ctx); err != nil {
		return nil, err
	}
	if a.pools, err = c.poolsFor(ctx, a.request()); err != nil {
		return nil, err
	}
	if a.kept, err = c.reserved(ctx); err != nil {
		return nil, err
	}
	own, err := a.fromOwn(ctx)
	if err != nil {
		return a.given, err
	}
	limit := false
	if a.short() > 0 && a.conf.AutoAllocate {
		if limit, err = a.fromNew(ctx, own); err != nil {
			return a.given, err
		}
	}
	if a.short() > 0 && a.conf.AutoAllocate && !limit && c.Reclaim != nil {
		if err := a.reclaim(ctx, own); err != nil {
			return a.given, err
		}
	}
	if a.short() > 0 && !a.conf.StrictAffinity && c.Borrow {
		if err := a.borrow(ctx, own); err != nil {
			return a.given, err
		}
	}
	if a.short() == 0 {
		return a.given, nil
	}
	return a.given, a.exhausted(ctx, limit)
}

func (a *assignment) request() request {
	return request{node: a.req.Node, use: a.req.Use, family: a.req.Family, pools: a.req.Pools, namespace: a.req.NamespaceLabels}
}

func (a *assignment) short() int { return a.req.Num - len(a.given) }

// reuse answers what the handle holds already, where its number is limited.
func (a *assignment) reuse(ctx context.Context) (done bool, err error) {
	if a.req.MaxPerHandle == 0 || a.req.Handle == "" {
		return false, nil
	}
	held, err := a.c.IPsByHandle(ctx, a.req.Handle)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return false, err
	}
	held = slices.DeleteFunc(held, func(ip netip.Addr) bool { return cidr.Family(ip) != a.req.Family })
	if len(held) >= a.req.MaxPerHandle {
		a.given = held
		return true, nil
	}
	a.req.Num = min(a.req.Num, a.req.MaxPerHandle-len(held))
	return false, nil
}

// fromOwn takes from the node's blocks, completing claims left half-way, and
// returns the blocks it owns.
func (a *assignment) fromOwn(ctx context.Context) (map[netip.Prefix]bool, error) {
	claims, err := a.c.claims(ctx, a.req.Node)
	if err != nil {
		return nil, err
	}
	if err := a.outgrown(ctx, claims); err != nil {
		return nil, err
	}
	own := map[netip.Prefix]bool{}
	for _, cl := range claims {
		if !inside(cl.block, prefixesOf(rangesOf(a.pools))) {
			continue
		}
		own[cl.block] = true
		if a.short() == 0 {
			continue
		}
		err := error(nil)
		if cl.state != alloc.Confirmed {
			err = a.c.claimBlock(ctx, a.req.Node, cl.block)
		}
		if err == nil {
			err = a.fromBlock(ctx, cl.block, true)
		}
		if fault.Is(err, fault.NotFound) { // the block vanished below its affinity
			if err = a.c.claimBlock(ctx, a.req.Node, cl.block); err == nil {
				err = a.fromBlock(ctx, cl.block, true)
			}
		}
		switch {
		case fault.Is(err, fault.Conflict): // another's by now
			delete(own, cl.block)
		case fault.Is(err, fault.Internal): // cannot be read: pass it over, the others go on
		case err != nil:
			return own, err
		}
	}
	return own, nil
}

// fromNew claims blocks and takes from them. It reports whether the limit of
// blocks stopped it.
func (a *assignment) fromNew(ctx context.Context, own map[netip.Prefix]bool) (limit bool, err error) {
	ranges := rangesOf(a.pools)
	for range tries {
		if a.short() == 0 {
			return false, nil
		}
		if len(own) >= a.maxBlocks() {
			return true, nil
		}
		p, ok, err := a.c.freeBlock(ctx, a.request(), ranges, own, a.kept.leaves)
		if err != nil || !ok {
			return false, err
		}
		err = a.c.claimBlock(ctx, a.req.Node, p)
		if err == nil {
			own[p] = true
			err = a.fromBlock(ctx, p, true)
		}
		if err != nil && !fault.Is(err, fault.Conflict) && !fault.Is(err, fault.NotFound) {
			return false, err
		}
	}
	return false, fault.New(fault.Unavailable, "claim a block for %s: lost %d races", a.req.Node, tries)
}

func (a *assignment) maxBlocks() int {
	limit := a.conf.MaxBlocks
	if a.req.MaxBlocks > 0 && (limit == 0 || a.req.MaxBlocks < limit) {
		limit = a.req.MaxBlocks
	}
	if limit == 0 {
		limit = defaultMaxBlocks
	}
	return limit
}

// borrow takes from blocks of other nodes, in the node's own order of blocks.
func (a *assignment) borrow(ctx context.Context, own map[netip.Prefix]bool) error {
	blocks, err := a.c.blocks(ctx)
	if err != nil {
		return err
	}
	room := map[netip.Prefix]bool{}
	for _, b := range blocks {
		room[b.CIDR] = len(b.Unallocated) > 0 && !b.Virtual()
	}
	for _, pool := range rangesOf(a.pools) {
		left := 0 // blocks of this pool still to come
		for p, has := range room {
			if has && p.Bits() == pool.bits && cidr.Covers(pool.cidr, p) {
				left++
			}
		}
		for p := range names.BlockOrder(a.req.Node, pool.cidr, pool.bits) {
			if a.short() == 0 || left == 0 {
				break
			}
			if !room[p] {
				continue
			}
			left--
			if own[p] {
				continue
			}
			if err := a.fromBlock(ctx, p, false); err != nil && !fault.Is(err, fault.NotFound) {
				return err
			}
		}
	}
	return nil
}

// fromBlock takes what is short from one block. With mustOwn a block of
// another node is Conflict. A missing block is NotFound.
func (a *assignment) fromBlock(ctx context.Context, p netip.Prefix, mustOwn bool) error {
	var tried try
	return again(ctx, func() error {
		b, rev, err := a.c.block(ctx, p)
		if err != nil {
			return err
		}
		if tried.landed(b, a.req.holder()) {
			a.given = append(a.given, tried.addrs...)
			return nil
		}
		if err := tried.undo(ctx, a.c, b, a.req.Handle); err != nil {
			return err
		}
		if mustOwn && !b.OwnedBy(a.req.Node) {
			return fault.New(fault.Conflict, "assign from block %s: it belongs to %s", p, ownerOf(b))
		}
		b.Cool(a.c.Now(), a.conf.Cooldown())
		addrs := b.AssignNext(a.short(), a.req.holder(), a.kept.has)
		if len(addrs) == 0 {
			return nil
		}
		if err := a.c.countUp(ctx, a.req.Handle, p, len(addrs)); err != nil {
			return err
		}
		tried = try{addrs: addrs, sequence: b.Sequence}
		_, err = a.c.putBlock(ctx, b, rev)
		if err == nil {
			a.given = append(a.given, addrs...)
			return nil
		}
		tried.uncertain = errors.Is(err, errUncertain)
		return raced(err)
	})
}

// try is an assignment that was written and whose write failed.
type try struct {
	addrs     []netip.Addr
	sequence  uint64 // of the block it was based on
	uncertain bool   // the write may have happened all the same
}

// landed reports whether the write that seemed to fail is what made b hold
// the addresses for who. Without a handle that cannot be told.
func (t try) landed(b *alloc.Block, who alloc.Attribute) bool {
	if !t.uncertain || who.Handle == "" {
		return false
	}
	for _, addr := range t.addrs {
		holder, ok := b.Holder(addr)
		if !ok || !holder.Equal(who) || b.SequenceOf(addr) != t.sequence {
			return false
		}
	}
	return true
}

// undo takes the addresses that did not land off the handle again. One that
// may have landed stays counted.
func (t *try) undo(ctx context.Context, c *Client, b *alloc.Block, handle string) error {
	n := len(t.addrs)
	uncertain := t.uncertain
	*t = try{}
	if n == 0 || uncertain {
		return nil
	}
	return c.countDown(ctx, handle, b.CIDR, n, len(b.ByHandle(handle)))
}

// exhausted says how the pools stand and why no more came of them.
func (a *assignment) exhausted(ctx context.Context, limit bool) error {
	what := fault.New(fault.Exhausted, "assign %d IPv%d addresses on %s: %d given; %s",
		a.req.Num, a.req.Family, a.req.Node, len(a.given), a.c.shortage(ctx, a.pools))
	switch {
	case limit:
		return fault.Hint(what, "the node owns its limit of %d blocks: raise maxBlocksPerHost", a.maxBlocks())
	case !a.conf.AutoAllocate:
		return fault.Hint(what, "autoAllocateBlocks is false: claim a block for the node, or allow it to")
	}
	return fault.Hint(what, "ocicat ipam show --show-blocks lists who holds what; add a pool or enlarge one")
}

// AssignIPRequest asks for one particular address.
type AssignIPRequest struct {
	Node   string
	Addr   netip.Addr
	Handle string
	Attrs  map[string]string
	Use    Use // "" takes a pool of any use
}

// AssignIP gives one particular address. If its block does not exist, the
// node claims it. An address outside the enabled pools is Invalid, one that
// is held, or in another node's block under strict affinity, Conflict.
// Reservations do not concern it.
func (c *Client) AssignIP(ctx context.Context, req AssignIPRequest) error {
	pool, ok, err := c.poolOf(ctx, req.Addr)
	switch {
	case err != nil:
		return err
	case !ok:
		return fault.Hint(fault.New(fault.Invalid, "assign %s: it is in no pool", req.Addr), "ocicat get ippool lists the pools")
	case closed(pool) != "":
		return fault.New(fault.Invalid, "assign %s: its pool %s %s", req.Addr, pool.Name, closed(pool))
	case req.Use != "" && !allows(pool, req.Use):
		return fault.Hint(fault.New(fault.Invalid, "assign %s: pool %s is not for use %s", req.Addr, pool.Name, req.Use), "allowedUses of the pool are %v", pool.AllowedUses)
	}
	conf, err := c.GetConfig(ctx)
	if err != nil {
		return err
	}
	who := alloc.Attribute{Handle: req.Handle, Secondary: req.Attrs}
	p := cidr.BlockOf(req.Addr, pool.BlockSize)
	var tried try
	return again(ctx, func() error {
		b, rev, err := c.block(ctx, p)
		if fault.Is(err, fault.NotFound) {
			if err := c.claimBlock(ctx, req.Node, p); err != nil && !fault.Is(err, fault.Conflict) {
				return err
			}
			return lost{err}
		}
		if err != nil {
			return err
		}
		if tried.landed(b, who) {
			return nil
		}
		if err := tried.undo(ctx, c, b, req.Handle); err != nil {
			return err
		}
		if conf.StrictAffinity && !b.OwnedBy(req.Node) {
			return fault.Hint(fault.New(fault.Conflict, "assign %s to %s: its block %s belongs to %s", req.Addr, req.Node, p, ownerOf(b)), "with strictAffinity a node uses only its own blocks")
		}
		b.Cool(c.Now(), conf.Cooldown())
		if err := b.Assign(req.Addr, who); err != nil {
			return err
		}
		if err := c.countUp(ctx, req.Handle, p, 1); err != nil {
			return err
		}
		tried = try{addrs: []netip.Addr{req.Addr}, sequence: b.Sequence}
		_, err = c.putBlock(ctx, b, rev)
		tried.uncertain = errors.Is(err, errUncertain)
		return raced(err)
	})
}

func rangesOf(pools []cluster.Pool) []poolRange {
	all := make([]poolRange, len(pools))
	for i, p := range pools {
		all[i] = poolRange{p.CIDR, p.BlockSize}
	}
	return all
}

func prefixesOf(ranges []poolRange) []netip.Prefix {
	all := make([]netip.Prefix, len(ranges))
	for i, r := range ranges {
		all[i] = r.cidr
	}
	return all
}
