// SPDX-License-Identifier: Apache-2.0

package v3

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/ocicat-net/ocicat/api/meta"
)

// KindBGPPeer is the kind of a BGPPeer.
const KindBGPPeer = "BGPPeer"

// BGPPeer makes nodes peers of a BGP speaker: all nodes, or one.
type BGPPeer struct {
	meta.Type
	// Metadata names the peer.
	Metadata meta.Object `json:"metadata"`
	// Spec says who peers with whom.
	Spec BGPPeerSpec `json:"spec"`
}

// BGPPeerSpec says who peers with whom.
type BGPPeerSpec struct {
	// Node is the node that peers; with neither Node nor NodeSelector all do.
	Node string `json:"node,omitempty"`
	// NodeSelector chooses the nodes that peer. Not supported yet.
	NodeSelector string `json:"nodeSelector,omitempty"`
	// PeerIP is the peer's address, with a port as "192.0.2.1:1790" or
	// "[2001:db8::1]:1790"; the port's default is 179.
	PeerIP string `json:"peerIP,omitempty"`
	// ASNumber is the peer's AS.
	ASNumber ASNumber `json:"asNumber,omitempty"`
	// LocalASNumber is the AS shown to this peer. Not supported yet.
	LocalASNumber *ASNumber `json:"localASNumber,omitempty"`
	// PeerSelector chooses nodes as peers instead of PeerIP. Not supported yet.
	PeerSelector string `json:"peerSelector,omitempty"`
	// LocalWorkloadSelector chooses pods as peers. Not supported yet.
	LocalWorkloadSelector string `json:"localWorkloadSelector,omitempty"`
	// Password is the secret that holds the MD5 password. Not supported yet.
	Password *BGPPassword `json:"password,omitempty"`
	// SourceAddress is UseNodeIP (default) or None, which is not supported
	// yet.
	SourceAddress string `json:"sourceAddress,omitempty"`
	// KeepOriginalNextHop is the older form of NextHopMode Keep. Not
	// supported yet.
	KeepOriginalNextHop bool `json:"keepOriginalNextHop,omitempty"`
	// NextHopMode is Auto (default), Self or Keep, of which only Auto is
	// supported yet.
	NextHopMode string `json:"nextHopMode,omitempty"`
	// MaxRestartTime is the graceful restart time, as "120s". Not
	// supported yet.
	MaxRestartTime string `json:"maxRestartTime,omitempty"`
	// KeepaliveTime is the interval of keepalives, as "10s". Not
	// supported yet.
	KeepaliveTime string `json:"keepaliveTime,omitempty"`
	// NumAllowedLocalASNumbers is how often the own AS may stand in a path. Not
	// supported yet.
	NumAllowedLocalASNumbers int `json:"numAllowedLocalASNumbers,omitempty"`
	// TTLSecurity is the number of hops to the peer (RFC 5082). Not
	// supported yet.
	TTLSecurity int `json:"ttlSecurity,omitempty"`
	// ReachableBy is the gateway to a peer that is not on the link. Not
	// supported yet.
	ReachableBy string `json:"reachableBy,omitempty"`
	// Filters are the names of BGPFilters. Not
	// supported yet.
	Filters []string `json:"filters,omitempty"`
	// ReversePeering is Auto (default) or Manual: whether selected peers peer
	// back. Manual is not supported yet.
	ReversePeering string `json:"reversePeering,omitempty"`
}

// TypeMeta returns the object's kind and version.
func (p *BGPPeer) TypeMeta() *meta.Type { return &p.Type }

// ObjectMeta returns the object's name and labels.
func (p *BGPPeer) ObjectMeta() *meta.Object { return &p.Metadata }

// SetDefaults does nothing: what is left out keeps its default also when a
// later version changes it.
func (p *BGPPeer) SetDefaults() {}

// Selectors lists the fields that hold selectors.
func (p *BGPPeer) Selectors() []meta.Field {
	return []meta.Field{
		{Path: "spec.nodeSelector", Value: p.Spec.NodeSelector},
		{Path: "spec.peerSelector", Value: p.Spec.PeerSelector},
		{Path: "spec.localWorkloadSelector", Value: p.Spec.LocalWorkloadSelector},
	}
}

// ParsePeerIP reads an address with or without a port; a port of 0 is none.
func ParsePeerIP(s string) (netip.AddrPort, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a, 0), usable(a)
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap, usable(ap.Addr()) && ap.Port() != 0
	}
	return netip.AddrPort{}, false
}

func usable(a netip.Addr) bool {
	return a.Zone() == "" && !a.Is4In6() && !a.IsUnspecified() && !a.IsMulticast()
}

// Validate reports what is wrong with the peer on its own.
func (p *BGPPeer) Validate() []meta.Finding {
	s := p.Spec
	found := meta.CheckName("metadata.name", p.Metadata.Name)
	if s.Node != "" {
		found = append(found, meta.CheckNodeName("spec.node", s.Node)...)
	}
	if s.Node != "" && s.NodeSelector != "" {
		found = append(found, meta.Finding{Path: "spec.nodeSelector", Value: s.NodeSelector, Want: "it left out, as spec.node is set"})
	}
	selected := s.PeerSelector != "" || s.LocalWorkloadSelector != ""
	switch {
	case selected && s.PeerIP != "":
		found = append(found, meta.Finding{Path: "spec.peerIP", Value: s.PeerIP, Want: "it left out, as a selector chooses the peers"})
	case s.PeerSelector != "" && s.ASNumber != 0:
		found = append(found, meta.Finding{Path: "spec.asNumber", Value: strconv.FormatUint(uint64(s.ASNumber), 10), Want: "it left out, as spec.peerSelector is set"})
	case !selected:
		if _, ok := ParsePeerIP(s.PeerIP); !ok {
			found = append(found, meta.Finding{Path: "spec.peerIP", Value: s.PeerIP, Want: "an address, or address and port as 192.0.2.1:1790"})
		}
		found = append(found, checkAS("spec.asNumber", s.ASNumber)...)
	}
	found = append(found, checkEnum("spec.sourceAddress", s.SourceAddress, "UseNodeIP", "None")...)
	found = append(found, checkEnum("spec.nextHopMode", s.NextHopMode, "Auto", "Self", "Keep")...)
	found = append(found, checkEnum("spec.reversePeering", s.ReversePeering, "Auto", "Manual")...)
	if s.ReachableBy != "" {
		_, wrong := checkIP("spec.reachableBy", s.ReachableBy)
		found = append(found, wrong...)
	}
	return append(found, s.limits()...)
}

// limits says what this version does not do of what the peer asks for.
func (s BGPPeerSpec) limits() []meta.Finding {
	var found []meta.Finding
	for _, f := range []struct {
		set         bool
		path, value string
	}{
		{s.NodeSelector != "", "spec.nodeSelector", s.NodeSelector},
		{s.PeerSelector != "", "spec.peerSelector", s.PeerSelector},
		{s.LocalWorkloadSelector != "", "spec.localWorkloadSelector", s.LocalWorkloadSelector},
		{s.LocalASNumber != nil, "spec.localASNumber", ""},
		{s.SourceAddress == "None", "spec.sourceAddress", "None"},
		{s.KeepOriginalNextHop, "spec.keepOriginalNextHop", "true"},
		{s.NextHopMode == "Self" || s.NextHopMode == "Keep", "spec.nextHopMode", s.NextHopMode},
		{s.MaxRestartTime != "", "spec.maxRestartTime", s.MaxRestartTime},
		{s.KeepaliveTime != "", "spec.keepaliveTime", s.KeepaliveTime},
		{s.NumAllowedLocalASNumbers != 0, "spec.numAllowedLocalASNumbers", ""},
		{s.TTLSecurity != 0, "spec.ttlSecurity", ""},
		{s.ReachableBy != "", "spec.reachableBy", s.ReachableBy},
		{len(s.Filters) > 0, "spec.filters", strings.Join(s.Filters, ", ")},
		{s.ReversePeering == "Manual", "spec.reversePeering", "Manual"},
	} {
		if f.set {
			found = append(found, unsupported(f.path, f.value, "it left out", withBGP))
		}
	}
	if s.Password != nil {
		found = append(found, unsupported("spec.password", "", "it left out", passwordHint))
	}
	if peer, ok := ParsePeerIP(s.PeerIP); ok && peer.Addr().Is6() {
		found = append(found, unsupported("spec.peerIP", s.PeerIP, "an IPv4 address", "IPv6 comes with a later issue."))
	}
	return found
}
