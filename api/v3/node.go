// SPDX-License-Identifier: Apache-2.0

package v3

import (
	"fmt"
	"net/netip"

	"github.com/ocicat-net/ocicat/api/meta"
)

// KindNode is the kind of a Node.
const KindNode = "Node"

// Node is one machine of the cluster. An agent writes its own Node at start;
// what a user adds to it stays.
type Node struct {
	meta.Type
	// Metadata names the node.
	Metadata meta.Object `json:"metadata"`
	// Spec says how the node takes part in BGP.
	Spec NodeSpec `json:"spec"`
	// Status is written by programs.
	Status *NodeStatus `json:"status,omitempty"`
}

// NodeSpec says how a node takes part in BGP, and what other programs know of
// it.
type NodeSpec struct {
	// BGP holds the node's BGP settings; without it the node has no sessions.
	BGP *NodeBGPSpec `json:"bgp,omitempty"`
	// Addresses are the node's addresses by type.
	Addresses []NodeAddress `json:"addresses,omitempty"`
	// OrchRefs name the node in an orchestrator.
	OrchRefs []OrchRef `json:"orchRefs,omitempty"`
	// IPv4VXLANTunnelAddr is the address of Calico's VXLAN device.
	IPv4VXLANTunnelAddr string `json:"ipv4VXLANTunnelAddr,omitempty"`
	// VXLANTunnelMACAddr is the MAC of that device.
	VXLANTunnelMACAddr string `json:"vxlanTunnelMACAddr,omitempty"`
	// IPv6VXLANTunnelAddr is the address of Calico's IPv6 VXLAN device.
	IPv6VXLANTunnelAddr string `json:"ipv6VXLANTunnelAddr,omitempty"`
	// VXLANTunnelMACAddrV6 is the MAC of that device.
	VXLANTunnelMACAddrV6 string `json:"vxlanTunnelMACAddrV6,omitempty"`
	// Wireguard holds the addresses of Calico's WireGuard devices.
	Wireguard *NodeWireguardSpec `json:"wireguard,omitempty"`
}

// NodeBGPSpec holds the BGP settings of a node.
type NodeBGPSpec struct {
	// ASNumber is the node's AS; default is the cluster's.
	ASNumber *ASNumber `json:"asNumber,omitempty"`
	// IPv4Address is the address of the node's sessions, with the length of
	// its network, as "192.168.0.11/24"; without a length it is /32.
	IPv4Address string `json:"ipv4Address,omitempty"`
	// IPv6Address is the same for IPv6.
	IPv6Address string `json:"ipv6Address,omitempty"`
	// IPv4IPIPTunnelAddr is the address of the node's IPIP device.
	IPv4IPIPTunnelAddr string `json:"ipv4IPIPTunnelAddr,omitempty"`
	// RouteReflectorClusterID makes the node a reflector of that cluster
	// id, which is written like an IPv4 address. Not supported yet.
	RouteReflectorClusterID string `json:"routeReflectorClusterID,omitempty"`
}

// NodeAddress is one address of a node.
type NodeAddress struct {
	// Address is an IP, with or without the length of its network.
	Address string `json:"address"`
	// Type is CalicoNodeIP, InternalIP or ExternalIP.
	Type string `json:"type,omitempty"`
}

// OrchRef names a node in an orchestrator.
type OrchRef struct {
	// NodeName is the name there.
	NodeName string `json:"nodeName,omitempty"`
	// Orchestrator is its name, as "k8s".
	Orchestrator string `json:"orchestrator"`
}

// NodeWireguardSpec holds the addresses of a node's WireGuard devices.
type NodeWireguardSpec struct {
	// InterfaceIPv4Address is the address of the IPv4 device.
	InterfaceIPv4Address string `json:"interfaceIPv4Address,omitempty"`
	// InterfaceIPv6Address is the address of the IPv6 device.
	InterfaceIPv6Address string `json:"interfaceIPv6Address,omitempty"`
}

// NodeStatus is what programs record of a node.
type NodeStatus struct {
	// WireguardPublicKey is the key of the IPv4 WireGuard device.
	WireguardPublicKey string `json:"wireguardPublicKey,omitempty"`
	// WireguardPublicKeyV6 is the key of the IPv6 WireGuard device.
	WireguardPublicKeyV6 string `json:"wireguardPublicKeyV6,omitempty"`
	// PodCIDRs are Kubernetes' ranges for the node; they are not used.
	PodCIDRs []string `json:"podCIDRs,omitempty"`
}

// TypeMeta returns the object's kind and version.
func (n *Node) TypeMeta() *meta.Type { return &n.Type }

// ObjectMeta returns the object's name and labels.
func (n *Node) ObjectMeta() *meta.Object { return &n.Metadata }

// SetDefaults does nothing: a node has no defaults.
func (n *Node) SetDefaults() {}

// Selectors lists the fields that hold selectors: none.
func (n *Node) Selectors() []meta.Field { return nil }

// IPv4 is spec.bgp.ipv4Address as a value, /32 where no length is given;
// invalid when there is none.
func (n *Node) IPv4() netip.Prefix {
	if n.Spec.BGP == nil {
		return netip.Prefix{}
	}
	p, ok := parseInterface(n.Spec.BGP.IPv4Address)
	if !ok || !p.Addr().Is4() {
		return netip.Prefix{}
	}
	return p
}

// parseInterface reads an address with or without the length of its network.
func parseInterface(s string) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), usable(a)
	}
	p, err := netip.ParsePrefix(s)
	return p, err == nil && usable(p.Addr())
}

// Validate reports what is wrong with the node on its own.
func (n *Node) Validate() []meta.Finding {
	found := meta.CheckNodeName("metadata.name", n.Metadata.Name)
	found = append(found, meta.CheckLabels("metadata.labels", n.Metadata.Labels)...)
	for i, a := range n.Spec.Addresses {
		path := fmt.Sprintf("spec.addresses[%d]", i)
		if _, ok := parseInterface(a.Address); !ok {
			found = append(found, meta.Finding{Path: path + ".address", Value: a.Address, Want: "an IP address"})
		}
		found = append(found, checkEnum(path+".type", a.Type, "CalicoNodeIP", "InternalIP", "ExternalIP")...)
	}
	if n.Spec.BGP != nil {
		found = append(found, n.Spec.BGP.validate()...)
	}
	return found
}

func (s *NodeBGPSpec) validate() []meta.Finding {
	var found []meta.Finding
	if s.ASNumber != nil {
		found = append(found, checkAS("spec.bgp.asNumber", *s.ASNumber)...)
	}
	if p, ok := parseInterface(s.IPv4Address); s.IPv4Address != "" && (!ok || !p.Addr().Is4()) {
		found = append(found, meta.Finding{Path: "spec.bgp.ipv4Address", Value: s.IPv4Address, Want: "an IPv4 address with the length of its network, as 192.168.0.11/24"})
	}
	if p, ok := parseInterface(s.IPv6Address); s.IPv6Address != "" && (!ok || !p.Addr().Is6()) {
		found = append(found, meta.Finding{Path: "spec.bgp.ipv6Address", Value: s.IPv6Address, Want: "an IPv6 address with the length of its network, as 2001:db8::11/64"})
	}
	if s.IPv4IPIPTunnelAddr != "" {
		if a, wrong := checkIP("spec.bgp.ipv4IPIPTunnelAddr", s.IPv4IPIPTunnelAddr); wrong != nil || !a.Is4() {
			found = append(found, meta.Finding{Path: "spec.bgp.ipv4IPIPTunnelAddr", Value: s.IPv4IPIPTunnelAddr, Want: "an IPv4 address"})
		}
	}
	if s.RouteReflectorClusterID == "" {
		return found
	}
	if a, err := netip.ParseAddr(s.RouteReflectorClusterID); err != nil || !a.Is4() {
		return append(found, meta.Finding{Path: "spec.bgp.routeReflectorClusterID", Value: s.RouteReflectorClusterID, Want: "an id like an IPv4 address, as 244.0.0.1"})
	}
	return append(found, unsupported("spec.bgp.routeReflectorClusterID", s.RouteReflectorClusterID, "it left out", withBGP))
}
