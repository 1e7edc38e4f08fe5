// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/internal/store"
)

func newIPAMCheckCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Look for what is wrong with addresses, blocks and handles",
		Long: `Compare what the datastore holds about addresses with itself, and with the pods
that the agents within reach have: all of a cluster, or this machine's. It looks
twice, a second apart, so that nothing counts that was being written. It
changes nothing. The exit code is 10 if something was found.

"ocicat ipam release --from-report" releases the addresses of pods and nodes
that are gone. The rest the agents repair by themselves or say how.`,
		Example: `  ocicat ipam check
  ocicat ipam check -o json > report.json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return g.ipamCheck(c.Context()) },
	}
}

// ipamReport is what ipam check prints as JSON, and ipam release reads.
type ipamReport struct {
	Version  int            `json:"version"`
	Totals   ipam.Totals    `json:"totals"`
	Findings []ipam.Finding `json:"findings"`
}

const reportVersion = 1

func (g *globals) ipamCheck(ctx context.Context) error {
	s, err := g.openStore(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	found, totals, err := g.ipamClient(s).Check(ctx, g.podsWithinReach)
	if err != nil {
		return err
	}
	report := ipamReport{Version: reportVersion, Totals: totals, Findings: append([]ipam.Finding{}, found...)}
	if g.output == "json" || g.output == "yaml" {
		err = g.show(report, nil, nil)
	} else {
		err = g.printReport(report)
	}
	if err == nil && len(found) > 0 {
		err = errProblems
	}
	return err
}

func (g *globals) printReport(r ipamReport) error {
	agents := "no agent was asked: those of a Kubernetes cluster are within reach, of a lab, or this machine's, as root"
	if r.Totals.Nodes > 0 {
		agents = fmt.Sprintf("the agents of %d nodes asked", r.Totals.Nodes)
	}
	g.note("%d addresses in use, %d held ready, %d blocks, %d handles; %s", r.Totals.Addresses, r.Totals.Held, r.Totals.Blocks, r.Totals.Handles, agents)
	if len(r.Findings) == 0 {
		g.line("%s", g.paint(good, "nothing wrong found"))
		return nil
	}
	return g.show(r.Findings, nil, func(bool) *table {
		t := newTable("FINDING", "OBJECT", "WHAT")
		for _, f := range r.Findings {
			t.add(string(f.What), f.Object, f.Text)
		}
		return t
	})
}

// ipamClient does address management for any node on s.
func (g *globals) ipamClient(s store.Store) *ipam.Client {
	return ipam.NewStoredClient(s, func(err error) { g.warn("%v", err) })
}

// podsWithinReach asks the agents that can be asked from here. One that does
// not answer is left out: nothing is then said about its pods.
func (g *globals) podsWithinReach(ctx context.Context) ([]ipam.Pods, error) {
	doors, err := g.doors(ctx, tracerGuest)
	if err != nil {
		g.say("no agent asked: %v", err)
		return nil, nil
	}
	var all []ipam.Pods
	for _, said := range askDoors(ctx, g, doors, endpointsOf) {
		if said.err != nil {
			g.warn("the pods of %s are not known: %v", said.node, said.err)
			continue
		}
		pods := ipam.Pods{Node: said.node, Addresses: map[netip.Addr]string{}}
		for _, ep := range said.value {
			name := "pod " + ep.Namespace + "/" + ep.Pod
			if ep.Pod == "" {
				name = "container " + ep.ID.ContainerID
			}
			pods.Addresses[ep.Addr] = name
		}
		all = append(all, pods)
	}
	return all, nil
}
