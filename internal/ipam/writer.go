// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
)

// Times of the writer.
const (
	checkInterval = time.Minute           // between two looks at the node's blocks, which no news causes
	writeTimeout  = 30 * time.Second      // of one round
	writeRetry    = 50 * time.Millisecond // after a round that failed, doubling …
	maxWriteRetry = 30 * time.Second      // … up to this
	gatherTime    = 50 * time.Millisecond // how long a write nobody waits for waits for others
)

// attention is how closely a round looks at the node's blocks before it writes.
type attention uint8

// The degrees of attention.
const (
	onlyWrite attention = iota // not at all, unless the watches said something new
	consider                   // at what is known of them
	readAll                    // at what the datastore says
)

// checkInterval is the time between two looks, shorter with a short lease.
func (r *Reserve) checkInterval() time.Duration { return min(checkInterval, r.cfg.Times.Beat) }

// write writes behind, tops up and checks, until ctx ends.
func (r *Reserve) write(ctx context.Context) {
	check := time.NewTicker(r.checkInterval())
	defer check.Stop()
	watches := newBlockWatches(r)
	defer watches.stop()
	look, wait := readAll, time.Duration(0) // wait: until the retry of a round that failed
	var news <-chan time.Time               // when what the watches said is taken in
	var heard time.Time                     // when that was done last
	for {
		var retry <-chan time.Time
		if wait > 0 {
			retry = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return
		case <-r.kick:
			r.gather(ctx)
		case <-retry:
		case <-check.C:
			look = max(look, consider)
		case <-r.news:
			if news == nil {
				news = time.After(newsGap - time.Since(heard))
			}
			continue
		case heard = <-news:
			news = nil
		}
		if errors.Is(r.allowed(), errStarting) {
			continue // the heartbeat will kick
		}
		if r.refresh.Swap(false) {
			look = readAll
		}
		err := r.round(ctx, look)
		if ctx.Err() != nil {
			return
		}
		watches.follow(ctx, r.concerning())
		if r.noteAway(err); err != nil {
			wait = min(max(2*wait, writeRetry), maxWriteRetry)
			continue
		}
		look, wait = onlyWrite, 0
	}
}

// gather lets a moment pass in which others come whose writes go along: pods
// come and go in groups, and each block is one write. Nothing waits while
// somebody waits for the datastore, or little is left that is held ready.
func (r *Reserve) gather(ctx context.Context) {
	enough := time.NewTimer(gatherTime)
	defer enough.Stop()
	for !r.urgent() {
		select {
		case <-ctx.Done():
			return
		case <-enough.C:
			return
		case <-r.kick:
		}
	}
}

// urgent reports whether the next write should not wait for others.
func (r *Reserve) urgent() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.waiters) > 0 || r.full != nil || 2*len(r.queue) <= r.limit()
}

// noteAway remembers whether the datastore answers, and logs the edges.
func (r *Reserve) noteAway(err error) {
	r.mu.Lock()
	before := r.away
	r.away = err
	r.mu.Unlock()
	switch {
	case before == nil && err != nil:
		r.log.Warn("assignments not written, trying again", "pending", r.State().Pending, "error", err)
	case before != nil && err == nil:
		r.log.Info("assignments written again")
	}
}

// round writes what is pending, after a look at the node's blocks.
func (r *Reserve) round(ctx context.Context, at attention) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if err := r.lockWrites(ctx); err != nil {
		return err
	}
	defer r.unlockWrites()
	if r.absorb() {
		at = max(at, consider)
	}
	if at != onlyWrite {
		if err := r.look(ctx, at); err != nil {
			r.failWaiters(noAnswer(err))
			return err
		}
		if err := r.giveUpIdle(ctx); err != nil {
			return err
		}
		if err := r.relent(ctx); err != nil {
			return err
		}
	}
	return errors.Join(r.flush(ctx, false), r.disown(ctx))
}

// reassert makes every address of this instance true in the datastore again,
// each by a write: what the datastore says was not written after this agent's
// last word.
func (r *Reserve) reassert(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if err := r.lockWrites(ctx); err != nil {
		return err
	}
	defer r.unlockWrites()
	clear(r.counted)
	if err := r.look(ctx, readAll); err != nil {
		return err
	}
	return r.flush(ctx, true)
}

func (r *Reserve) lockWrites(ctx context.Context) error {
	select {
	case r.writes <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fault.New(fault.Unavailable, "wait for another write: %w", ctx.Err())
	}
}

func (r *Reserve) unlockWrites() { <-r.writes }

// look compares the node's blocks with what this agent knows: which addresses
// are held ready, which pods the datastore does not know, which allocations no
// pod accounts for.
func (r *Reserve) look(ctx context.Context, at attention) error {
	if err := r.hearProtest(ctx); err != nil {
		return err
	}
	pools, err := r.c.Pools(ctx)
	if err != nil {
		return err
	}
	offered, err := r.offered(ctx)
	if err != nil {
		return err
	}
	claimed := r.claimed()
	if at == readAll {
		r.cache.clear()
		if claimed, err = r.c.claims(ctx, r.cfg.Node); err != nil {
			return err
		}
	}
	own, err := r.ownBlocks(ctx, claimed, at)
	if err != nil {
		return err
	}
	foreign, err := r.foreignBlocks(ctx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pools, r.room = pools, -1
	r.sight(append(own, foreign...))
	r.trim(offered)
	return nil
}

// claimed are the node's claims as far as they are known.
func (r *Reserve) claimed() []claim {
	var all []claim
	for _, b := range r.Blocks() {
		state := alloc.Pending
		if b.Confirmed {
			state = alloc.Confirmed
		}
		all = append(all, claim{r.cfg.Node, b.CIDR, state})
	}
	return all
}

// ownBlocks makes those of claims that are the node's its blocks. Where one is
// found to be gone, the next look reads what its claim says.
func (r *Reserve) ownBlocks(ctx context.Context, claims []claim, at attention) ([]*alloc.Block, error) {
	blocks := map[netip.Prefix]bool{}
	var own []*alloc.Block
	for _, cl := range claims {
		b, err := r.cachedBlock(ctx, cl.block)
		if fault.Is(err, fault.NotFound) {
			blocks[cl.block] = false
			if at == consider && cl.state == alloc.Confirmed {
				r.Refresh()
			}
			continue
		}
		if err != nil && !fault.Is(err, fault.Internal) {
			return nil, err
		}
		if err != nil || !b.OwnedBy(r.cfg.Node) {
			r.cache.drop(cl.block)
			continue // the first is reported by whoever lists objects, the second is a stale claim
		}
		blocks[cl.block] = cl.state == alloc.Confirmed
		own = append(own, b)
	}
	r.setBlocks(blocks)
	return own, nil
}

// request is what pods of this node may be given without asking for it.
func (r *Reserve) request() request { return request{node: r.cfg.Node, use: Workload, family: 4} }

// offered tells which addresses pods may be given unasked as pools, selectors
// and reservations are now. While the node is not known it is all.
func (r *Reserve) offered(ctx context.Context) (func(netip.Addr) bool, error) {
	kept, err := r.c.reserved(ctx)
	if err != nil {
		return nil, err
	}
	pools, err := r.c.poolsFor(ctx, r.request())
	switch {
	case fault.Is(err, fault.NotFound):
		return func(addr netip.Addr) bool { return !kept.has(addr) }, nil
	case err != nil && !fault.Is(err, fault.Exhausted):
		return nil, err
	}
	return func(addr netip.Addr) bool {
		return !kept.has(addr) && slices.ContainsFunc(pools, func(p cluster.Pool) bool { return p.CIDR.Contains(addr) })
	}, nil
}

// sight compares what the own blocks, and those borrowed from, hold with what
// this agent knows.
func (r *Reserve) sight(blocks []*alloc.Block) {
	type ready struct {
		addr netip.Addr
		seq  uint64
	}
	var held []ready
	strays, resting := map[stray]time.Time{}, map[netip.Addr]time.Time{}
	for _, b := range blocks {
		own := b.OwnedBy(r.cfg.Node)
		for _, addr := range b.HeldBy(r.isMine) {
			who, _ := b.Holder(addr)
			switch {
			case r.busy(addr):
			case who.Handle != r.handle && r.hasPod(who.Handle):
				// the container lives: all that is its stays until its DEL
			case who.Handle != r.handle:
				s := stray{addr, who.Handle}
				strays[s] = firstSeen(r.strays[s])
				r.judge(s, who, strays[s])
			case !own:
				r.giveBack(r.handle, addr, nil) // the block was its own once
			case who.Secondary[alloc.AttrBoot] != r.cfg.BootID:
				resting[addr] = firstSeen(r.resting[addr])
				if time.Since(resting[addr]) >= r.cfg.Times.Lease {
					held = append(held, ready{addr, b.SequenceOf(addr)})
				}
			default:
				held = append(held, ready{addr, b.SequenceOf(addr)})
			}
		}
	}
	r.strays, r.resting = strays, resting
	slices.SortStableFunc(held, func(a, b ready) int { return cmp.Compare(a.seq, b.seq) })
	var addrs []netip.Addr
	for _, h := range held {
		addrs = append(addrs, h.addr)
	}
	r.requeue(addrs, func(netip.Addr) bool { return true })
	for _, p := range r.pods {
		p.pending = true // flush finds whether it is so
	}
}

// isMine reports whether this machine made an allocation, in any boot.
func (r *Reserve) isMine(who alloc.Attribute) bool {
	return who.Handle == r.handle ||
		who.Secondary[alloc.AttrInstance] == r.cfg.InstanceUID && who.Secondary[alloc.AttrNode] == r.cfg.Node
}

// firstSeen is before, or now if that is not set.
func firstSeen(before time.Time) time.Time {
	if before.IsZero() {
		return time.Now()
	}
	return before
}

// rests reports whether an address held ready by another boot of this machine
// may still be given there. After a reboot nobody does; but a copy of the
// machine's disk looks the same, and its lease ends only with time.
func (r *Reserve) rests(addr netip.Addr) bool {
	since, known := r.resting[addr]
	return known && time.Since(since) < r.cfg.Times.Lease
}

// requeue makes held the queue's part that of names. Addresses that were
// queued keep their place, new ones go to the end.
func (r *Reserve) requeue(held []netip.Addr, of func(netip.Addr) bool) {
	r.queue = slices.DeleteFunc(r.queue, func(a netip.Addr) bool { return of(a) && !slices.Contains(held, a) })
	for _, addr := range held {
		if !r.busy(addr) && !slices.Contains(r.queue, addr) {
			r.queue = append(r.queue, addr)
		}
	}
}

// hasPod reports whether a pod holds an address under handle; r.mu is held.
func (r *Reserve) hasPod(handle string) bool {
	for _, p := range r.pods {
		if p.who.Handle == handle {
			return true
		}
	}
	return false
}

// busy reports whether an address is a pod's or on its way back; r.mu is
// held.
func (r *Reserve) busy(addr netip.Addr) bool { return r.pods[addr] != nil || r.releases[addr] != nil }

// trim gives back what is held beyond the size, or is not offered to pods any
// more.
func (r *Reserve) trim(offered func(netip.Addr) bool) {
	kept := r.queue[:0:0]
	for _, addr := range r.queue {
		if len(kept) < r.limit() && offered(addr) {
			kept = append(kept, addr)
			continue
		}
		r.giveBack(r.handle, addr, nil)
	}
	r.queue = kept
}

// collect sorts what is pending by block. Addresses that no block or pool
// holds are settled at once.
func (r *Reserve) collect(ctx context.Context, touch bool) (map[netip.Prefix]*batch, error) {
	r.mu.Lock()
	var pods []*pod
	var releases []*release
	for _, p := range r.pods {
		if p.pending {
			pods = append(pods, p)
		}
	}
	for _, rel := range r.releases {
		releases = append(releases, rel)
	}
	own := r.blockList()
	r.mu.Unlock()

	jobs := map[netip.Prefix]*batch{}
	at := func(p netip.Prefix) *batch {
		if jobs[p] == nil {
			jobs[p] = &batch{touch: touch}
		}
		return jobs[p]
	}
	if touch {
		for _, b := range own {
			at(b.CIDR)
		}
	}
	find := func(addr netip.Addr) (netip.Prefix, bool, error) {
		for _, b := range own {
			if b.CIDR.Contains(addr) {
				return b.CIDR, true, nil
			}
		}
		return r.c.blockOf(ctx, addr)
	}
	for _, pd := range pods {
		p, ok, err := find(pd.addr)
		if err != nil {
			return nil, err
		}
		if ok {
			at(p).pods = append(at(p).pods, pd)
		}
	}
	for _, rel := range releases {
		p, ok, err := find(rel.addr)
		if err != nil {
			return nil, err
		}
		if !ok {
			if err := r.forgetHandle(ctx, rel); err != nil {
				return nil, err
			}
			continue
		}
		at(p).releases = append(at(p).releases, rel)
	}
	for _, bt := range jobs {
		slices.SortFunc(bt.releases, func(a, b *release) int { return cmp.Compare(a.order, b.order) })
		slices.SortFunc(bt.pods, func(a, b *pod) int { return a.addr.Compare(b.addr) })
	}
	return jobs, nil
}

// forgetHandle ends a release of an address whose block and pool are gone:
// only its handle is left.
func (r *Reserve) forgetHandle(ctx context.Context, rel *release) error {
	if rel.handle != r.handle {
		if err := r.c.ReleaseByHandle(ctx, rel.handle); err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
	}
	r.released(rel)
	return nil
}

// released ends a release and tells whoever asked.
func (r *Reserve) released(rel *release) {
	r.mu.Lock()
	delete(r.releases, rel.addr)
	if r.full != nil {
		r.refresh.Store(true) // there may be room again
		r.wake()
	}
	done := rel.done
	r.mu.Unlock()
	for _, tell := range done {
		tell()
	}
}
