// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"slices"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/problem"
)

// exhaustion remembers what a take that asked for nothing special was answered:
// Exhausted, or not. r.mu is held.
func (r *Reserve) exhaustion(w *waiter, err error) {
	switch {
	case err == nil:
		r.full = nil
		delete(r.problems, "exhausted")
	case fault.Is(err, fault.Exhausted):
		r.problems["exhausted"] = problem.New(problem.NoFreeAddress, r.cfg.Node, err)
		if !w.claim.Want.IsValid() && len(w.claim.Pools) == 0 {
			r.full = err
		}
	}
}

// relent looks whether there are addresses again, once a take found none: in
// own blocks, in one that could be claimed, or to borrow. Nobody may ask until
// it says so, as a node without addresses gets no pods. Whoever calls it fills
// writes.
func (r *Reserve) relent(ctx context.Context) error {
	r.mu.Lock()
	full := r.full
	r.mu.Unlock()
	if full == nil {
		return nil
	}
	f := &flushing{r: r, ctx: ctx}
	f.prepare()
	if f.room() == 0 {
		blocks, err := r.c.blocks(ctx)
		if err != nil {
			return err
		}
		own, borrows := blockSet(r.Blocks()), f.mayBorrow()
		if !slices.ContainsFunc(blocks, func(b *alloc.Block) bool {
			return (own[b.CIDR] || borrows && !b.Virtual()) && inRanges(b.CIDR, f.auto) && f.free(b) > 0
		}) {
			return nil
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.full = nil
	delete(r.problems, "exhausted")
	return nil
}
