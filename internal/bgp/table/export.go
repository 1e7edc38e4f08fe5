// SPDX-License-Identifier: Apache-2.0

package table

import (
	"net/netip"
	"slices"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// Export is everything that decides what a peer is told and in which bytes.
// Peers of equal Export share one Out. Per-peer policy (filters, reflection to
// clients only) will be further fields here.
type Export struct {
	Internal bool        // the peers are in our AS
	AS4      bool        // the sessions use four-byte AS numbers
	AS       speaker.ASN // ours
	// LocalAddr is our address on the sessions: the next hop towards other
	// ASes, and of prefixes we originate without naming one.
	LocalAddr netip.Addr
}

// audience is who of a group is told something: all but those excepted, or
// one alone. Invalid addresses mean nobody.
type audience struct {
	only   netip.Addr
	source netip.Addr // whom the path was learned from: never sent back
	hop    netip.Addr // the next hop: nobody is told to send to itself (RFC 4271 section 5.1.3)
}

func (a audience) includes(peer netip.Addr) bool {
	return peer != a.source && peer != a.hop && (!a.only.IsValid() || peer == a.only)
}

// leftOut is the peers excepted.
func (a audience) leftOut() []netip.Addr {
	var peers []netip.Addr
	for _, peer := range [...]netip.Addr{a.source, a.hop} {
		if peer.IsValid() {
			peers = append(peers, peer)
		}
	}
	return peers
}

// forwards says whether the group hears of a path at all.
//
// This is where route reflection decides (RFC 4456): a path from an internal
// peer goes to no internal peer, because in a full mesh it has told them
// itself. A reflector makes an exception when either of the two is its client.
func (e Export) forwards(p Path) bool {
	if slices.Contains(p.Attrs.Communities, message.NoAdvertise) {
		return false
	}
	if !e.Internal {
		return !slices.Contains(p.Attrs.Communities, message.NoExport) &&
			!slices.Contains(p.Attrs.Communities, message.NoExportSubconfed)
	}
	return p.Own() || !p.From.Internal
}

// attrs is the attributes the group is told for a path it hears of.
func (e Export) attrs(p Path) message.Attrs {
	a := *p.Attrs
	if !a.NextHop.IsValid() {
		a.NextHop = e.LocalAddr
	}
	a.OriginatorID, a.ClusterList = netip.Addr{}, nil // meant for our AS; reflection will set them
	if e.Internal {
		// The next hop stays as learned: internal peers reach it by the
		// underlay or not at all.
		if !a.HasLocalPref {
			a.LocalPref, a.HasLocalPref = defaultLocalPref, true
		}
		return a
	}
	a.ASPath = a.ASPath.Prepend(e.AS)
	a.NextHop = e.LocalAddr
	a.LocalPref, a.HasLocalPref = 0, false
	a.MED, a.HasMED = 0, false // between us and the AS it came from only (RFC 4271 section 5.1.4)
	return a
}

// offer is what a group is told of one prefix.
type offer struct {
	wire string // path attributes in wire form
	to   audience
}

// offer is what the group is told of a path; ok is false when nothing, also
// when the attributes leave no room for a prefix in one message.
func (e Export) offer(p Path) (o offer, ok bool) {
	if !e.forwards(p) {
		return offer{}, false
	}
	a := e.attrs(p)
	wire, err := message.AppendAttrs(nil, &a, message.Options{AS4: e.AS4, Internal: e.Internal})
	if err != nil || len(wire) > message.MaxAttrs {
		return offer{}, false
	}
	o = offer{wire: string(wire)}
	if p.From.Internal == e.Internal {
		o.to.source = p.From.Addr // else it is not in this group
	}
	if a.NextHop != e.LocalAddr && a.NextHop != p.From.Addr {
		o.to.hop = a.NextHop
	}
	return o, true
}
