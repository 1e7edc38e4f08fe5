// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
)

// round looks at everything and gives back what was ripe. One thing that fails
// does not keep the others.
func (k *Collector) round(ctx context.Context) error {
	s, err := k.c.survey(ctx)
	if err != nil {
		return err
	}
	k.seen.begin(2*k.cfg.Times.round() + 2*k.cfg.Times.Beat)
	var errs []error
	for _, node := range slices.Sorted(maps.Keys(s.known())) {
		errs = append(errs, k.node(ctx, s, node))
	}
	errs = append(errs, k.predecessors(ctx, s), k.claims(ctx, s), k.blocks(ctx, s), k.handles(ctx, s))
	return errors.Join(errs...)
}

// node takes from a node whose heartbeat stands still: all it holds if its
// Node is gone too, else the blocks of which it uses nothing. A node that
// never sent a heartbeat and has a Node is Calico's, and left alone.
func (k *Collector) node(ctx context.Context, s *survey, node string) error {
	beat, beats := s.beats[node]
	exists := s.nodes[node]
	wait := k.cfg.Times.Reclaim
	if beat.FencedBy != "" {
		wait = 2 * k.cfg.Times.Takeover // somebody judged already and did not come to the end
	}
	ripe := k.seen.ripe("node "+node, fmt.Sprint(beat.rev, exists), wait)
	switch {
	case !ripe || !beats && exists:
		return nil
	case exists && beat.FencedBy == "" && !slices.ContainsFunc(s.claimsOf(node), func(p netip.Prefix) bool { return s.blocks[p] != nil && idle(s.blocks[p], node) }):
		return nil
	}
	f, err := k.c.raiseFence(ctx, node, beat.rev, "the collector on "+k.cfg.Node, k.cfg.Times)
	var done Forgotten
	if err == nil {
		done, err = k.c.takeFrom(ctx, s, node, f, !exists)
	}
	if fault.Is(err, fault.Conflict) {
		k.log.Info("node came back, nothing reclaimed", "node", node, "error", err)
		return nil
	}
	if len(done.Addresses)+len(done.Blocks) > 0 || !exists && err == nil {
		k.log.Info("reclaimed what a node held that is gone", "node", node, "blocks", done.Blocks, "addresses", len(done.Addresses), "nodeExists", exists)
	}
	if err == nil && !exists {
		err = k.c.forgetStatus(ctx, node)
	}
	return err
}

// forgetStatus deletes what the agent of a forgotten node said last.
func (c *Client) forgetStatus(ctx context.Context, node string) error {
	err := c.Store.Delete(ctx, store.Key{Kind: store.NodeStatus, Name: node}, store.AnyRevision)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// predecessors frees the addresses of machines whose name another machine has
// taken over.
func (k *Collector) predecessors(ctx context.Context, s *survey) error {
	var errs []error
	for h := range s.holdings {
		node, instance := h.who.Secondary[alloc.AttrNode], h.who.Secondary[alloc.AttrInstance]
		beat, beats := s.beats[node]
		if !beats || instance == "" || beat.FencedBy != "" || beat.InstanceUID == "" || beat.InstanceUID == instance {
			continue
		}
		if k.seen.ripe("held "+h.addr.String(), instance+strconv.FormatUint(h.sequence, 10), k.cfg.Times.Reclaim) {
			_, err := k.c.ReleaseIPs(ctx, []alloc.Release{{Addr: h.addr, Handle: h.who.Handle, Sequence: &h.sequence}})
			if err == nil {
				k.log.Info("released an address of a machine whose name is another's now", "address", h.addr, "node", node, "instance", instance, "holder", h.who)
			}
			errs = append(errs, notLost(err))
		}
	}
	return errors.Join(errs...)
}

// notLost drops a Conflict: somebody changed it meanwhile, and the next round
// sees what it is now.
func notLost(err error) error {
	if fault.Is(err, fault.Conflict) {
		return nil
	}
	return err
}

// claims removes claims to blocks that are another's.
func (k *Collector) claims(ctx context.Context, s *survey) error {
	var errs []error
	for _, cl := range s.claims {
		b := s.blocks[cl.block]
		if b == nil || b.OwnedBy(cl.node) {
			continue
		}
		if k.seen.ripe("claim "+cl.node+" "+cl.block.String(), fmt.Sprint(cl.rev, b.Affinity), k.cfg.Times.round()) {
			k.log.Info("removed a claim to a block that is another's", "node", cl.node, "block", cl.block, "owner", ownerOf(b))
			errs = append(errs, notLost(k.c.remove(ctx, affinityKey(cl.node, cl.block), cl.rev)))
		}
	}
	return errors.Join(errs...)
}

// blocks deletes empty blocks that are nobody's, and gives nodes back the
// claims of blocks that are theirs.
func (k *Collector) blocks(ctx context.Context, s *survey) error {
	claimed := map[claimName]bool{}
	for _, cl := range s.claims {
		claimed[claimName{cl.node, cl.block}] = true
	}
	var errs []error
	for _, p := range slices.SortedFunc(maps.Keys(s.blocks), cidr.Compare) {
		b := s.blocks[p]
		node, owned := b.Node()
		orphan := b.Affinity == "" && b.Empty()
		if resting := b.RestingCount(); b.Affinity == "" && resting > 0 && resting == b.InUse() {
			errs = append(errs, notFound(k.c.Thaw(ctx, p))) // nobody assigns from it any more
		}
		unclaimed := owned && s.nodes[node] && !claimed[claimName{node, p}]
		if !orphan && !unclaimed || !k.seen.ripe("block "+p.String(), fmt.Sprint(b.Affinity, b.Sequence), k.cfg.Times.round()) {
			continue
		}
		if orphan {
			k.log.Info("deleted an empty block that is nobody's", "block", p)
			errs = append(errs, notFound(k.c.editBlock(ctx, p, func(b *alloc.Block) (bool, error) { return b.Affinity == "" && b.Empty(), nil })))
			continue
		}
		k.log.Info("wrote the missing claim of a block", "block", p, "node", node)
		_, err := k.c.putAffinity(ctx, node, p, alloc.Affinity{State: alloc.Pending}, 0) // the node completes it
		errs = append(errs, notLost(err))
	}
	return errors.Join(errs...)
}

type claimName struct {
	node  string
	block netip.Prefix
}

func notFound(err error) error {
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// handles makes handles count what they hold: too few at once, too many when
// whoever counted must be long done.
func (k *Collector) handles(ctx context.Context, s *survey) error {
	held := s.heldByHandle()
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(held)) {
		for p, n := range held[name] {
			h := s.handles[name]
			if h.Handle != nil && h.Blocks[p] >= n {
				continue
			}
			if k.seen.ripe("few "+name+" "+p.String(), fmt.Sprint(h.rev, n), k.cfg.Times.round()) {
				k.log.Info("a handle counts too few addresses, corrected", "handle", name, "block", p, "holds", n)
				errs = append(errs, k.recount(ctx, name, p))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.handles)) {
		h := s.handles[name]
		over := slices.ContainsFunc(slices.Collect(maps.Keys(h.Blocks)), func(p netip.Prefix) bool { return h.Blocks[p] > held[name][p] })
		if (over || h.Empty()) && k.seen.ripe("many "+name, fmt.Sprint(h.rev), k.cfg.Times.Lease) {
			k.log.Info("a handle counts addresses it does not hold, corrected", "handle", name)
			errs = append(errs, k.c.settleHandle(ctx, name, h.rev))
		}
	}
	return errors.Join(errs...)
}

// heldByHandle counts, for each handle, the addresses it holds in each block.
func (s *survey) heldByHandle() map[string]map[netip.Prefix]int {
	held := map[string]map[netip.Prefix]int{}
	for h := range s.holdings {
		if h.who.Handle == "" || h.who.KeptByWindows() {
			continue
		}
		if held[h.who.Handle] == nil {
			held[h.who.Handle] = map[netip.Prefix]int{}
		}
		held[h.who.Handle][h.block]++
	}
	return held
}

// recount makes a handle count what it holds in p now.
func (k *Collector) recount(ctx context.Context, handle string, p netip.Prefix) error {
	b, _, err := k.c.block(ctx, p)
	if err != nil {
		return notFound(err)
	}
	if n := len(b.ByHandle(handle)); n > 0 {
		return k.c.countAtLeast(ctx, handle, p, n)
	}
	return nil
}

// settleHandle makes the handle at rev count exactly what it holds, and
// deletes it if that is nothing. Each block it counts in is written anew: an
// assignment to the handle that is still under way then fails, instead of
// landing without being counted. A handle that changed meanwhile stays.
func (c *Client) settleHandle(ctx context.Context, name string, rev store.Revision) error {
	h, now, err := c.handle(ctx, name)
	if err != nil || now != rev {
		return notFound(err)
	}
	for p := range maps.Clone(h.Blocks) {
		held := 0
		err := c.editBlock(ctx, p, func(b *alloc.Block) (bool, error) {
			held = len(b.ByHandle(name))
			return true, nil
		})
		if fault.Is(err, fault.NotFound) {
			held, err = 0, nil
		}
		if err != nil {
			return err
		}
		h.Remove(p, max(0, h.Blocks[p]-held))
	}
	return notLost(c.putHandle(ctx, name, h, rev))
}
