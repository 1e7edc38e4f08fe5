// SPDX-License-Identifier: Apache-2.0

package core

import (
	"net/netip"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/problem"
)

// wantLearned turns the speaker's best paths into kernel routes.
func wantLearned(s *cluster.Snapshot, want host.State) []problem.Problem {
	if s.Learned == nil {
		return nil
	}
	var problems []problem.Problem
	links, pods := connected(s.Host.Devices), podAddrs(s)
	for learned := range s.Learned.All() {
		route, refusal := learnedRoute(s, links, pods, learned)
		if refusal != nil {
			problems = append(problems, *refusal)
			continue
		}
		if _, taken := want.Routes[route.Key()]; !taken && route.Dst.IsValid() {
			want.Routes[route.Key()] = route
		}
	}
	return problems
}

// LearnedRoute is the decision on one learned path, for explaining it.
func LearnedRoute(s *cluster.Snapshot, l cluster.LearnedRoute) (host.Route, *problem.Problem) {
	return learnedRoute(s, connected(s.Host.Devices), podAddrs(s), l)
}

// learnedRoute decides on one learned path: the kernel route, or the reason
// there is none. The zero route without a reason means that the prefix is
// this node's own business.
func learnedRoute(s *cluster.Snapshot, links []connectedNet, pods map[netip.Addr]bool, l cluster.LearnedRoute) (host.Route, *problem.Problem) {
	if ownBlock(s, l.Prefix) || l.Prefix.IsSingleIP() && pods[l.Prefix.Addr()] {
		return host.Route{}, nil
	}
	if !inCurrentPools(s, l.Prefix) {
		p := problem.New(problem.OutsidePools, l.Prefix.String(), l.Prefix, fromText(l))
		return host.Route{}, &p
	}
	dev, ok := deviceFor(links, l.NextHop)
	if !ok {
		p := problem.New(problem.NextHopOffLink, l.Prefix.String(), l.Prefix, fromText(l), l.NextHop)
		return host.Route{}, &p
	}
	return host.Route{Dst: l.Prefix, Via: l.NextHop, Dev: dev, Proto: s.Settings.RouteProtocol}, nil
}

func fromText(l cluster.LearnedRoute) string {
	if l.FromName != "" {
		return l.FromName + " (" + l.From.String() + ")"
	}
	return l.From.String()
}

// ownBlock reports whether p is one of our blocks or contains one: such a
// route would lead our own pods' traffic away. A longer prefix inside a block
// of ours is an address somebody borrowed, and wins.
func ownBlock(s *cluster.Snapshot, p netip.Prefix) bool {
	for _, b := range s.Blocks {
		if covers(p, b.CIDR) {
			return true
		}
	}
	return false
}

// podAddrs are the addresses of this node's pods: nobody else's announcement
// of one leads its packets away. One may still be on its way from the node
// that borrowed the address before.
func podAddrs(s *cluster.Snapshot) map[netip.Addr]bool {
	addrs := make(map[netip.Addr]bool, len(s.Endpoints))
	for _, ep := range s.Endpoints {
		addrs[ep.Addr] = true
	}
	return addrs
}

func inCurrentPools(s *cluster.Snapshot, p netip.Prefix) bool {
	for _, pool := range s.Pools {
		if covers(pool.CIDR, p) {
			return true
		}
	}
	return false
}

// connectedNet is one directly connected network of this node.
type connectedNet struct {
	net netip.Prefix
	own netip.Addr
	dev string
}

func connected(devices []cluster.Device) []connectedNet {
	var nets []connectedNet
	for _, d := range devices {
		if !d.Up || d.Name == "lo" {
			continue
		}
		for _, a := range d.Addrs {
			nets = append(nets, connectedNet{net: a.Masked(), own: a.Addr(), dev: d.Name})
		}
	}
	return nets
}

// deviceFor returns the device on whose network a next hop lies, the longest
// prefix first. Our own address is nobody's next hop.
func deviceFor(nets []connectedNet, hop netip.Addr) (string, bool) {
	best := connectedNet{}
	for _, n := range nets {
		if n.own == hop {
			return "", false
		}
		if n.net.Contains(hop) && (best.dev == "" || n.net.Bits() > best.net.Bits()) {
			best = n
		}
	}
	return best.dev, best.dev != ""
}
