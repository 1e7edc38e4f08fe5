// SPDX-License-Identifier: Apache-2.0

package core

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// Speaker is the wanted state of the BGP speaker. Without an address of its
// own the node has no sessions, and nothing is listened on.
func Speaker(s *cluster.Snapshot) (speaker.Config, []problem.Problem) {
	me := s.Me()
	if !me.Address.IsValid() {
		return speaker.Config{}, nil
	}
	self := me.Address.Addr()
	cfg := speaker.Config{
		AS:        orDefault(me.AS, s.BGP.AS),
		RouterID:  orDefault(s.BGP.RouterID, self),
		Listen:    netip.AddrPortFrom(self, orDefault(s.BGP.Port, speaker.DefaultPort)),
		Advertise: advertised(s, self),
		Complete:  s.StoreSynced && s.BlocksSynced && s.EndpointsSynced,
	}
	mesh, problems := meshPeers(s, cfg.AS)
	peers, more := configuredPeers(s, cfg.AS, mesh)
	cfg.Peers = peers
	for i := range cfg.Peers {
		p := &cfg.Peers[i]
		p.LocalAddr, p.PrefixLimit = self, s.Settings.PeerPrefixLimit
		p.Hold, p.Keepalive, p.RestartTime = speaker.DefaultHold, speaker.DefaultKeepalive, speaker.DefaultRestartTime
	}
	slices.SortFunc(cfg.Peers, func(a, b speaker.Peer) int { return a.Addr.Compare(b.Addr) })
	return cfg, problem.Sort(append(problems, more...))
}

// advertised are the own blocks that are certain to be ours, and each address
// borrowed from another node's block. Export policy joins here with a later
// issue.
func advertised(s *cluster.Snapshot, self netip.Addr) []speaker.Advertisement {
	var ads []speaker.Advertisement
	for _, b := range s.Blocks {
		if b.Confirmed && exported(s, b.CIDR) {
			ads = append(ads, speaker.Advertisement{Prefix: b.CIDR, NextHop: self})
		}
	}
	for _, addr := range Borrowed(s) {
		if p := netip.PrefixFrom(addr, addr.BitLen()); exported(s, p) {
			ads = append(ads, speaker.Advertisement{Prefix: p, NextHop: self})
		}
	}
	slices.SortFunc(ads, func(a, b speaker.Advertisement) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
	})
	return ads
}

// Borrowed are the addresses of own pods that lie in no confirmed own block,
// sorted: packets to them follow another node's block unless this node
// announces them one by one. Before the own blocks are known there are none.
func Borrowed(s *cluster.Snapshot) []netip.Addr {
	if !s.BlocksSynced {
		return nil
	}
	var borrowed []netip.Addr
	for _, ep := range s.Endpoints {
		own := slices.ContainsFunc(s.Blocks, func(b cluster.Block) bool { return b.Confirmed && b.CIDR.Contains(ep.Addr) })
		if !own && ep.Addr.IsValid() {
			borrowed = append(borrowed, ep.Addr)
		}
	}
	slices.SortFunc(borrowed, netip.Addr.Compare)
	return slices.Compact(borrowed)
}

func exported(s *cluster.Snapshot, block netip.Prefix) bool {
	for _, pool := range s.Pools {
		if covers(pool.CIDR, block) {
			return !pool.DisableBGPExport
		}
	}
	return false
}

// meshPeers are the other nodes, where the node-to-node mesh is on. Route
// reflectors take no part in the mesh, on either end (Calico's rule).
func meshPeers(s *cluster.Snapshot, as speaker.ASN) ([]speaker.Peer, []problem.Problem) {
	if !s.BGP.Mesh || s.Me().RouteReflector != "" {
		return nil, nil
	}
	var peers []speaker.Peer
	owners := addressOwners(s)
	var problems []problem.Problem
	for name, n := range s.Nodes {
		if name == s.Self || !n.Address.IsValid() || n.RouteReflector != "" {
			continue
		}
		addr := n.Address.Addr()
		if others := owners[addr]; len(others) > 1 {
			problems = append(problems, problem.New(problem.DuplicateNode, addr.String(), others[0], others[1], addr))
			continue
		}
		peers = append(peers, speaker.Peer{
			Addr: addr,
			Port: s.BGP.Port,
			AS:   orDefault(n.AS, as),
			Name: string(name),
			Kind: speaker.Mesh,
		})
	}
	return peers, problems
}

func addressOwners(s *cluster.Snapshot) map[netip.Addr][]cluster.NodeName {
	owners := map[netip.Addr][]cluster.NodeName{}
	for name, n := range s.Nodes {
		if n.Address.IsValid() {
			owners[n.Address.Addr()] = append(owners[n.Address.Addr()], name)
		}
	}
	for _, names := range owners {
		slices.Sort(names)
	}
	return owners
}

// configuredPeers adds the BGPPeers to the mesh; a peer named explicitly
// replaces a mesh peer of the same address.
func configuredPeers(s *cluster.Snapshot, as speaker.ASN, mesh []speaker.Peer) ([]speaker.Peer, []problem.Problem) {
	var problems []problem.Problem
	peers := slices.Clone(mesh)
	for _, spec := range s.Peers {
		if spec.Addr == s.Me().Address.Addr() {
			continue // a BGPPeer for all nodes names one of them: not itself
		}
		peer := speaker.Peer{
			Addr: spec.Addr, Port: spec.Port, AS: orDefault(spec.AS, as),
			Name: spec.Name, Kind: spec.Kind, Password: spec.Password,
		}
		at := slices.IndexFunc(peers, func(p speaker.Peer) bool { return p.Addr == spec.Addr })
		switch {
		case at < 0:
			peers = append(peers, peer)
		case peers[at].Kind == speaker.Mesh:
			peers[at] = peer
		default:
			problems = append(problems, problem.New(problem.PeerUnusable, spec.Name, spec.Name,
				"address "+spec.Addr.String()+" is also that of BGPPeer "+peers[at].Name))
		}
	}
	return peers, problems
}

// orDefault is v, or def where v is the zero value.
func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}
