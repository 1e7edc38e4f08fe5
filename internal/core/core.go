// SPDX-License-Identifier: Apache-2.0

// Package core decides what a node's kernel and speaker should hold. It is a
// set of pure functions from a cluster.Snapshot: no clock, no file, no socket,
// no log. Where something cannot be done as asked it says so as a Problem.
package core

import (
	"net/netip"
	"strings"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/problem"
)

// GatewayMAC is the MAC of every host end: pods see it as their gateway's.
var GatewayMAC = host.MAC{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}

// Gateway is the address pods use as their gateway. Nobody owns it: host ends
// answer for it by proxy ARP.
var Gateway = netip.AddrFrom4([4]byte{169, 254, 1, 1})

// Forwarding is the setting that makes a node a router at all.
const Forwarding = "net/ipv4/ip_forward"

// Host is everything of ours that this node's kernel should hold, with what
// stands in the way.
func Host(s *cluster.Snapshot) (host.State, []problem.Problem) {
	want := host.NewState()
	if s.Learned != nil {
		want.Routes = make(map[host.RouteKey]host.Route, s.Learned.Len()+len(s.Blocks)+len(s.Endpoints))
	}
	wantNode(s, want)
	wantEndpoints(s, want)
	wantBlocks(s, want)
	problems := wantLearned(s, want)
	problems = append(problems, poolProblems(s)...)
	return want, problem.Sort(problems)
}

// wantNode is what a node needs to be a router for its pods at all.
func wantNode(s *cluster.Snapshot, want host.State) {
	want.Sysctls[Forwarding] = "1"
	if s.Host.DefaultRoute {
		return
	}
	// Proxy ARP answers only for addresses the host itself has a route to
	// (seen on 6.18); without a default route that must be this one.
	r := host.Route{Dst: netip.PrefixFrom(Gateway, 32), Dev: "lo", Proto: s.Settings.RouteProtocol, Scope: host.ScopeLink}
	want.Routes[r.Key()] = r
}

// wantBlocks keeps packets to an address of an own block that no pod holds
// from leaving by the default route. A block of one address needs none, and one
// whose claim is not confirmed may be somebody else's.
func wantBlocks(s *cluster.Snapshot, want host.State) {
	for _, b := range s.Blocks {
		if !b.Confirmed || b.CIDR.IsSingleIP() || !b.CIDR.Addr().Is4() {
			continue
		}
		r := host.Route{Dst: b.CIDR, Type: host.Blackhole, Proto: s.Settings.RouteProtocol}
		want.Routes[r.Key()] = r
	}
}

// Ours reports whether a route found in the kernel, on a device of links, is one
// we wrote: by its device, or by its protocol if it lies in a pool this node
// ever saw. A device is ours by its alias: another network's may be called
// alike, as Calico's are.
func Ours(s *cluster.Snapshot, links map[string]host.Link, r host.Route) bool {
	if r.Proto == host.ProtoKernel || r.Type == host.Local || r.Type == host.Broadcast {
		return false
	}
	if strings.HasPrefix(r.Dev, s.Settings.InterfacePrefix) && r.Dst.IsSingleIP() {
		_, err := cluster.ParseEndpointID(links[r.Dev].Alias)
		return err == nil
	}
	if r.Proto != s.Settings.RouteProtocol {
		return false
	}
	if r.Dst.Addr() == Gateway && r.Dev == "lo" {
		return true
	}
	return inPools(s, r.Dst)
}

// Deletable reports whether an own route that is not wanted may go now. What
// is not known yet is not wanted either, so everything stays until the feed
// that would want it has delivered a full set.
func Deletable(s *cluster.Snapshot, r host.Route) bool {
	switch {
	case !s.StoreSynced || !s.EndpointsSynced:
		return false
	case r.Type == host.Blackhole:
		return s.BlocksSynced
	case r.Via.IsValid():
		return !awaited(s, r.Via)
	}
	return true
}

// awaited reports whether routes through next hop via may still be announced
// again: its own session, or for a next hop that is no peer any session, has
// not delivered its full set since we started. A peer the speaker did not know
// yet when it reported has not, and before it reported at all nobody has.
func awaited(s *cluster.Snapshot, via netip.Addr) bool {
	if s.Learned == nil || s.Unsynced[via] {
		return true
	}
	if isPeer(s, via) {
		return s.Asked != nil && !s.Asked[via]
	}
	return len(s.Unsynced) > 0
}

func isPeer(s *cluster.Snapshot, a netip.Addr) bool {
	for _, n := range s.Nodes {
		if s.BGP.Mesh && n.Address.IsValid() && n.Address.Addr() == a {
			return true
		}
	}
	for _, p := range s.Peers {
		if p.Addr == a {
			return true
		}
	}
	return false
}

func inPools(s *cluster.Snapshot, p netip.Prefix) bool {
	for _, pool := range s.Pools {
		if covers(pool.CIDR, p) {
			return true
		}
	}
	for _, past := range s.PastPools {
		if covers(past, p) {
			return true
		}
	}
	return false
}

// covers reports whether every address of inner lies in outer.
func covers(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// BlocksFromRoutes are the own blocks that the kernel's routes speak of: every
// blackhole of ours inside a pool, as large as the pool's blocks. It is what a
// restarted agent knows of its blocks before anything else tells it.
func BlocksFromRoutes(s *cluster.Snapshot, routes []host.Route) []cluster.Block {
	var blocks []cluster.Block
	for _, r := range routes {
		for _, pool := range s.Pools {
			if r.Type == host.Blackhole && r.Proto == s.Settings.RouteProtocol && covers(pool.CIDR, r.Dst) && r.Dst.Bits() == pool.BlockSize {
				blocks = append(blocks, cluster.Block{CIDR: r.Dst, Confirmed: true})
			}
		}
	}
	return blocks
}
