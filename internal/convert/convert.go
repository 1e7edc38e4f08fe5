// SPDX-License-Identifier: Apache-2.0

// Package convert is the one place where resources become the values a node
// decides with. Each function is pure; what cannot be used is reported as a
// Problem and left out, the others go on.
package convert

import (
	"net/netip"

	v1 "github.com/ocicat-net/ocicat/api/v1"
	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// Pool converts an IPPool; a CIDR that does not parse is Invalid.
func Pool(p *v3.IPPool) (cluster.Pool, error) {
	cidr, err := netip.ParsePrefix(p.Spec.CIDR)
	if err != nil {
		return cluster.Pool{}, fault.New(fault.Invalid, "pool %s: spec.cidr %q: not a prefix", p.Metadata.Name, p.Spec.CIDR)
	}
	if p.Spec.BlockSize < cidr.Bits() || p.Spec.BlockSize > cidr.Addr().BitLen() {
		return cluster.Pool{}, fault.New(fault.Invalid, "pool %s: spec.blockSize %d does not fit %s", p.Metadata.Name, p.Spec.BlockSize, cidr)
	}
	return cluster.Pool{
		Name:              p.Metadata.Name,
		CIDR:              cidr.Masked(),
		BlockSize:         p.Spec.BlockSize,
		IPIP:              cluster.EncapMode(p.Spec.IPIPMode),
		VXLAN:             cluster.EncapMode(p.Spec.VXLANMode),
		NATOutgoing:       p.Spec.NATOutgoing,
		Disabled:          p.Spec.Disabled,
		DisableBGPExport:  p.Spec.DisableBGPExport,
		NodeSelector:      p.Spec.NodeSelector,
		NamespaceSelector: p.Spec.NamespaceSelector,
		AllowedUses:       p.Spec.AllowedUses,
		Manual:            p.Spec.AssignmentMode == v3.Manual,
	}, nil
}

// Reservation converts an IPReservation to its ranges. Those that do not parse
// are left out, and Invalid.
func Reservation(r *v3.IPReservation) ([]netip.Prefix, error) {
	var ranges []netip.Prefix
	var wrong error
	for i, text := range r.Spec.ReservedCIDRs {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			wrong = fault.New(fault.Invalid, "reservation %s: spec.reservedCIDRs[%d] %q: not a prefix", r.Metadata.Name, i, text)
			continue
		}
		ranges = append(ranges, p.Masked())
	}
	return ranges, wrong
}

// Node converts a Node. One without a BGP address has none, which is no
// error: it has no sessions.
func Node(n *v3.Node) cluster.Node {
	node := cluster.Node{Name: cluster.NodeName(n.Metadata.Name), Address: n.IPv4(), Labels: n.Metadata.Labels}
	if bgp := n.Spec.BGP; bgp != nil {
		node.RouteReflector = bgp.RouteReflectorClusterID
		if bgp.ASNumber != nil {
			node.AS = speaker.ASN(*bgp.ASNumber)
		}
	}
	return node
}

// BGP converts the cluster's BGPConfiguration; nil is the defaults.
func BGP(c *v3.BGPConfiguration) cluster.BGP {
	if c == nil {
		c = &v3.BGPConfiguration{}
	}
	return cluster.BGP{AS: speaker.ASN(c.AS()), Mesh: c.Mesh(), Port: uint16(c.Spec.ListenPort)}
}

// Peers converts the BGPPeers that concern the node self. passwords holds the
// MD5 keys of peers by name, from the agent's own file.
func Peers(peers []*v3.BGPPeer, self cluster.NodeName, passwords map[string]string) ([]cluster.PeerSpec, []problem.Problem) {
	var specs []cluster.PeerSpec
	var problems []problem.Problem
	for _, p := range peers {
		if p.Spec.Node != "" && p.Spec.Node != string(self) {
			continue
		}
		if why := unusable(p); why != "" {
			problems = append(problems, problem.New(problem.PeerUnusable, p.Metadata.Name, p.Metadata.Name, why))
			continue
		}
		at, _ := v3.ParsePeerIP(p.Spec.PeerIP)
		spec := cluster.PeerSpec{
			Name: p.Metadata.Name, Addr: at.Addr(), Port: at.Port(),
			AS: speaker.ASN(p.Spec.ASNumber), Kind: speaker.Global, Password: passwords[p.Metadata.Name],
		}
		if p.Spec.Node != "" {
			spec.Kind = speaker.ByNode
		}
		specs = append(specs, spec)
	}
	return specs, problems
}

// unusable says why a peer cannot be had. A peer whose password is asked for
// and not known is never dialled without one.
func unusable(p *v3.BGPPeer) string {
	switch {
	case p.Spec.NodeSelector != "" || p.Spec.PeerSelector != "" || p.Spec.LocalWorkloadSelector != "":
		return "it is chosen by a selector, which this version does not do"
	case p.Spec.Password != nil:
		return "spec.password names a Kubernetes secret, which this version does not read; put the password into the agent's password file"
	}
	if at, ok := v3.ParsePeerIP(p.Spec.PeerIP); !ok || !at.Addr().Is4() {
		return "spec.peerIP " + p.Spec.PeerIP + " is not an IPv4 address, all this version does"
	}
	return ""
}

// Settings converts the cluster's OcicatConfiguration over the agent's own
// defaults; nil leaves them.
func Settings(c *v1.OcicatConfiguration, defaults cluster.Settings) cluster.Settings {
	if c == nil {
		return defaults
	}
	s := defaults
	if c.Spec.RouteProtocol != nil {
		s.RouteProtocol = host.Protocol(c.Protocol())
	}
	if c.Spec.EndpointMetric != nil {
		s.EndpointMetric = c.Metric()
	}
	if c.Spec.PermanentGateway != nil {
		s.PermGateway = c.PermGateway()
	}
	if c.Spec.PeerPrefixLimit != nil {
		s.PeerPrefixLimit = c.PrefixLimit()
	}
	if c.Spec.ReserveSize != nil {
		s.Reserve = c.Reserve()
	}
	return s
}
