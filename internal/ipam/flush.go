// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/names"
)

// flush writes everything pending, block by block, and answers who waits. One
// block that fails does not stop the others.
func (r *Reserve) flush(ctx context.Context, touch bool) error {
	f := &flushing{r: r, ctx: ctx}
	r.mu.Lock()
	if r.identity == nil {
		f.waiting, r.waiters = r.waiters, nil
	}
	r.mu.Unlock()
	defer f.fail(fault.New(fault.Internal, "not answered"))
	f.fromQueue()
	f.prepare()
	jobs, err := r.collect(ctx, touch)
	if err != nil {
		f.fail(err)
		return err
	}
	f.jobs = jobs
	f.wanted()
	f.ownBlocks()
	f.newBlocks()
	f.spareBlock()
	return errors.Join(f.errs...)
}

// flushing is one flush under way.
type flushing struct {
	r       *Reserve
	ctx     context.Context
	jobs    map[netip.Prefix]*batch
	waiting []*waiter               // not answered yet
	ranges  map[*waiter][]poolRange // the pools each may be served from
	auto    []poolRange             // the pools addresses are held ready from
	kept    reserved                // never given unasked
	conf    *alloc.Config           // nil until somebody needs it
	errs    []error
}

// fail answers all who still wait.
func (f *flushing) fail(err error) {
	for _, w := range f.waiting {
		f.answer(w, netip.Addr{}, err)
	}
	f.waiting = nil
}

// answer ends one wait. An address that nobody waits for any more goes back.
func (f *flushing) answer(w *waiter, addr netip.Addr, err error) {
	if fault.Is(err, fault.Unavailable) {
		err = noAnswer(err)
	}
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	w.addr, w.err = addr, err
	close(w.done)
	delete(f.r.waiting, w.claim.Handle)
	f.r.exhaustion(w, err)
	if w.abandoned && err == nil {
		delete(f.r.pods, addr)
		f.r.giveBack(w.claim.Handle, addr, nil)
	}
}

// fromQueue answers those who came before there was anything held ready.
func (f *flushing) fromQueue() {
	f.waiting = slices.DeleteFunc(f.waiting, func(w *waiter) bool {
		f.r.mu.Lock()
		addr, ok := f.r.pop(w.claim)
		if ok {
			f.r.pods[addr] = &pod{addr: addr, who: w.who, pending: true}
		}
		f.r.mu.Unlock()
		if ok {
			f.answer(w, addr, nil)
		}
		return ok
	})
}

// prepare finds the pools: those of each who waits, and those to hold ready
// from. Where none can be found, nothing is held ready.
func (f *flushing) prepare() {
	base := f.r.request()
	pools, err := f.r.c.poolsFor(f.ctx, base)
	if err == nil {
		f.kept, err = f.r.c.reserved(f.ctx)
	}
	if fault.Is(err, fault.NotFound) {
		err = fault.New(fault.Unavailable, "%w", err) // the node is about to be registered
	}
	f.auto = rangesOf(pools)
	f.ranges = map[*waiter][]poolRange{}
	f.waiting = slices.DeleteFunc(f.waiting, func(w *waiter) bool {
		ranges, err := f.auto, err
		if w.claim.Want.IsValid() {
			if fault.Is(err, fault.Exhausted) {
				err = nil // its own pool is asked, whoever that selects
			}
		} else if len(w.claim.Pools) > 0 {
			req, named := base, []cluster.Pool(nil)
			req.pools = w.claim.Pools
			named, err = f.r.c.poolsFor(f.ctx, req)
			ranges = rangesOf(named)
		}
		f.ranges[w] = ranges
		if err != nil {
			f.answer(w, netip.Addr{}, err)
		}
		return err != nil
	})
}

// wanted puts those who want one address to its block; a block that does not
// exist is claimed.
func (f *flushing) wanted() {
	f.waiting = slices.DeleteFunc(f.waiting, func(w *waiter) bool {
		if !w.claim.Want.IsValid() {
			return false
		}
		p, err := f.blockFor(w.claim.Want)
		if err != nil {
			f.answer(w, netip.Addr{}, err)
			return true
		}
		if f.jobs[p] == nil {
			f.jobs[p] = &batch{}
		}
		f.jobs[p].waiters = append(f.jobs[p].waiters, w)
		return true
	})
}

// blockFor is the block that holds addr: the node's own, claimed if it does not
// exist, or another's to borrow from. Where that is not allowed it is Conflict,
// naming the holder if there is one.
func (f *flushing) blockFor(addr netip.Addr) (netip.Prefix, error) {
	c := f.r.c
	pool, ok, err := c.poolOf(f.ctx, addr)
	switch {
	case err != nil:
		return netip.Prefix{}, err
	case !ok:
		return netip.Prefix{}, fault.Hint(fault.New(fault.Invalid, "address %s is in no pool", addr), "ocicat get ippool lists the pools")
	}
	if why := unfit(pool, f.r.request()); why != "" {
		return netip.Prefix{}, fault.Hint(fault.New(fault.Invalid, "address %s: its pool %s %s", addr, pool.Name, why), "ask for an address of another pool, or for none")
	}
	p := cidr.BlockOf(addr, pool.BlockSize)
	err = c.claimBlock(f.ctx, f.r.cfg.Node, p)
	if err == nil {
		f.r.addBlock(p)
		return p, nil
	}
	if fault.Is(err, fault.Conflict) {
		if f.mayBorrow() {
			return p, f.r.noteForeign(p)
		}
		if who, holderErr := c.Holder(f.ctx, addr); holderErr == nil {
			err = fault.New(fault.Conflict, "address %s is held by %s", addr, who)
		}
		err = fault.Hint(err, "ocicat ipam show --ip=%s says who holds it", addr)
	}
	return p, err
}

// ownBlocks writes the node's blocks in their order, giving to all who wait
// on the way, then the other blocks that are concerned.
func (f *flushing) ownBlocks() {
	own := f.r.Blocks()
	var order []netip.Prefix
	for _, b := range own {
		order = append(order, b.CIDR)
	}
	slices.SortFunc(order, func(a, b netip.Prefix) int { return strings.Compare(names.Block(a), names.Block(b)) })
	for _, p := range slices.SortedFunc(maps.Keys(f.jobs), cidr.Compare) {
		if !slices.Contains(order, p) {
			order = append(order, p)
		}
	}
	for _, p := range order {
		isOwn := slices.ContainsFunc(own, func(b cluster.Block) bool { return b.CIDR == p })
		if f.jobs[p] == nil && !(isOwn && (len(f.waiting) > 0 || f.short(p) > 0) && f.mayHaveRoom(p)) {
			continue
		}
		if isOwn && !f.confirm(p) {
			continue
		}
		f.block(p, isOwn)
	}
}

// confirm completes the claim of an own block that was left half-way; it
// matters only to those who would be given addresses of it.
func (f *flushing) confirm(p netip.Prefix) bool {
	f.r.mu.Lock()
	confirmed := f.r.blocks[p]
	f.r.mu.Unlock()
	if confirmed || f.jobs[p] != nil {
		return true
	}
	err := f.r.c.claimBlock(f.ctx, f.r.cfg.Node, p)
	if err == nil {
		f.r.addBlock(p)
	} else if !fault.Is(err, fault.Conflict) {
		f.errs = append(f.errs, err)
	}
	return err == nil
}

// mayHaveRoom is false where the block as last seen has no free address.
func (f *flushing) mayHaveRoom(p netip.Prefix) bool {
	seen, ok := f.r.cache.get(p)
	if !ok {
		return true
	}
	b, err := alloc.ParseBlock(seen.value)
	return err != nil || f.free(b) > 0
}

// free counts the addresses of b that could be given unasked.
func (f *flushing) free(b *alloc.Block) int {
	if rest, err := f.rest(b, &batch{}); err == nil {
		b.Cool(time.Now(), rest)
	}
	return b.Assignable(f.kept.has)
}

// rest is how long addresses of b rest after their release; the configuration
// is asked only where that matters.
func (f *flushing) rest(b *alloc.Block, bt *batch) (time.Duration, error) {
	if len(bt.releases) == 0 && b.RestingCount() == 0 {
		return 0, nil
	}
	conf, err := f.config()
	return conf.Cooldown(), err
}

// block writes one block, with as many of those who wait as it can serve.
func (f *flushing) block(p netip.Prefix, own bool) {
	bt := f.jobs[p]
	if bt == nil {
		bt = &batch{}
	}
	delete(f.jobs, p)
	if own {
		bt.waiters = append(bt.waiters, f.suited(p)...)
	}
	out, err := f.r.writeBlock(f, p, bt, own)
	if err != nil {
		f.errs = append(f.errs, err)
	}
	for _, w := range bt.waiters {
		addr, given := out.given[w]
		refused := out.refused[w]
		switch {
		case err != nil:
			f.settle(w, netip.Addr{}, unavailable(err))
		case refused != nil:
			f.settle(w, netip.Addr{}, refused)
		case given:
			f.settle(w, addr, nil)
		}
	}
}

// unavailable is what a take answers whose write failed: a lost race is no
// verdict on its address.
func unavailable(err error) error {
	if fault.Is(err, fault.Conflict) {
		return fault.New(fault.Unavailable, "%w", err)
	}
	return err
}

// settle answers w and takes it off the list.
func (f *flushing) settle(w *waiter, addr netip.Addr, err error) {
	f.waiting = slices.DeleteFunc(f.waiting, func(other *waiter) bool { return other == w })
	f.answer(w, addr, err)
}

// suited lists who waits for an address that p could give.
func (f *flushing) suited(p netip.Prefix) []*waiter {
	var suited []*waiter
	for _, w := range f.waiting {
		if inRanges(p, f.ranges[w]) {
			suited = append(suited, w)
		}
	}
	return suited
}

func inRanges(p netip.Prefix, ranges []poolRange) bool {
	return slices.ContainsFunc(ranges, func(r poolRange) bool { return r.bits == p.Bits() && cidr.Covers(r.cidr, p) })
}

// newBlocks claims blocks for those the own ones could not serve.
func (f *flushing) newBlocks() {
	for len(f.waiting) > 0 {
		first := f.waiting[0]
		p, err := f.claimNew(f.ranges[first])
		if fault.Is(err, fault.Exhausted) {
			if f.borrow(first) {
				continue
			}
			err = f.exhausted(err)
		}
		if err != nil {
			f.settle(first, netip.Addr{}, err)
			continue
		}
		f.block(p, true)
		if slices.Contains(f.waiting, first) { // others were faster: it stays in the list
			continue
		}
	}
}

// claimNew claims the next block of the node in ranges.
func (f *flushing) claimNew(ranges []poolRange) (netip.Prefix, error) {
	r := f.r
	if err := r.unchanged(f.ctx); err != nil {
		return netip.Prefix{}, err
	}
	for range tries {
		known := blockSet(r.Blocks())
		if err := f.mayClaim(len(known)); err != nil {
			return netip.Prefix{}, err
		}
		p, ok, err := r.c.freeBlock(f.ctx, request{node: r.cfg.Node}, ranges, known, f.kept.leaves)
		if err != nil {
			return p, err
		}
		if !ok {
			return p, fault.Hint(fault.New(fault.Exhausted, "the node's blocks are full, and no block of the pools is left"),
				"ocicat ipam show --show-blocks lists who holds what; add a pool or enlarge one")
		}
		err = r.c.claimBlock(f.ctx, r.cfg.Node, p)
		if err == nil {
			r.addBlock(p)
			r.setRoom(-1)
			r.log.Info("block claimed", "block", p)
			return p, nil
		}
		if !fault.Is(err, fault.Conflict) {
			return p, err
		}
	}
	return netip.Prefix{}, fault.New(fault.Unavailable, "claim a block: lost %d races", tries)
}

// mayClaim is nil if the configuration lets a node with n blocks claim one.
func (f *flushing) mayClaim(n int) error {
	conf, err := f.config()
	if err != nil {
		return err
	}
	limit := conf.MaxBlocks
	if limit == 0 {
		limit = defaultMaxBlocks
	}
	switch {
	case !conf.AutoAllocate:
		return fault.Hint(fault.New(fault.Exhausted, "the node's blocks are full and autoAllocateBlocks is false"), "claim a block for the node, or allow it to")
	case n >= limit:
		return fault.Hint(fault.New(fault.Exhausted, "the node's %d blocks are full, and that is its limit", n), "raise maxBlocksPerHost of the IPAM configuration")
	}
	return nil
}

// config is the cluster's configuration, read once.
func (f *flushing) config() (alloc.Config, error) {
	if f.conf == nil {
		conf, err := f.r.c.GetConfig(f.ctx)
		if err != nil {
			return conf, err
		}
		f.conf = &conf
	}
	return *f.conf, nil
}

func blockSet(blocks []cluster.Block) map[netip.Prefix]bool {
	set := map[netip.Prefix]bool{}
	for _, b := range blocks {
		set[b.CIDR] = true
	}
	return set
}

// short is how many addresses of a block like p are missing from the reserve.
func (f *flushing) short(p netip.Prefix) int {
	r := f.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.identity != nil || !inRanges(p, f.auto) {
		return 0
	}
	return min(r.limit(), cidr.Size(p)/4) - len(r.queue)
}

// fill is how many addresses of b to hold ready: what is missing, but never
// the last ones of the pools.
func (f *flushing) fill(b *alloc.Block, missing int) int {
	if missing <= 0 {
		return 0
	}
	keep := min(f.r.limit(), cidr.Size(b.CIDR)/4)
	if free := f.free(b); free-missing < keep && f.room() == 0 {
		return max(0, free-keep)
	}
	return missing
}

// room is how many more blocks the node could claim; it counts to two, and
// only once between two looks or claims.
func (f *flushing) room() int {
	r := f.r
	r.mu.Lock()
	n := r.room
	r.mu.Unlock()
	if n >= 0 {
		return n
	}
	known := blockSet(r.Blocks())
	for n = 0; n < 2 && f.mayClaim(len(known)) == nil; n++ {
		p, ok, err := r.c.freeBlock(f.ctx, request{node: r.cfg.Node}, f.auto, known, f.kept.leaves)
		if err != nil || !ok {
			break
		}
		known[p] = true
	}
	r.setRoom(n)
	return n
}

func (r *Reserve) setRoom(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.room = n
}

// spareBlock claims a block for the reserve, once the own ones have nothing
// left to hold ready; the last free block of the pools is left to others.
func (f *flushing) spareBlock() {
	if len(f.auto) == 0 || f.r.limit() == 0 {
		return
	}
	sample := netip.PrefixFrom(f.auto[0].cidr.Addr(), f.auto[0].bits)
	if f.short(sample) <= 0 || len(f.errs) > 0 || slices.ContainsFunc(f.r.Blocks(), f.canFill) || f.room() < 2 {
		return
	}
	p, err := f.claimNew(f.auto)
	if err == nil {
		f.block(p, true)
	} else if !fault.Is(err, fault.Exhausted) {
		f.errs = append(f.errs, err)
	}
}

// canFill reports whether addresses of an own block could be held ready.
func (f *flushing) canFill(b cluster.Block) bool {
	return inRanges(b.CIDR, f.auto) && f.mayHaveRoom(b.CIDR)
}
