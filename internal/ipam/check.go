// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/names"
)

// What is the kind of a Finding.
type What string

// What can be found. The first two are of addresses that can be released.
const (
	PodGone        What = "pod-gone"         // the node's agent has no such pod
	NodeGone       What = "node-gone"        // the node has neither a Node nor a heartbeat
	NotHeld        What = "not-held"         // a pod uses an address that is free, or another's
	Twice          What = "twice"            // two pods use one address
	OutsideOfPools What = "outside-pools"    // held, and in no pool
	NoHandle       What = "handle-missing"   // held under a handle that does not exist
	HandleFew      What = "handle-too-few"   // a handle counts less than it holds
	HandleMany     What = "handle-too-many"  // a handle counts more than it holds
	NoClaim        What = "claim-missing"    // a node's block without the node's claim
	NoBlock        What = "block-missing"    // a claim to a block that does not exist
	ForeignBlock   What = "claim-of-foreign" // a claim to a block that is another's
	OrphanBlock    What = "block-orphaned"   // an empty block that is nobody's
	BlocksOverlap  What = "blocks-overlap"
	Unreadable     What = "unreadable"
)

// Finding is one thing that is not as it should be in the datastore's IPAM
// objects, or between them and the pods there are.
type Finding struct {
	What   What   `json:"what"`
	Object string `json:"object"` // the address, block, handle or key
	Text   string `json:"text"`
	// Address, Handle and Sequence name the allocation where the finding is
	// about one: a release of it fails if the address was given anew.
	Address  netip.Addr `json:"address,omitzero"`
	Handle   string     `json:"handle,omitempty"`
	Sequence uint64     `json:"sequence,omitempty"`
}

// Releasable reports whether releasing the address is what the finding asks
// for.
func (f Finding) Releasable() bool { return f.What == PodGone || f.What == NodeGone }

// Pods are the attached pods of a node, as its agent says.
type Pods struct {
	Node      string
	Addresses map[netip.Addr]string // to the pod's name
}

// Totals count what a check looked at.
type Totals struct {
	Blocks    int `json:"blocks"`
	Addresses int `json:"addresses"` // held by pods, tunnels and others
	Held      int `json:"held"`      // held ready by agents
	Handles   int `json:"handles"`
	Nodes     int `json:"nodes"` // whose agents were asked
}

// recheck is what a check waits for before it looks again: what contradicted
// itself because it was being written is settled by then.
const recheck = time.Second

// Check looks for what is wrong. pods asks the agents within reach. What is
// found must be found twice.
func (c *Client) Check(ctx context.Context, pods func(context.Context) ([]Pods, error)) ([]Finding, Totals, error) {
	first, totals, err := c.checkOnce(ctx, pods)
	if err != nil || len(first) == 0 {
		return nil, totals, err
	}
	timer := time.NewTimer(recheck)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return nil, totals, ctx.Err()
	case <-timer.C:
	}
	second, totals, err := c.checkOnce(ctx, pods)
	return slices.DeleteFunc(second, func(f Finding) bool { return !slices.Contains(first, f) }), totals, err
}

// checkOnce reads the datastore between two questions to the agents: a pod
// counts as gone that neither answer has.
func (c *Client) checkOnce(ctx context.Context, pods func(context.Context) ([]Pods, error)) ([]Finding, Totals, error) {
	before, err := pods(ctx)
	if err != nil {
		return nil, Totals{}, err
	}
	s, err := c.survey(ctx)
	if err != nil {
		return nil, Totals{}, err
	}
	after, err := pods(ctx)
	if err != nil {
		return nil, Totals{}, err
	}
	k := &checking{survey: s, before: byNode(before), after: byNode(after)}
	k.addresses()
	k.pods()
	k.handles()
	k.blocks()
	slices.SortFunc(k.found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.What, b.What), a.Address.Compare(b.Address), cmp.Compare(a.Object, b.Object), cmp.Compare(a.Text, b.Text))
	})
	totals := Totals{Blocks: len(s.blocks), Handles: len(s.handles), Nodes: len(k.after)}
	for h := range s.holdings {
		if isReserve(h.who) {
			totals.Held++
		} else {
			totals.Addresses++
		}
	}
	return k.found, totals, nil
}

func byNode(all []Pods) map[string]Pods {
	m := map[string]Pods{}
	for _, p := range all {
		m[p.Node] = p
	}
	return m
}

// checking is one check, on values alone.
type checking struct {
	*survey
	before, after map[string]Pods
	found         []Finding
}

func (k *checking) add(what What, object, format string, args ...any) {
	k.found = append(k.found, Finding{What: what, Object: object, Text: fmt.Sprintf(format, args...)})
}

func (k *checking) addAddress(what What, h holding, format string, args ...any) {
	k.found = append(k.found, Finding{What: what, Object: h.addr.String(), Text: fmt.Sprintf(format, args...), Address: h.addr, Handle: h.who.Handle, Sequence: h.sequence})
}

// addresses checks each address that somebody holds.
func (k *checking) addresses() {
	for h := range k.holdings {
		if !slices.ContainsFunc(k.survey.pools, func(p cluster.Pool) bool { return p.CIDR.Contains(h.addr) }) {
			k.addAddress(OutsideOfPools, h, "held by %s, and in no pool", h.who)
		}
		if h.who.Handle != "" && !h.who.KeptByWindows() && k.survey.handles[h.who.Handle].Handle == nil {
			k.addAddress(NoHandle, h, "held by %s under handle %s, which does not exist", h.who, h.who.Handle)
		}
		node := h.who.Secondary[alloc.AttrNode]
		if _, beats := k.beats[node]; node != "" && !beats && !k.nodes[node] {
			k.addAddress(NodeGone, h, "held by %s, a node that is gone", h.who)
			continue
		}
		if k.podGone(h, node) {
			k.addAddress(PodGone, h, "held by %s, which that node does not have", h.who)
		}
	}
}

// podGone reports whether a pod's address is not among those of its node's
// agent. Tunnel addresses and reserves have no pod.
func (k *checking) podGone(h holding, node string) bool {
	before, asked := k.before[node]
	after, again := k.after[node]
	if !asked || !again || h.who.Secondary[alloc.AttrType] != "" || h.who.Secondary[alloc.AttrInstance] == "" && h.who.Secondary[alloc.AttrPod] == "" {
		return false
	}
	return before.Addresses[h.addr] == "" && after.Addresses[h.addr] == ""
}

// pods checks each pod that an agent has.
func (k *checking) pods() {
	owner := map[netip.Addr]string{}
	for _, node := range slices.Sorted(maps.Keys(k.after)) {
		for addr, pod := range k.after[node].Addresses {
			who := pod + " on " + node
			if k.before[node].Addresses[addr] != pod {
				continue // just attached
			}
			if other, taken := owner[addr]; taken {
				k.add(Twice, addr.String(), "used by %s and by %s", min(who, other), max(who, other))
			}
			owner[addr] = who
			if by, ok := k.holderOf(addr); !ok {
				k.add(NotHeld, addr.String(), "used by %s, and free in the datastore", who)
			} else if n := by.Secondary[alloc.AttrNode]; n != node && !isReserve(by) {
				k.add(NotHeld, addr.String(), "used by %s, and held by %s in the datastore", who, by)
			}
		}
	}
}

func (k *checking) holderOf(addr netip.Addr) (alloc.Attribute, bool) {
	for p, b := range k.survey.blocks {
		if p.Contains(addr) {
			if who, ok := b.Holder(addr); ok {
				return who, true
			}
		}
	}
	return alloc.Attribute{}, false
}

// handles compares what handles count with what they hold.
func (k *checking) handles() {
	held := k.heldByHandle()
	for _, name := range slices.Sorted(maps.Keys(k.survey.handles)) {
		h := k.survey.handles[name]
		for p, n := range h.Blocks {
			if n > held[name][p] {
				k.add(HandleMany, name, "counts %d addresses of %s and holds %d: what a crash leaves, harmless", n, p, held[name][p])
			}
		}
		for p, n := range held[name] {
			if h.Blocks[p] < n {
				k.add(HandleFew, name, "counts %d addresses of %s and holds %d", h.Blocks[p], p, n)
			}
		}
	}
}

// blocks checks blocks and claims.
func (k *checking) blocks() {
	claimed := map[claimName]bool{}
	for _, cl := range k.survey.claims {
		claimed[claimName{cl.node, cl.block}] = true
		b := k.survey.blocks[cl.block]
		switch {
		case b == nil && cl.state == alloc.Confirmed:
			k.add(NoBlock, names.Affinity(cl.node, cl.block), "%s claims a block that does not exist", cl.node)
		case b != nil && !b.OwnedBy(cl.node):
			k.add(ForeignBlock, names.Affinity(cl.node, cl.block), "%s claims a block that belongs to %s", cl.node, ownerOf(b))
		}
	}
	order := slices.SortedFunc(maps.Keys(k.survey.blocks), cidr.Compare)
	for i, p := range order {
		b := k.survey.blocks[p]
		if node, ok := b.Node(); ok && !claimed[claimName{node, p}] {
			k.add(NoClaim, p.String(), "belongs to %s, which does not claim it", node)
		}
		if b.Affinity == "" && b.Empty() {
			k.add(OrphanBlock, p.String(), "empty, and nobody's")
		}
		if i > 0 && order[i-1].Overlaps(p) {
			k.add(BlocksOverlap, p.String(), "overlaps %s", order[i-1])
		}
	}
	for key, err := range k.unreadable {
		k.add(Unreadable, key.String(), "%v", err)
	}
}
