// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"os"
	"slices"

	v1 "github.com/ocicat-net/ocicat/api/v1"
	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/internal/resource"
	"github.com/ocicat-net/ocicat/internal/store"
)

// agentDoor is one agent that can be asked from here.
type agentDoor struct {
	node   string
	client *admin.Client
}

// doors are the agents within reach: all nodes of the lab, else the agent of
// this machine. --node narrows them.
func (g *globals) doors(ctx context.Context) ([]agentDoor, error) {
	name, err := g.withinReach()
	if err != nil {
		return nil, err
	}
	if name != "" {
		return g.labDoors(name)
	}
	client := admin.Dial(g.AdminSocket)
	report, err := client.Report(ctx)
	if err != nil {
		return nil, err
	}
	if g.node != "" && g.node != report.Metadata.Name {
		return nil, fault.Hint(fault.New(fault.Unavailable, "node %q: only the agent of this machine, %s, is within reach", g.node, report.Metadata.Name), "Run the command on that node.")
	}
	return []agentDoor{{report.Metadata.Name, client}}, nil
}

// withinReach says whose agents can be asked from here: those of a lab, whose
// name is returned, or the one of this machine, for which the name is empty.
// An agent needs no datastore to answer, so that none was found matters only
// where there is no agent either.
func (g *globals) withinReach() (string, error) {
	where, err := g.locate()
	if err == nil {
		return where.lab, nil
	}
	if _, statErr := os.Stat(g.AdminSocket); g.lab != "" || statErr != nil {
		return "", err
	}
	return "", nil
}

func (g *globals) labDoors(name string) ([]agentDoor, error) {
	l, err := lab.New(lab.Config{Name: name, Root: g.LabDir})
	if err != nil {
		return nil, err
	}
	state, err := l.State()
	if err != nil {
		return nil, err
	}
	var doors []agentDoor
	var names []string
	for _, n := range state.Topology.Nodes {
		names = append(names, n.Name)
		if g.node == "" || g.node == n.Name {
			doors = append(doors, agentDoor{n.Name, admin.Dial(l.AdminSocket(n.Name))})
		}
	}
	if len(doors) == 0 {
		return nil, unknownNode(g.node, names)
	}
	return doors, nil
}

// statuses reads what the agents published, sorted by node. --node narrows
// them.
func (g *globals) statuses(ctx context.Context) ([]*v1.NodeStatus, error) {
	s, err := g.openStore(ctx)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	entries, _, err := s.List(ctx, store.NodeStatus, "")
	if err != nil {
		return nil, err
	}
	var list []*v1.NodeStatus
	var names []string
	for _, entry := range entries {
		object, err := resource.Decode(entry)
		if err != nil {
			g.warn("%v", err)
			continue
		}
		status := object.(*v1.NodeStatus)
		names = append(names, status.Metadata.Name)
		if g.node == "" || g.node == status.Metadata.Name {
			list = append(list, status)
		}
	}
	if g.node != "" && len(list) == 0 {
		return nil, unknownNode(g.node, names)
	}
	slices.SortFunc(list, func(a, b *v1.NodeStatus) int { return cmp.Compare(a.Metadata.Name, b.Metadata.Name) })
	return list, nil
}

func unknownNode(name string, known []string) error {
	err := fault.New(fault.NotFound, "node %q: no such node", name)
	if len(known) == 0 {
		return fault.Hint(err, "No agent has reported yet: is ocicatd running?")
	}
	return fault.Hint(err, "Nodes are %s.", joined(known))
}
