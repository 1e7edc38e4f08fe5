// SPDX-License-Identifier: Apache-2.0

package table

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// self is the speaker under test.
var self = Local{AS: 64512, RouterID: addr("10.0.0.1"), Addrs: []netip.Addr{addr("10.0.0.1"), addr("192.168.0.1")}}

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

func prefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }

// member is the ith peer: every third is in another AS.
func member(i int) PeerInfo {
	p := PeerInfo{
		Addr:     netip.AddrFrom4([4]byte{10, 0, 1 + byte(i>>8), byte(i)}),
		Name:     fmt.Sprintf("node%d", i),
		RouterID: netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(255 - i)}),
		AS:       self.AS,
		Internal: i%3 != 2,
	}
	if !p.Internal {
		p.AS = speaker.ASN(65000 + i%4)
	}
	return p
}

// model is what a table should hold, kept the dullest way: everything is
// computed anew from what each peer said last.
type model struct {
	own   map[netip.Prefix]*message.Attrs
	peers map[PeerInfo]map[netip.Prefix]*said
}

type said struct {
	attrs *message.Attrs
	stale bool
}

func newModel() *model {
	return &model{own: map[netip.Prefix]*message.Attrs{}, peers: map[PeerInfo]map[netip.Prefix]*said{}}
}

func (m *model) update(p PeerInfo, u *message.Update) {
	if m.peers[p] == nil {
		m.peers[p] = map[netip.Prefix]*said{}
	}
	for _, prefix := range u.Withdrawn {
		delete(m.peers[p], prefix)
	}
	for _, prefix := range u.NLRI {
		m.peers[p][prefix] = &said{attrs: u.Attrs}
	}
	if u.EndOfRIB {
		m.sweep(p)
	}
}

func (m *model) sweep(p PeerInfo) {
	for prefix, s := range m.peers[p] {
		if s.stale {
			delete(m.peers[p], prefix)
		}
	}
}

func (m *model) markStale(p PeerInfo) {
	m.sweep(p)
	for _, s := range m.peers[p] {
		s.stale = true
	}
}

// candidate is a path the oracle weighs.
type candidate struct {
	from  PeerInfo
	attrs *message.Attrs
	stale bool
}

// best is RFC 4271 section 9.1.2 and RFC 4456 section 9 word for word: each
// rule leaves the paths that are not worse than another.
func (m *model) best(prefix netip.Prefix) (candidate, bool) {
	if attrs := m.own[prefix]; attrs != nil {
		return candidate{attrs: attrs}, true
	}
	var left []candidate
	for from, routes := range m.peers {
		if s := routes[prefix]; s != nil && loopFree(s.attrs) {
			left = append(left, candidate{from, s.attrs, s.stale})
		}
	}
	keep := func(worse func(a, b candidate) bool) {
		all := slices.Clone(left)
		left = slices.DeleteFunc(left, func(a candidate) bool {
			return slices.ContainsFunc(all, func(b candidate) bool { return worse(a, b) })
		})
	}
	pref := func(c candidate) uint32 {
		if c.attrs.HasLocalPref {
			return c.attrs.LocalPref
		}
		return 100
	}
	hops := func(c candidate) (n int) {
		for _, s := range c.attrs.ASPath {
			if s.Type == message.ASSet {
				n++
			} else {
				n += len(s.ASNs)
			}
		}
		return n
	}
	id := func(c candidate) netip.Addr {
		if c.attrs.OriginatorID.IsValid() {
			return c.attrs.OriginatorID
		}
		return c.from.RouterID
	}
	keep(func(a, b candidate) bool { return pref(a) < pref(b) })
	keep(func(a, b candidate) bool { return hops(a) > hops(b) })
	keep(func(a, b candidate) bool { return a.attrs.Origin > b.attrs.Origin })
	keep(func(a, b candidate) bool {
		return a.attrs.ASPath.Neighbor() == b.attrs.ASPath.Neighbor() && a.attrs.MED > b.attrs.MED
	})
	keep(func(a, b candidate) bool { return a.from.Internal && !b.from.Internal })
	keep(func(a, b candidate) bool { return id(b).Less(id(a)) })
	keep(func(a, b candidate) bool { return len(a.attrs.ClusterList) > len(b.attrs.ClusterList) })
	keep(func(a, b candidate) bool { return b.from.Addr.Less(a.from.Addr) })
	if len(left) == 0 {
		return candidate{}, false
	}
	return left[0], true
}

// loopFree says whether a path does not lead through ourselves.
func loopFree(a *message.Attrs) bool {
	return !slices.Contains(a.ASPath.Flat(), self.AS) && a.OriginatorID != self.RouterID &&
		!slices.Contains(a.ClusterList, self.RouterID) && !slices.Contains(self.Addrs, a.NextHop)
}

// told is what a peer should have been told of a best path; nil for nothing.
func told(e Export, to netip.Addr, c candidate) *message.Attrs {
	own := !c.from.Addr.IsValid()
	switch {
	case c.from.Addr == to, slices.Contains(c.attrs.Communities, message.NoAdvertise):
		return nil
	case e.Internal && c.from.Internal:
		return nil
	case !e.Internal && slices.Contains(c.attrs.Communities, message.NoExport):
		return nil
	}
	a := *c.attrs
	a.OriginatorID, a.ClusterList = netip.Addr{}, nil
	if e.Internal {
		if !a.HasLocalPref {
			a.LocalPref, a.HasLocalPref = 100, true
		}
		if a.NextHop == to && !own {
			return nil
		}
		return &a
	}
	path := []speaker.ASN{self.AS}
	if len(a.ASPath) > 0 && a.ASPath[0].Type == message.ASSequence {
		path = append(path, a.ASPath[0].ASNs...)
		a.ASPath = a.ASPath[1:]
	}
	a.ASPath = append(message.ASPath{{Type: message.ASSequence, ASNs: path}}, a.ASPath...)
	a.NextHop, a.MED, a.HasMED, a.LocalPref, a.HasLocalPref = e.LocalAddr, 0, false, 0, false
	return &a
}

// prefixes is all prefixes the model knows of.
func (m *model) prefixes() map[netip.Prefix]bool {
	all := map[netip.Prefix]bool{}
	for prefix := range m.own {
		all[prefix] = true
	}
	for _, routes := range m.peers {
		for prefix := range routes {
			all[prefix] = true
		}
	}
	return all
}
