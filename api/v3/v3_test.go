// SPDX-License-Identifier: Apache-2.0

package v3

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/ocicat-net/ocicat/api/meta"
)

func as(n ASNumber) *ASNumber { return &n }
func no() *bool               { b := false; return &b }

// texts are the findings with their levels, one a line.
func texts(findings []meta.Finding) string {
	var b strings.Builder
	for _, f := range findings {
		fmt.Fprintf(&b, "%d %s\n", f.Level, f.Error())
	}
	return b.String()
}

func named(name string) meta.Object { return meta.Object{Name: name} }

func TestFindings(t *testing.T) {
	good := IPPoolSpec{CIDR: "10.0.0.0/16"}
	with := func(edit func(*IPPoolSpec)) *IPPool {
		p := &IPPool{Metadata: named("p"), Spec: good}
		edit(&p.Spec)
		return p
	}
	for _, test := range []struct {
		name   string
		object interface {
			SetDefaults()
			Validate() []meta.Finding
		}
		want string
	}{
		{"plain pool", with(func(*IPPoolSpec) {}), ""},
		{"no name", &IPPool{Spec: good}, "0 metadata.name: want a name\n"},
		{"no cidr", with(func(s *IPPoolSpec) { s.CIDR = "" }), "0 spec.cidr: want a CIDR\n"},
		{"bare address", with(func(s *IPPoolSpec) { s.CIDR = "10.0.0.1" }), "0 spec.cidr: \"10.0.0.1\": want a CIDR such as 10.0.0.1/32\n"},
		{"host bits", with(func(s *IPPoolSpec) { s.CIDR = "10.0.0.1/16" }), "0 spec.cidr: \"10.0.0.1/16\": want a CIDR without host bits: 10.0.0.0/16\n"},
		{"mapped", with(func(s *IPPoolSpec) { s.CIDR = "::ffff:10.0.0.0/112" }), "0 spec.cidr: \"::ffff:10.0.0.0/112\": want an IPv4 CIDR in its own notation, not mapped into IPv6\n"},
		{"mode in the wrong case", with(func(s *IPPoolSpec) { s.IPIPMode = "crosssubnet" }), "0 spec.ipipMode: \"crosssubnet\": want Never, Always or CrossSubnet\n"},
		{"IPIP", with(func(s *IPPoolSpec) { s.IPIPMode = "Always" }), "1 spec.ipipMode: \"Always\": not supported yet: want Never\n"},
		{"NAT", with(func(s *IPPoolSpec) { s.NATOutgoing = true }), ""},
		{"uses", with(func(s *IPPoolSpec) { s.AllowedUses = []string{"Workload", "Pod", ""} }), "0 spec.allowedUses[1]: \"Pod\": want Workload, Tunnel or LoadBalancer\n0 spec.allowedUses[2]: want Workload, Tunnel or LoadBalancer\n"},
		{"multicast", with(func(s *IPPoolSpec) { s.CIDR = "224.0.0.0/8" }), "0 spec.cidr: \"224.0.0.0/8\": want no overlap with the multicast range 224.0.0.0/4\n"},

		{"plain BGP", &BGPConfiguration{Metadata: named("default"), Spec: BGPConfigurationSpec{ASNumber: as(64513), NodeToNodeMeshEnabled: no()}}, ""},
		{"AS 0", &BGPConfiguration{Metadata: named("default"), Spec: BGPConfigurationSpec{ASNumber: as(0)}}, "0 spec.asNumber: \"0\": want an AS number that is not reserved\n"},
		{"other name", &BGPConfiguration{Metadata: named("mine")}, "0 metadata.name: \"mine\": want the name default: there is one object of this kind\n"},
		{"name of a node", &BGPConfiguration{Metadata: named("node.n1")}, "1 metadata.name: \"node.n1\": not supported yet: want the name default\n"},
		{"services", &BGPConfiguration{Metadata: named("default"), Spec: BGPConfigurationSpec{ServiceClusterIPs: []CIDRBlock{{"10.96.0.1/12"}}}},
			"0 spec.serviceClusterIPs[0].cidr: \"10.96.0.1/12\": want a CIDR without host bits: 10.96.0.0/12\n1 spec.serviceClusterIPs: not supported yet: want it left out\n"},

		{"plain peer", &BGPPeer{Metadata: named("tor"), Spec: BGPPeerSpec{PeerIP: "192.0.2.1:1790", ASNumber: 65000}}, ""},
		{"peer of one node", &BGPPeer{Metadata: named("tor"), Spec: BGPPeerSpec{Node: "n1", PeerIP: "192.0.2.1", ASNumber: 65000}}, ""},
		{"peer without AS", &BGPPeer{Metadata: named("tor"), Spec: BGPPeerSpec{PeerIP: "192.0.2.1"}}, "0 spec.asNumber: \"0\": want an AS number that is not reserved\n"},
		{"peer without address", &BGPPeer{Metadata: named("tor"), Spec: BGPPeerSpec{ASNumber: 65000}}, "0 spec.peerIP: want an address, or address and port as 192.0.2.1:1790\n"},
		{"peer with port 0", &BGPPeer{Metadata: named("tor"), Spec: BGPPeerSpec{PeerIP: "192.0.2.1:0", ASNumber: 65000}}, "0 spec.peerIP: \"192.0.2.1:0\": want an address, or address and port as 192.0.2.1:1790\n"},
		{"peer by selector", &BGPPeer{Metadata: named("rr"), Spec: BGPPeerSpec{NodeSelector: "all()", PeerSelector: "has(rr)"}},
			"1 spec.nodeSelector: \"all()\": not supported yet: want it left out\n1 spec.peerSelector: \"has(rr)\": not supported yet: want it left out\n"},
		{"peer by both", &BGPPeer{Metadata: named("rr"), Spec: BGPPeerSpec{PeerIP: "192.0.2.1", PeerSelector: "has(rr)"}},
			"0 spec.peerIP: \"192.0.2.1\": want it left out, as a selector chooses the peers\n1 spec.peerSelector: \"has(rr)\": not supported yet: want it left out\n"},

		{"plain node", &Node{Metadata: named("Node-A"), Spec: NodeSpec{BGP: &NodeBGPSpec{IPv4Address: "192.168.0.11/24"}}}, ""},
		{"node without BGP", &Node{Metadata: named("n")}, ""},
		{"bad node", &Node{Metadata: named("n"), Spec: NodeSpec{Addresses: []NodeAddress{{"x", "Internal"}}, BGP: &NodeBGPSpec{IPv4Address: "fd00::1/64", ASNumber: as(23456), RouteReflectorClusterID: "1"}}},
			"0 spec.addresses[0].address: \"x\": want an IP address\n0 spec.addresses[0].type: \"Internal\": want CalicoNodeIP, InternalIP or ExternalIP\n" +
				"0 spec.bgp.asNumber: \"23456\": want an AS number that is not reserved\n0 spec.bgp.ipv4Address: \"fd00::1/64\": want an IPv4 address with the length of its network, as 192.168.0.11/24\n" +
				"0 spec.bgp.routeReflectorClusterID: \"1\": want an id like an IPv4 address, as 244.0.0.1\n"},

		{"plain IPAM", &IPAMConfiguration{Metadata: named("default")}, ""},
		{"IPAM without blocks", &IPAMConfiguration{Metadata: named("default"), Spec: IPAMConfigurationSpec{AutoAllocateBlocks: no()}}, "0 spec.autoAllocateBlocks: \"false\": want true, as spec.strictAffinity is false\n"},
		{"IPAM limit", &IPAMConfiguration{Metadata: named("default"), Spec: IPAMConfigurationSpec{MaxBlocksPerHost: 1}}, "0 spec.maxBlocksPerHost: \"1\": want 0, as spec.strictAffinity is false\n"},
		{"IPAM limit, strict", &IPAMConfiguration{Metadata: named("default"), Spec: IPAMConfigurationSpec{MaxBlocksPerHost: 1, StrictAffinity: true}}, ""},
		{"IPAM cooldown", &IPAMConfiguration{Metadata: named("default"), Spec: IPAMConfigurationSpec{IPCooldownSeconds: 300}}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.object.SetDefaults()
			if got := texts(test.object.Validate()); got != test.want {
				t.Errorf("got\n%swant\n%s", got, test.want)
			}
		})
	}
}

func TestMisspeltModeGetsASuggestion(t *testing.T) {
	found := checkEnum("spec.ipipMode", "crosssubnet", Never, Always, CrossSubnet)
	if len(found) != 1 || found[0].Hint != "Did you mean CrossSubnet?" {
		t.Errorf("findings %+v", found)
	}
}

func TestTogether(t *testing.T) {
	pool := func(name, cidr string) *IPPool {
		return &IPPool{Metadata: named(name), Spec: IPPoolSpec{CIDR: cidr}}
	}
	node := func(name, addr string) *Node {
		return &Node{Metadata: named(name), Spec: NodeSpec{BGP: &NodeBGPSpec{IPv4Address: addr}}}
	}
	pools := []*IPPool{pool("a", "10.0.0.0/16"), pool("b", "10.0.1.0/24"), pool("c", "192.168.0.0/16"), pool("bad", "x")}
	nodes := []*Node{node("n1", "192.168.0.11/24"), node("n2", "192.168.0.11/24"), node("n3", "172.16.0.1"), {Metadata: named("n4")}}

	if got, want := texts(CheckPools(pools)), "0 IPPool b: spec.cidr: \"10.0.1.0/24\": want no overlap with IPPool a (10.0.0.0/16)\n"; got != want {
		t.Errorf("pools: %s", got)
	}
	if got, want := texts(CheckPoolsAgainstNodes(pools, append(nodes[:1:1], nodes[2:]...))), "0 IPPool c: spec.cidr: \"192.168.0.0/16\": want no overlap with 192.168.0.0/24, the network of node n1\n"; got != want {
		t.Errorf("pools and nodes: %s", got)
	}
	if got, want := texts(CheckNodes(nodes)), "0 Node n2: spec.bgp.ipv4Address: \"192.168.0.11/24\": want an address that node n1 does not have\n"; got != want {
		t.Errorf("nodes: %s", got)
	}
}

func TestASNumber(t *testing.T) {
	for text, want := range map[string]ASNumber{`64512`: 64512, `"64512"`: 64512, `"1.10"`: 65546, `"65535.65535"`: 4294967295, `4294967294`: 4294967294} {
		var got ASNumber
		if err := json.Unmarshal([]byte(text), &got); err != nil || got != want {
			t.Errorf("%s is %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{`-1`, `4294967296`, `"65536.0"`, `"1."`, `"a"`, `"1.2.3"`, `true`, `""`} {
		var got ASNumber
		if json.Unmarshal([]byte(text), &got) == nil {
			t.Errorf("%s is accepted as %d", text, got)
		}
	}
	if text, err := json.Marshal(ASNumber(65546)); err != nil || string(text) != "65546" {
		t.Errorf("written as %s, %v", text, err)
	}
}

func FuzzASNumber(f *testing.F) {
	f.Add("64512")
	f.Add("1.10")
	f.Add("65536.1")
	f.Fuzz(func(t *testing.T, text string) {
		var a, b ASNumber
		if a.UnmarshalText([]byte(text)) != nil {
			return
		}
		out, err := a.MarshalJSON()
		if err != nil || b.UnmarshalJSON(out) != nil || a != b {
			t.Errorf("%q is %d, written as %s, read as %d", text, a, out, b)
		}
	})
}

func FuzzParsePeerIP(f *testing.F) {
	for _, seed := range []string{"192.0.2.1", "192.0.2.1:1790", "[2001:db8::1]:179", "::1", "fe80::1%eth0", "1.2.3.4:0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		at, ok := ParsePeerIP(s)
		if ok && (!at.Addr().IsValid() || at.Addr().Zone() != "" || at.Addr().IsUnspecified()) {
			t.Errorf("%q is accepted as %v", s, at)
		}
	})
}

func TestNodeAddress(t *testing.T) {
	for text, want := range map[string]netip.Prefix{
		"192.168.0.11/24": netip.MustParsePrefix("192.168.0.11/24"),
		"192.168.0.11":    netip.MustParsePrefix("192.168.0.11/32"),
		"fd00::1/64":      {},
		"":                {},
	} {
		n := &Node{Spec: NodeSpec{BGP: &NodeBGPSpec{IPv4Address: text}}}
		if got := n.IPv4(); got != want {
			t.Errorf("%q is %v, want %v", text, got, want)
		}
	}
}
