// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"errors"
	"maps"
	"math"
	"net/netip"
	"slices"
	"sync"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/problem"
)

// handleWrites is how many handles are written at once.
const handleWrites = 8

// writeBlock makes bt true of one block: handles first, then the block, then
// the handles of what left it. An error says that none of it is known to be
// true, except that releases may be left for the next round.
func (r *Reserve) writeBlock(f *flushing, p netip.Prefix, bt *batch, own bool) (out outcome, err error) {
	var b *alloc.Block
	err = again(f.ctx, func() error {
		var err error
		if b, err = r.cachedBlock(f.ctx, p); fault.Is(err, fault.NotFound) {
			b, out = &alloc.Block{CIDR: p}, outcome{}
			return r.missingBlock(f.ctx, p, bt)
		}
		if err != nil {
			return err
		}
		fill := 0
		if own {
			fill = f.fill(b, f.short(p))
		}
		rest, err := f.rest(b, bt)
		if err != nil {
			return err
		}
		out = r.plan(b, bt, planner{skip: f.kept.has, now: r.c.Now(), rest: rest, fill: fill})
		if out.change {
			if err := r.putPlanned(f.ctx, b, bt, out); err != nil {
				r.unplan(out)
				return err
			}
		}
		r.finish(b, bt, out)
		return nil
	})
	if err != nil {
		return outcome{}, err
	}
	if err := errors.Join(r.forget(f.ctx, b, bt), r.saveQueue()); err != nil {
		f.errs = append(f.errs, err)
	}
	return out, nil
}

// cachedBlock is a block as the writer left it, or as stored.
func (r *Reserve) cachedBlock(ctx context.Context, p netip.Prefix) (*alloc.Block, error) {
	if seen, ok := r.cache.get(p); ok {
		return alloc.ParseBlock(seen.value)
	}
	e, err := r.c.Store.Get(ctx, blockKey(p))
	if err != nil {
		return nil, err
	}
	r.cache.set(p, cached{e.Value, e.Revision})
	return alloc.ParseBlock(e.Value)
}

// missingBlock claims a block that pods hold addresses of; for releases its
// absence is all they ask for.
func (r *Reserve) missingBlock(ctx context.Context, p netip.Prefix, bt *batch) error {
	if len(bt.pods)+len(bt.waiters) == 0 {
		return nil
	}
	if err := r.c.claimBlock(ctx, r.cfg.Node, p); err != nil && !fault.Is(err, fault.Conflict) {
		return err
	}
	return lost{fault.New(fault.Conflict, "block %s was missing", p)}
}

// plan works bt out on b with p, and reserves what it gives: from now on nobody
// else is given it.
func (r *Reserve) plan(b *alloc.Block, bt *batch, p planner) outcome {
	r.mu.Lock()
	defer r.mu.Unlock()
	p.self, p.busy, p.resting = r.own(), r.busy, r.rests
	p.inPod = func(addr netip.Addr) bool { return r.pods[addr] != nil }
	out := p.apply(b, bt)
	for w, addr := range out.given {
		r.pods[addr] = &pod{addr: addr, who: w.who, pending: true}
		r.queue = slices.DeleteFunc(r.queue, func(a netip.Addr) bool { return a == addr })
	}
	return out
}

// unplan takes the reservations of a plan back that was not written.
func (r *Reserve) unplan(out outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, addr := range out.given {
		delete(r.pods, addr)
	}
}

// putPlanned counts the handles and writes the block.
func (r *Reserve) putPlanned(ctx context.Context, b *alloc.Block, bt *batch, out outcome) error {
	if err := r.countHandles(ctx, b, out); err != nil {
		return err
	}
	if err := r.saveLeaving(bt, out); err != nil {
		return err
	}
	prev, _ := r.cache.get(b.CIDR)
	r.cache.drop(b.CIDR)
	if b.Affinity == "" && b.Empty() {
		return raced(r.c.remove(ctx, blockKey(b.CIDR), prev.rev)) // nobody's, and its last address was released
	}
	b.Sequence++
	data, err := b.Encode()
	if err != nil {
		return err
	}
	rev, err := r.c.put(ctx, blockKey(b.CIDR), data, prev.rev)
	if err != nil {
		return raced(err)
	}
	r.cache.set(b.CIDR, cached{data, rev})
	return nil
}

// countHandles makes the handles of all new holders count their address, the
// reserve's only where it holds more than it is known to count.
func (r *Reserve) countHandles(ctx context.Context, b *alloc.Block, out outcome) error {
	var work []func() error
	for _, who := range out.written {
		work = append(work, func() error { return r.c.countAtLeast(ctx, who.Handle, b.CIDR, 1) })
	}
	if held := len(b.ByHandle(r.handle)); held > r.counted[b.CIDR] {
		work = append(work, func() error {
			err := r.c.countAtLeast(ctx, r.handle, b.CIDR, held)
			if err == nil {
				r.counted[b.CIDR] = held
			}
			return err
		})
	}
	return parallel(work)
}

// parallel runs work, a few at a time, and joins the errors.
func parallel(work []func() error) error {
	errs := make([]error, len(work))
	var all sync.WaitGroup
	slots := make(chan struct{}, handleWrites)
	for i, do := range work {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			errs[i] = do()
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// saveLeaving takes addresses off the lease file before they become a pod's
// or free in the datastore.
func (r *Reserve) saveLeaving(bt *batch, out outcome) error {
	var leaving []netip.Addr
	for _, pd := range bt.pods {
		leaving = append(leaving, pd.addr)
	}
	for _, rel := range bt.releases {
		leaving = append(leaving, rel.addr)
	}
	leaving = slices.AppendSeq(leaving, maps.Values(out.given))
	r.mu.Lock()
	named := slices.ContainsFunc(leaving, func(a netip.Addr) bool { return r.saved[a] })
	r.mu.Unlock()
	if !named {
		return nil
	}
	return r.saveLease(leaving)
}

// saveQueue writes the lease file if it does not name what is held ready.
func (r *Reserve) saveQueue() error {
	r.mu.Lock()
	same := len(r.saved) == len(r.queue) && !slices.ContainsFunc(r.queue, func(a netip.Addr) bool { return !r.saved[a] })
	r.mu.Unlock()
	if same {
		return nil
	}
	return r.saveLease(nil)
}

// finish notes what b says now.
func (r *Reserve) finish(b *alloc.Block, bt *batch, out outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, pd := range bt.pods {
		pd.pending = false
		key := pd.addr.String()
		holder, taken := out.taken[pd]
		if !taken {
			delete(r.problems, key)
			continue
		}
		if _, known := r.problems[key]; !known {
			r.log.Error("address of a pod is held by another", "address", pd.addr, "pod", pd.who, "holder", holder)
		}
		r.problems[key] = problem.New(problem.AddressTaken, key, pd.addr, pd.who, holder)
	}
	for _, addr := range out.given {
		if pd := r.pods[addr]; pd != nil {
			pd.pending = false
		}
	}
	r.requeue(out.held, b.CIDR.Contains)
}

// forget ends releases: their handles no longer count the address, and whoever
// asked is told.
func (r *Reserve) forget(ctx context.Context, b *alloc.Block, bt *batch) error {
	var work []func() error
	for _, rel := range bt.releases {
		work = append(work, func() error {
			left := len(b.ByHandle(rel.handle))
			if err := r.c.countDown(ctx, rel.handle, b.CIDR, math.MaxInt32, left); err != nil {
				return err
			}
			r.released(rel)
			return nil
		})
	}
	if slices.ContainsFunc(bt.releases, func(rel *release) bool { return rel.handle == r.handle }) {
		delete(r.counted, b.CIDR)
	}
	return parallel(work)
}
