// SPDX-License-Identifier: Apache-2.0

package core

import (
	"net/netip"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/host"
)

// wantEndpoints is the host's side of every attached pod.
func wantEndpoints(s *cluster.Snapshot, want host.State) {
	for _, ep := range s.Endpoints {
		WantEndpoint(s.Settings, ep).addTo(want)
	}
}

// EndpointState is the host's side of one endpoint.
type EndpointState struct {
	Link    host.Link
	Route   host.Route
	Neigh   host.Neigh
	Sysctls []Sysctl // in the order they are set, all before the link is up
	// Initial is set with them and then left to others: a plugin behind ours
	// may need another value.
	Initial []Sysctl
}

// Sysctl is one setting below /proc/sys.
type Sysctl struct{ Path, Value string }

func (e EndpointState) addTo(want host.State) {
	want.Links[e.Link.Name] = e.Link
	want.Routes[e.Route.Key()] = e.Route
	want.Neighs[e.Neigh.Key()] = e.Neigh
	for _, sysctl := range e.Sysctls {
		want.Sysctls[sysctl.Path] = sysctl.Value
	}
}

// WantEndpoint is the host's side of ep: the link with our MAC and the
// endpoint's identity as its alias, the sysctls that make it answer ARP and
// refuse spoofing, the pod's route and its permanent neighbour.
func WantEndpoint(set cluster.Settings, ep cluster.Endpoint) EndpointState {
	return EndpointState{
		Link: host.Link{Name: ep.HostIf, Kind: "veth", MAC: GatewayMAC, MTU: ep.MTU, Up: true, Alias: ep.ID.String()},
		// Protocol boot, as the article's routes: iproute2 prints none.
		Route:   host.Route{Dst: netip.PrefixFrom(ep.Addr, ep.Addr.BitLen()), Dev: ep.HostIf, Proto: host.ProtoBoot, Scope: host.ScopeLink, Metric: set.EndpointMetric},
		Neigh:   host.Neigh{Dev: ep.HostIf, IP: ep.Addr, MAC: ep.MAC, State: host.Permanent},
		Sysctls: endpointSysctls(ep.HostIf),
		// 127/8 of the host stays the host's. portmap allows it, for host ports
		// on 127.0.0.1; then the packet filter keeps pods away.
		Initial: []Sysctl{{"net/ipv4/conf/" + ep.HostIf + "/route_localnet", "0"}},
	}
}

func endpointSysctls(dev string) []Sysctl {
	v4, v6, neigh := "net/ipv4/conf/"+dev+"/", "net/ipv6/conf/"+dev+"/", "net/ipv4/neigh/"+dev+"/"
	return []Sysctl{
		{v4 + "proxy_arp", "1"},        // answer for 169.254.1.1
		{neigh + "proxy_delay", "0"},   // at once: the default costs up to 1.2 s on the first packet
		{v4 + "rp_filter", "1"},        // a pod sends from its own address only
		{v4 + "forwarding", "1"},       // this link is routed
		{v4 + "accept_redirects", "0"}, // a pod does not change our routes
		{v6 + "accept_ra", "0"},        // nor gives the host an address or a default route (CVE-2020-13597)
	}
}
