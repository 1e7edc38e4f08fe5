// SPDX-License-Identifier: Apache-2.0

package purge_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/purge"
)

// route is one of a main table; via and dev may be "".
func route(dst, via, dev string, proto host.Protocol, kind host.RouteType) host.Route {
	r := host.Route{Dst: netip.MustParsePrefix(dst), Dev: dev, Proto: proto, Type: kind}
	if via != "" {
		r.Via = netip.MustParseAddr(via)
	}
	return r
}

// full is a node with two pods, one link that is half made, and what others
// have: Calico's pod, a BIRD outside the pools, somebody's bridge.
func full() purge.Seen {
	veth := func(index int, name, alias string) host.Link {
		return host.Link{Name: name, Index: index, Kind: "veth", MAC: core.GatewayMAC, MTU: 1500, Alias: alias}
	}
	links := map[string]host.Link{
		"lo":              {Name: "lo", Index: 1},
		"ens160":          {Name: "ens160", Index: 2, MTU: 1500},
		"cali11111111111": veth(3, "cali11111111111", "c1/eth0"),
		"cali22222222222": veth(4, "cali22222222222", "c2/eth0"),
		"cali33333333333": veth(5, "cali33333333333", ""),
		"calico-like":     {Name: "calico-like", Index: 6, Kind: "veth", Alias: "c3/eth0"},
		"gone7":           veth(7, "gone7", "c4/eth0"),
	}
	return purge.Seen{
		Links: links, Unfinished: []host.Link{links["gone7"]}, Forwarding: true, Table: true,
		Routes: []host.Route{
			route("0.0.0.0/0", "192.168.0.2", "ens160", host.ProtoStatic, host.Unicast),
			route("10.9.0.0/16", "192.168.0.9", "ens160", host.ProtoBird, host.Unicast),
			route("169.254.1.1/32", "", "lo", host.ProtoBird, host.Unicast),
			route("172.16.5.0/24", "192.168.0.9", "ens160", host.ProtoStatic, host.Unicast),
			route("172.16.109.64/26", "192.168.0.12", "ens160", host.ProtoBird, host.Unicast),
			route("172.16.196.0/26", "", "", host.ProtoBird, host.Blackhole),
			route("172.16.196.1/32", "", "cali11111111111", host.ProtoBoot, host.Unicast),
			route("172.16.196.9/32", "", "cali33333333333", host.ProtoBoot, host.Unicast),
			route("192.168.0.0/24", "", "ens160", host.ProtoKernel, host.Unicast),
		},
		Files: []string{"/run/ocicat/journal", "/run/ocicat"}, AlienFiles: []string{"/var/lib/ocicat/notes"},
	}
}

func TestDecide(t *testing.T) {
	memory := purge.Memory{
		Pools: []netip.Prefix{netip.MustParsePrefix("172.16.0.0/16")}, Protocol: host.ProtoBird,
		Pods: map[cluster.EndpointID]string{{ContainerID: "c1", IfName: "eth0"}: "devops/web-0"},
	}
	const forwarding = "keep sysctl net/ipv4/ip_forward = 1: others may need it by now; what the system's own configuration says holds from its next start\n"
	for _, test := range []struct {
		what   string
		memory purge.Memory
		force  bool
		change func(*purge.Seen)
		want   string
	}{
		{"pods and strangers", memory, false, func(*purge.Seen) {}, `pod devops/web-0 (cali11111111111)
pod container c2 (cali22222222222)
remove link gone7
remove link cali11111111111
remove link cali22222222222
remove route 169.254.1.1 dev lo proto bird
remove route 172.16.109.64/26 via 192.168.0.12 dev ens160 proto bird
remove route blackhole 172.16.196.0/26 proto bird
remove table inet ocicat
remove file /run/ocicat/journal
remove file /run/ocicat
` + forwarding + "keep file /var/lib/ocicat/notes: it is not the agent's\n"},
		{"an empty node", memory, false, func(s *purge.Seen) { *s = purge.Seen{} }, ""},
		{"pools by the packet filter alone", purge.Memory{Protocol: host.ProtoBird}, false, func(s *purge.Seen) {
			*s = purge.Seen{Routes: s.Routes[1:6], Table: true, FilterPools: memory.Pools}
		}, `remove route 169.254.1.1 dev lo proto bird
remove route 172.16.109.64/26 via 192.168.0.12 dev ens160 proto bird
remove route blackhole 172.16.196.0/26 proto bird
remove table inet ocicat
`},
		{"pools not known", purge.Memory{Protocol: host.ProtoBird}, false, func(s *purge.Seen) {
			*s = purge.Seen{Routes: s.Routes[1:6], Table: true}
		}, `remove route 169.254.1.1 dev lo proto bird
remove table inet ocicat
keep route 10.9.0.0/16 via 192.168.0.9 dev ens160 proto bird: no file of the agent says which pools there were; delete it by hand if it is of one
keep route 172.16.109.64/26 via 192.168.0.12 dev ens160 proto bird: no file of the agent says which pools there were; delete it by hand if it is of one
keep route blackhole 172.16.196.0/26 proto bird: no file of the agent says which pools there were; delete it by hand if it is of one
`},
		{"nothing of ours but the gateway's route", purge.Memory{Protocol: host.ProtoBird}, false, func(s *purge.Seen) {
			*s = purge.Seen{Routes: s.Routes[1:6]}
		}, "remove route 169.254.1.1 dev lo proto bird\n"},
		{"another speaker", memory, false, func(s *purge.Seen) {
			*s = purge.Seen{Routes: s.Routes[1:6], Speaker: true}
		}, `remove route 169.254.1.1 dev lo proto bird
keep route 172.16.109.64/26 via 192.168.0.12 dev ens160 proto bird: another BGP speaker runs here, whose routes look the same; delete what is not its own by hand, or stop it and purge again with --force
keep route blackhole 172.16.196.0/26 proto bird: another BGP speaker runs here, whose routes look the same; delete what is not its own by hand, or stop it and purge again with --force
`},
		{"another speaker, by force", memory, true, func(s *purge.Seen) {
			*s = purge.Seen{Routes: s.Routes[4:6], Speaker: true}
		}, `remove route 172.16.109.64/26 via 192.168.0.12 dev ens160 proto bird
remove route blackhole 172.16.196.0/26 proto bird
`},
		{"another protocol", purge.Memory{Protocol: 80, Pools: memory.Pools}, false, func(s *purge.Seen) {
			*s = purge.Seen{Routes: append(s.Routes[4:6], route("172.16.1.0/26", "192.168.0.13", "ens160", 80, host.Unicast))}
		}, "remove route 172.16.1.0/26 via 192.168.0.13 dev ens160 proto 80\n"},
	} {
		seen := full()
		test.change(&seen)
		if diff := cmp.Diff(test.want, purge.Decide(seen, test.memory, test.force).String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.what, diff)
		}
	}
}
