// SPDX-License-Identifier: Apache-2.0

package table

import (
	"net/netip"
	"slices"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
)

// Out is the Adj-RIB-Out of all peers with one Export: what they were told,
// and the log of messages that tells them. Each message is encoded once.
//
// Out belongs to the owner of the Table. Cursors made by it walk the log from
// goroutines of their own.
type Out struct {
	export  Export
	offers  map[netip.Prefix]offer
	without map[netip.Addr]int // how many offers leave out the peer
	log     log
	dump    []segment // offers as messages; nil when out of date
	// complete says that the table holds all local prefixes: newcomers get
	// End-of-RIB behind the dump (RFC 4724 section 4.1).
	complete bool
}

// NewOut is an Out that offers the best paths of t.
func NewOut(e Export, t *Table) *Out {
	o := &Out{export: e, offers: make(map[netip.Prefix]offer), without: make(map[netip.Addr]int), log: newLog()}
	cache := newOfferCache(e)
	for p := range t.BestPaths() {
		if offered, ok := cache.offer(p); ok {
			o.set(p.Prefix, offered)
		}
	}
	return o
}

// Join is a cursor for a new session with peer. It begins with everything
// offered at this moment and goes on with what Apply adds from here on, so no
// change can fall in between: call it in the step that makes the session
// Established.
func (o *Out) Join(peer netip.Addr) *Cursor {
	if o.dump == nil {
		o.dump = o.dumpOffers()
	}
	first := o.dump
	if o.complete {
		first = append(slices.Clip(first), endOfRIB())
	}
	return o.log.cursor(peer, first)
}

// Apply tells the peers what became of the changed prefixes. Prefixes whose
// offer is as before cost nothing.
func (o *Out) Apply(t *Table, changed []netip.Prefix) {
	var b batch
	cache := newOfferCache(o.export)
	for _, prefix := range changed {
		p, ok := t.Best(prefix)
		if !ok {
			o.withdraw(&b, prefix)
			continue
		}
		next, ok := cache.offer(p)
		if !ok {
			o.withdraw(&b, prefix)
			continue
		}
		o.announce(&b, prefix, next)
	}
	if b.empty() {
		return
	}
	o.dump = nil
	o.log.append(b.segments())
}

// withdraw takes prefix back from those who were told of it.
func (o *Out) withdraw(b *batch, prefix netip.Prefix) {
	if old, told := o.offers[prefix]; told {
		o.unset(prefix, old)
		b.withdraw(prefix, old.to)
	}
}

// announce offers prefix as next says. Who is left out now but was not before
// is told that it is gone.
func (o *Out) announce(b *batch, prefix netip.Prefix, next offer) {
	old, told := o.offers[prefix]
	if told && old == next {
		return
	}
	if told {
		o.unset(prefix, old)
		for _, peer := range next.to.leftOut() {
			if old.to.includes(peer) {
				b.withdraw(prefix, audience{only: peer})
			}
		}
	}
	o.set(prefix, next)
	b.announce(prefix, next)
}

func (o *Out) set(prefix netip.Prefix, next offer) {
	o.offers[prefix] = next
	o.count(next, +1)
}

func (o *Out) unset(prefix netip.Prefix, old offer) {
	delete(o.offers, prefix)
	o.count(old, -1)
}

// count adds n to what the peers left out of an offer do not get.
func (o *Out) count(of offer, n int) {
	for _, peer := range of.to.leftOut() {
		if o.without[peer] += n; o.without[peer] == 0 {
			delete(o.without, peer)
		}
	}
}

// Complete says that all local prefixes are in the table: those told so far
// get End-of-RIB now, later ones behind their dump. A second call does nothing.
func (o *Out) Complete() {
	if o.complete {
		return
	}
	o.complete = true
	o.log.append([]segment{endOfRIB()})
}

// Refresh tells one peer everything again, in line with what it is told
// already (ROUTE-REFRESH, RFC 2918).
func (o *Out) Refresh(peer netip.Addr) {
	if o.dump == nil {
		o.dump = o.dumpOffers()
	}
	again := slices.Clone(o.dump)
	for i := range again {
		again[i].to.only = peer
	}
	o.log.append(again)
}

// Sent is the number of prefixes peer is told of.
func (o *Out) Sent(peer netip.Addr) int { return len(o.offers) - o.without[peer] }

func (o *Out) dumpOffers() []segment {
	var b batch
	for prefix, offered := range o.offers {
		b.announce(prefix, offered)
	}
	return b.segments()
}

// offerCache makes each offer once for the many prefixes that share their
// attributes.
type offerCache struct {
	export Export
	known  map[offerKey]offerValue
}

// offerKey is all of a Path that an offer depends on, but for its family.
type offerKey struct {
	attrs *message.Attrs
	from  netip.Addr
}

type offerValue struct {
	offer offer
	ok    bool
}

func newOfferCache(e Export) *offerCache {
	return &offerCache{export: e, known: make(map[offerKey]offerValue)}
}

// offer is the group's offer of p; ok is false when there is none, as for the
// families we do not send.
func (c *offerCache) offer(p Path) (o offer, ok bool) {
	if !p.Prefix.Addr().Is4() {
		return offer{}, false
	}
	key := offerKey{p.Attrs, p.From.Addr}
	v, seen := c.known[key]
	if !seen {
		v.offer, v.ok = c.export.offer(p)
		c.known[key] = v
	}
	return v.offer, v.ok
}
