// SPDX-License-Identifier: Apache-2.0

// Package table holds a speaker's routes: what each peer announced
// (Adj-RIB-In), which path is the best (Loc-RIB, RFC 4271 section 9.1) and
// what peers are told, encoded once for all that are told the same
// (Adj-RIB-Out).
//
// It is plain values: no goroutine, no lock, no clock, no socket. One owner
// calls it. Two things may leave the owner: what Snapshot returns, which never
// changes, and a Cursor, which belongs to the goroutine that writes to the
// peer.
//
// The state depends on what was announced, not on the order it came in: there
// is no "oldest path" among the tie-breakers, so a speaker that restarts comes
// back with the same routes.
package table

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// Local is what a table must know of the speaker it belongs to.
type Local struct {
	AS       speaker.ASN
	RouterID netip.Addr
	// ClusterID is what we add to CLUSTER_LIST as a route reflector (RFC
	// 4456); zero means RouterID.
	ClusterID netip.Addr
	// Addrs are our own addresses: a route that leads back to one is unusable.
	Addrs []netip.Addr
}

// PeerInfo is what a table must know of a peer. Addr names the peer.
type PeerInfo struct {
	Addr     netip.Addr
	Name     string     // for people
	RouterID netip.Addr // from its OPEN
	AS       speaker.ASN
	Internal bool // in our AS
}

// Path is one path to a prefix.
type Path struct {
	Prefix netip.Prefix
	Attrs  *message.Attrs // shared, not to be changed
	From   PeerInfo       // zero for a prefix we originate
	Stale  bool           // the peer is restarting (RFC 4724)
}

// Own says whether we originate the path.
func (p Path) Own() bool { return !p.From.Addr.IsValid() }

// Table is the Adj-RIB-In of every peer and the best path to each prefix.
type Table struct {
	local  Local
	peers  map[netip.Addr]*peer
	own    *peer // the prefixes we originate
	shards [shardCount]shard
	last   *Snapshot // nil when a best path changed since it was made

	scratch []*route // room for decide
}

// peer is one peer's Adj-RIB-In.
type peer struct {
	info   PeerInfo
	routes map[netip.Prefix]*route
	stale  int // how many of routes are stale
}

// route is one entry of an Adj-RIB-In. Another announcement is another route:
// only stale changes, and barred when Local does.
type route struct {
	prefix netip.Prefix
	peer   *peer
	attrs  *message.Attrs
	stale  bool
	barred string // why it cannot be used, "" when it can
}

// dest is a prefix with all paths to it; it has one at least.
type dest struct {
	routes []*route // in no particular order
	best   *route   // nil when all are barred
}

// New is an empty table.
func New(local Local) *Table {
	t := &Table{local: local, peers: make(map[netip.Addr]*peer), own: newPeer(PeerInfo{})}
	for i := range t.shards {
		t.shards[i].dests = make(map[netip.Prefix]*dest)
	}
	return t
}

func newPeer(info PeerInfo) *peer {
	return &peer{info: info, routes: make(map[netip.Prefix]*route)}
}

// SetLocal changes what the table knows of its speaker and returns the
// prefixes whose best path is another one now.
func (t *Table) SetLocal(local Local) (changed []netip.Prefix) {
	t.local = local
	for _, p := range t.peers {
		for _, r := range p.routes {
			r.barred = t.bar(r)
		}
	}
	for i := range t.shards {
		for prefix, d := range t.shards[i].dests {
			if t.decide(prefix, d) {
				changed = append(changed, prefix)
			}
		}
	}
	return changed
}

// Originate makes advertised the whole set of prefixes we originate and
// returns those whose best path is another one now. Of a prefix given
// twice the last counts.
func (t *Table) Originate(advertised []speaker.Advertisement) (changed []netip.Prefix) {
	wanted := make(map[netip.Prefix]bool, len(advertised))
	for _, ad := range advertised {
		prefix := ad.Prefix.Masked()
		wanted[prefix] = true
		changed = t.learn(changed, t.own, prefix, ownAttrs(ad))
	}
	for prefix := range t.own.routes {
		if !wanted[prefix] {
			changed = t.forget(changed, t.own, prefix)
		}
	}
	slices.SortFunc(changed, netip.Prefix.Compare)
	return slices.Compact(changed)
}

// ownAttrs is the attributes of a prefix that we originate.
func ownAttrs(ad speaker.Advertisement) *message.Attrs {
	a := &message.Attrs{NextHop: ad.NextHop, LocalPref: ad.LocalPref, HasLocalPref: true}
	if a.LocalPref == 0 {
		a.LocalPref = defaultLocalPref
	}
	return a
}

// Update takes in what a peer said and returns the prefixes whose best path
// is another one now, none twice. After End-of-RIB what is still stale goes
// (RFC 4724 section 4.2). Routes announced again as they were change nothing.
func (t *Table) Update(from PeerInfo, u *message.Update) (changed []netip.Prefix) {
	p, met := t.meet(from)
	again := both(u)
	for _, prefix := range u.Withdrawn {
		if !again[prefix] {
			changed = t.forget(changed, p, prefix)
		}
	}
	for _, prefix := range u.NLRI {
		changed = t.learn(changed, p, prefix, u.Attrs)
	}
	if u.EndOfRIB {
		changed = append(changed, t.SweepStale(from.Addr)...)
	}
	return union(met, changed)
}

// union is a and b without repetition; neither repeats anything itself.
func union(a, b []netip.Prefix) []netip.Prefix {
	if len(a) == 0 {
		return b
	}
	all := append(a, b...)
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all)
}

// both is the prefixes announced in a message that withdraws, too: withdrawing
// them means nothing (RFC 4271 section 4.3).
func both(u *message.Update) map[netip.Prefix]bool {
	if len(u.Withdrawn) == 0 || len(u.NLRI) == 0 {
		return nil
	}
	announced := make(map[netip.Prefix]bool, len(u.NLRI))
	for _, prefix := range u.NLRI {
		announced[prefix] = true
	}
	return announced
}

// meet finds or makes the peer. A peer that came back with another router ID
// has its kept routes decided again.
func (t *Table) meet(from PeerInfo) (p *peer, changed []netip.Prefix) {
	p = t.peers[from.Addr]
	switch {
	case p == nil:
		p = newPeer(from)
		t.peers[from.Addr] = p
	case p.info != from:
		p.info = from
		for prefix, r := range p.routes {
			d := t.find(prefix)
			if mine := d.best == r; t.decide(prefix, d) || mine {
				t.touch(prefix)
				changed = append(changed, prefix)
			}
		}
	}
	return p, changed
}

// DropPeer forgets a peer and all it announced, and returns the prefixes whose
// best path is another one now.
func (t *Table) DropPeer(addr netip.Addr) (changed []netip.Prefix) {
	p := t.peers[addr]
	if p == nil {
		return nil
	}
	for prefix := range p.routes {
		changed = t.forget(changed, p, prefix)
	}
	delete(t.peers, addr)
	return changed
}

// MarkStale keeps the routes of a peer that restarts, until it announces them
// again or SweepStale. Those stale already go, so that a peer that dies again
// and again cannot keep routes for ever (RFC 4724 section 4.2); returned are
// the prefixes whose best path is another one now.
func (t *Table) MarkStale(addr netip.Addr) (changed []netip.Prefix) {
	changed = t.SweepStale(addr)
	if p := t.peers[addr]; p != nil {
		for _, r := range p.routes {
			r.stale = true
		}
		p.stale = len(p.routes)
	}
	return changed
}

// SweepStale drops the peer's routes that are still stale and returns the
// prefixes whose best path is another one now.
func (t *Table) SweepStale(addr netip.Addr) (changed []netip.Prefix) {
	p := t.peers[addr]
	if p == nil || p.stale == 0 {
		return nil
	}
	for prefix, r := range p.routes {
		if r.stale {
			changed = t.forget(changed, p, prefix)
		}
	}
	return changed
}

// Received is the number of prefixes in the peer's Adj-RIB-In, usable or not.
func (t *Table) Received(addr netip.Addr) int {
	if p := t.peers[addr]; p != nil {
		return len(p.routes)
	}
	return 0
}

// Stale says whether routes of the peer are kept while it restarts.
func (t *Table) Stale(addr netip.Addr) bool {
	p := t.peers[addr]
	return p != nil && p.stale > 0
}

// learn enters a route and appends prefix to changed if its best path is
// another one now.
func (t *Table) learn(changed []netip.Prefix, p *peer, prefix netip.Prefix, attrs *message.Attrs) []netip.Prefix {
	old := p.routes[prefix]
	if old != nil && old.attrs.Equal(attrs) {
		p.refresh(old)
		return changed
	}
	r := &route{prefix: prefix, peer: p, attrs: attrs}
	r.barred = t.bar(r)
	p.routes[prefix] = r
	d := t.find(prefix)
	switch {
	case d == nil:
		d = &dest{routes: []*route{r}}
		t.shard(prefix).dests[prefix] = d
	case old != nil:
		p.refresh(old)
		d.routes[slices.Index(d.routes, old)] = r
	default:
		d.routes = append(d.routes, r)
	}
	if t.decide(prefix, d) {
		changed = append(changed, prefix)
	}
	return changed
}

// refresh takes the stale mark off r.
func (p *peer) refresh(r *route) {
	if r.stale {
		r.stale = false
		p.stale--
	}
}

// forget removes a route, if there is one, and appends prefix to changed if
// its best path is another one now.
func (t *Table) forget(changed []netip.Prefix, p *peer, prefix netip.Prefix) []netip.Prefix {
	r := p.routes[prefix]
	if r == nil {
		return changed
	}
	p.refresh(r)
	delete(p.routes, prefix)
	d := t.find(prefix)
	i, last := slices.Index(d.routes, r), len(d.routes)-1
	d.routes[i], d.routes[last] = d.routes[last], nil
	d.routes = d.routes[:last]
	if last == 0 {
		delete(t.shard(prefix).dests, prefix)
	}
	if t.decide(prefix, d) {
		changed = append(changed, prefix)
	}
	return changed
}

// bar says why r cannot be used, "" when it can (RFC 4271 sections 6.3 and
// 9.1.2, RFC 4456 section 8).
func (t *Table) bar(r *route) string {
	if r.peer == t.own {
		return ""
	}
	cluster := t.local.ClusterID
	if !cluster.IsValid() {
		cluster = t.local.RouterID
	}
	switch a := r.attrs; {
	case a.ASPath.Contains(t.local.AS):
		return fmt.Sprintf("own AS %d is in the AS path %v", t.local.AS, a.ASPath)
	case a.OriginatorID.IsValid() && a.OriginatorID == t.local.RouterID:
		return fmt.Sprintf("originator %v is this node", a.OriginatorID)
	case slices.Contains(a.ClusterList, cluster):
		return fmt.Sprintf("own cluster %v is in the cluster list", cluster)
	case slices.Contains(t.local.Addrs, a.NextHop):
		return fmt.Sprintf("next hop %v is this node", a.NextHop)
	}
	return ""
}

// decide finds the best path of d anew and reports whether it is another one
// than before.
func (t *Table) decide(prefix netip.Prefix, d *dest) bool {
	best, used := choose(d.routes, t.scratch)
	t.scratch = used
	if best == d.best {
		return false
	}
	d.best = best
	t.touch(prefix)
	return true
}
