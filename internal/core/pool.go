// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/selector"
)

// poolProblems are what is wrong with the pools as this node sees them.
func poolProblems(s *cluster.Snapshot) []problem.Problem {
	if !s.StoreSynced {
		return nil
	}
	var problems []problem.Problem
	usable := UsablePools(s)
	if len(usable) == 0 {
		problems = append(problems, problem.New(problem.NoPool, ""))
	}
	for _, pool := range s.Pools {
		if dev, net := overlappedNetwork(s, pool.CIDR); dev != "" && !pool.Disabled { // a disabled one may say where nothing is masqueraded
			problems = append(problems, problem.New(problem.PoolOverlap, pool.Name, pool.Name+" "+pool.CIDR.String(), fmt.Sprintf("network %s on %s", net, dev), "this node"))
		}
	}
	return append(problems, PoolProblems(s.Pools)...)
}

// PoolProblems are what is wrong with pools on every node alike. Of two that
// overlap it is about the one that stands later; a snapshot has them by name.
func PoolProblems(pools []cluster.Pool) []problem.Problem {
	var problems []problem.Problem
	for i, pool := range pools {
		if other, ok := overlappedPool(pools[:i], pool); ok {
			problems = append(problems, problem.New(problem.PoolsOverlap, pool.Name, pool.Name, other))
		}
		problems = append(problems, selectorProblems(pool)...)
		if mode := encapsulation(pool); mode != "" {
			problems = append(problems, problem.New(problem.EncapUnsupported, pool.Name, pool.Name, mode))
		}
	}
	return problems
}

// selectorProblems are the selectors of a pool that cannot be read: no CEL rule
// of its definition can tell.
func selectorProblems(pool cluster.Pool) []problem.Problem {
	var problems []problem.Problem
	for _, field := range []struct{ name, text string }{{"nodeSelector", pool.NodeSelector}, {"namespaceSelector", pool.NamespaceSelector}} {
		if _, err := selector.Parse(field.text); err != nil {
			problems = append(problems, problem.New(problem.PoolSelector, pool.Name, pool.Name, field.name, err))
		}
	}
	return problems
}

// UsablePools are the enabled pools whose CIDR collides with nothing this
// node knows: the ones it may take addresses from.
func UsablePools(s *cluster.Snapshot) []cluster.Pool {
	return slices.DeleteFunc(JudgedPools(s), func(p cluster.Pool) bool { return p.Disabled || p.Unusable != "" })
}

// JudgedPools are all pools; those whose CIDR collides with something this
// node knows say so as Unusable.
func JudgedPools(s *cluster.Snapshot) []cluster.Pool {
	judged := slices.Clone(s.Pools)
	for i := range judged {
		if other, overlaps := overlappedPool(s.Pools[:i], judged[i]); overlaps {
			judged[i].Unusable = "overlaps pool " + other
		}
		if dev, net := overlappedNetwork(s, judged[i].CIDR); dev != "" {
			judged[i].Unusable = fmt.Sprintf("overlaps network %s on %s", net, dev)
		}
	}
	return judged
}

// overlappedNetwork returns the device and network of this node that pool
// collides with. Addresses on our own endpoints and on tunnels lie in pools
// rightly: only networks, not single addresses, count.
func overlappedNetwork(s *cluster.Snapshot, pool netip.Prefix) (string, netip.Prefix) {
	for _, n := range connected(s.Host.Devices) {
		if !n.net.IsSingleIP() && n.net.Overlaps(pool) {
			return n.dev, n.net
		}
	}
	return "", netip.Prefix{}
}

func overlappedPool(earlier []cluster.Pool, pool cluster.Pool) (string, bool) {
	for _, other := range earlier {
		if other.CIDR.Overlaps(pool.CIDR) {
			return other.Name, true
		}
	}
	return "", false
}

func encapsulation(p cluster.Pool) string {
	switch {
	case p.IPIP != "" && p.IPIP != cluster.Never:
		return "ipipMode " + string(p.IPIP)
	case p.VXLAN != "" && p.VXLAN != cluster.Never:
		return "vxlanMode " + string(p.VXLAN)
	}
	return ""
}
