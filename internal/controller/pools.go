// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/api/meta"
	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/convert"
	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/problem"
)

// ready is the type of the condition that says whether a pool can be used.
const ready = "Ready"

// The reasons of that condition where nothing is wrong; else it is the code of
// the problem.
const (
	reasonUsable   = "Usable"
	reasonDisabled = "Disabled"
)

// warns says whether a condition is one that an operator must know of.
func warns(c meta.Condition) bool {
	return c.Status == meta.ConditionFalse && c.Reason != reasonDisabled
}

// poolObject is an IPPool with its conditions.
type poolObject struct {
	v3.IPPool
	Status struct {
		Conditions []meta.Condition `json:"conditions"`
	} `json:"status"`
}

// poolFacts are what says whether pools can be used.
type poolFacts struct {
	pools    []*v3.IPPool
	nodes    map[string]netip.Prefix // the networks of nodes, by node
	services []netip.Prefix          // the ranges of the addresses of Services
}

// judge is the condition Ready of each pool, by its name, without its time.
func judge(f poolFacts) map[string]meta.Condition {
	found := map[string][]problem.Problem{}
	var pools []cluster.Pool
	for _, p := range f.pools {
		filled := *p
		filled.SetDefaults()
		pool, err := convert.Pool(&filled)
		if err != nil {
			found[p.Metadata.Name] = []problem.Problem{problem.New(problem.UnknownObject, p.Metadata.Name, "IPPool "+p.Metadata.Name, err)}
			continue
		}
		pools = append(pools, pool)
	}
	slices.SortFunc(pools, func(a, b cluster.Pool) int { return cmp.Compare(a.Name, b.Name) }) // as agents see them
	for _, p := range slices.Concat(core.PoolProblems(pools), overlaps(pools, f)) {
		found[p.Object] = append(found[p.Object], p)
	}
	verdicts := map[string]meta.Condition{}
	for _, p := range f.pools {
		verdicts[p.Metadata.Name] = verdict(p, problem.Sort(found[p.Metadata.Name]))
	}
	return verdicts
}

// overlaps are the enabled pools that overlap what is not for pods. A disabled
// one may say where nothing is masqueraded.
func overlaps(pools []cluster.Pool, f poolFacts) []problem.Problem {
	var problems []problem.Problem
	for _, pool := range pools {
		if pool.Disabled {
			continue
		}
		if network, node, ok := nodeWithin(f.nodes, pool.CIDR); ok {
			what := fmt.Sprintf("network %s of node %s", network, node)
			problems = append(problems, problem.New(problem.PoolOverlap, pool.Name, pool.Name+" "+pool.CIDR.String(), what, "nodes of that network"))
		}
		for _, services := range f.services {
			if services.Overlaps(pool.CIDR) {
				problems = append(problems, problem.New(problem.PoolOfServices, pool.Name, pool.Name+" "+pool.CIDR.String(), services))
				break
			}
		}
	}
	return problems
}

// nodeWithin is the network that overlaps a pool, of the first such node by
// name.
func nodeWithin(nodes map[string]netip.Prefix, pool netip.Prefix) (network netip.Prefix, name string, found bool) {
	for node, of := range nodes {
		if of.Overlaps(pool) && (!found || node < name) {
			network, name, found = of, node, true
		}
	}
	return network, name, found
}

// verdict is the condition of a pool with such problems, which are sorted.
func verdict(p *v3.IPPool, problems []problem.Problem) meta.Condition {
	c := meta.Condition{Type: ready, Status: meta.ConditionTrue, Reason: reasonUsable, Message: "pods can get addresses of it", ObservedGeneration: p.Metadata.Generation}
	switch {
	case len(problems) > 0:
		texts := make([]string, len(problems))
		for i, p := range problems {
			texts[i] = fmt.Sprintf("%s: %s. %s", p.Code, p.Text, p.Remedy)
		}
		c.Status, c.Reason, c.Message = meta.ConditionFalse, string(problems[0].Code), strings.Join(texts, " ")
	case p.Spec.Disabled:
		c.Status, c.Reason, c.Message = meta.ConditionFalse, reasonDisabled, "no new address is given from it; those in use stay"
	}
	return c
}
