// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/fault"
)

// batch is what one write of a block should bring about.
type batch struct {
	pods     []*pod // each shall be held by its pod
	releases []*release
	waiters  []*waiter // as many as possible shall get an address
	touch    bool      // write even if nothing changes
}

// outcome is what a batch comes to on a block as it stands. It depends on
// nothing else, so that after a lost race or a lost answer it is worked out
// anew from what is stored then.
type outcome struct {
	change  bool
	written []alloc.Attribute        // new holders, whose handles must count first
	given   map[*waiter]netip.Addr   // answers
	refused map[*waiter]error        // takes of one address that cannot be
	taken   map[*pod]alloc.Attribute // pods whose address somebody else holds
	held    []netip.Addr             // held ready afterwards, in the order they were assigned
}

// planner works a batch out. Nothing in it changes while it does.
type planner struct {
	self    alloc.Attribute       // of addresses held ready
	busy    func(netip.Addr) bool // addresses of pods and of releases under way
	resting func(netip.Addr) bool // addresses that another boot may still be giving
	skip    func(netip.Addr) bool // addresses only given when asked for; nil is none
	inPod   func(netip.Addr) bool // addresses of pods, also where a restored block calls them free
	now     time.Time             // for
	rest    time.Duration         // how long released addresses rest
	fill    int                   // how many more to hold ready
}

// apply changes b as bt asks.
func (p planner) apply(b *alloc.Block, bt *batch) outcome {
	b.Cool(p.now, p.rest)
	out := outcome{change: bt.touch, given: map[*waiter]netip.Addr{}, refused: map[*waiter]error{}, taken: map[*pod]alloc.Attribute{}}
	for _, pd := range bt.pods {
		p.assert(b, pd, &out)
	}
	for _, rel := range bt.releases {
		p.release(b, rel)
		out.change = true // also where it is free: an assignment under way must fail
	}
	for _, w := range bt.waiters {
		p.serve(b, w, &out)
	}
	out.held = p.held(b, out)
	quarter := cidr.Size(b.CIDR) / 4
	if n := min(p.fill, quarter-len(out.held)); n > 0 {
		if more := b.AssignNext(n, p.self, p.avoid); len(more) > 0 {
			out.held = append(out.held, more...)
			out.change = true
		}
	}
	return out
}

// assert makes pd hold its address: a free one, or one held ready, becomes
// its; somebody else's stays.
func (p planner) assert(b *alloc.Block, pd *pod, out *outcome) {
	holder, held := b.Holder(pd.addr)
	_, rests := b.Resting(pd.addr)
	switch {
	case held && holder.Handle == pd.who.Handle:
		return
	case held && holder.Handle != p.self.Handle:
		out.taken[pd] = holder
		return
	case held || rests:
		_ = b.Reassign(pd.addr, pd.who) // it is not free
	default:
		_ = b.Assign(pd.addr, pd.who) // it is free and in the block
	}
	out.written = append(out.written, pd.who)
	out.change = true
}

// release frees an address that its handle, or the reserve, holds.
func (p planner) release(b *alloc.Block, rel *release) {
	holder, held := b.Holder(rel.addr)
	if held && (holder.Handle == rel.handle || holder.Handle == p.self.Handle) {
		_, _, _ = b.Release([]alloc.Release{{Addr: rel.addr, Unused: rel.handle == p.self.Handle}}) // it is in the block
	}
}

// serve gives w an address: the one its handle has already, from a write whose
// answer was lost; the one it wants; or the next.
func (p planner) serve(b *alloc.Block, w *waiter, out *outcome) {
	for _, addr := range b.ByHandle(w.who.Handle) {
		if !p.busy(addr) && (!w.claim.Want.IsValid() || w.claim.Want == addr) {
			out.given[w] = addr
			return
		}
	}
	if !w.claim.Want.IsValid() {
		if next := b.AssignNext(1, w.who, p.avoid); len(next) == 1 {
			out.given[w] = next[0]
			out.written = append(out.written, w.who)
			out.change = true
		}
		return
	}
	err := error(nil)
	holder, held := b.Holder(w.claim.Want)
	switch {
	case held && holder.Handle == p.self.Handle && !p.busy(w.claim.Want) && !p.resting(w.claim.Want):
		err = b.Reassign(w.claim.Want, w.who)
	case !held && p.inPod(w.claim.Want):
		err = fault.New(fault.Conflict, "address %s is another pod's of this node", w.claim.Want)
	default:
		err = b.Assign(w.claim.Want, w.who)
	}
	if err != nil {
		out.refused[w] = fault.Hint(err, "ocicat ipam show --ip=%s says who holds it", w.claim.Want)
		return
	}
	out.given[w] = w.claim.Want
	out.written = append(out.written, w.who)
	out.change = true
}

// avoid reports whether an address is not given unasked.
func (p planner) avoid(addr netip.Addr) bool {
	return p.inPod(addr) || p.skip != nil && p.skip(addr)
}

// held lists the addresses b holds ready, oldest first.
func (p planner) held(b *alloc.Block, out outcome) []netip.Addr {
	held := b.HeldBy(func(a alloc.Attribute) bool { return a.Handle == p.self.Handle })
	held = slices.DeleteFunc(held, func(addr netip.Addr) bool { return p.busy(addr) || p.resting(addr) })
	slices.SortStableFunc(held, func(x, y netip.Addr) int { return cmp.Compare(b.SequenceOf(x), b.SequenceOf(y)) })
	return held
}
