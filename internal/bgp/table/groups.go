// SPDX-License-Identifier: Apache-2.0

package table

import "net/netip"

// Groups is the Outs of a speaker, one for each Export in use. It belongs to
// the owner of the Table.
type Groups struct {
	table    *Table
	outs     map[Export]*group
	complete bool
}

type group struct {
	out     *Out
	members map[netip.Addr]int // sessions of each peer: two for a moment when one replaces the other
}

// NewGroups is the Outs for what t holds, none yet.
func NewGroups(t *Table) *Groups { return &Groups{table: t, outs: make(map[Export]*group)} }

// Join makes peer a member of the group of e and returns its cursor, as
// Out.Join. Each Join wants a Leave.
func (g *Groups) Join(e Export, peer netip.Addr) *Cursor {
	in := g.outs[e]
	if in == nil {
		in = &group{out: NewOut(e, g.table), members: make(map[netip.Addr]int)}
		if g.complete {
			in.out.Complete()
		}
		g.outs[e] = in
	}
	in.members[peer]++
	return in.out.Join(peer)
}

// Leave ends what Join began. A group without members is gone.
func (g *Groups) Leave(e Export, peer netip.Addr) {
	in := g.outs[e]
	if in == nil {
		return
	}
	if in.members[peer]--; in.members[peer] <= 0 {
		delete(in.members, peer)
	}
	if len(in.members) == 0 {
		delete(g.outs, e)
	}
}

// Apply tells all groups what became of the changed prefixes, see Out.Apply.
func (g *Groups) Apply(changed []netip.Prefix) {
	if len(changed) == 0 {
		return
	}
	for _, in := range g.outs {
		in.out.Apply(g.table, changed)
	}
}

// Complete says that all local prefixes are in the table, see Out.Complete.
func (g *Groups) Complete() {
	g.complete = true
	for _, in := range g.outs {
		in.out.Complete()
	}
}

// Refresh tells peer everything again, see Out.Refresh.
func (g *Groups) Refresh(e Export, peer netip.Addr) {
	if in := g.outs[e]; in != nil {
		in.out.Refresh(peer)
	}
}

// Sent is the number of prefixes a peer of the group is told of, 0 when it is
// no member.
func (g *Groups) Sent(e Export, peer netip.Addr) int {
	if in := g.outs[e]; in != nil && in.members[peer] > 0 {
		return in.out.Sent(peer)
	}
	return 0
}
