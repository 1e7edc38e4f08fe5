// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"time"

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
	limit  time.Duration // for an answer; 0 is as long as it takes
	as     guest         // whom the agent sees, on Kubernetes

	addr netip.Addr // of the node, where it is known without asking
	away error      // why the agent cannot be asked
}

// doors are the agents within reach: all nodes of the Kubernetes cluster or of
// the lab, else the agent of this machine. --node narrows them. On Kubernetes
// they see us as a guest.
func (g *globals) doors(ctx context.Context, as guest) ([]agentDoor, error) {
	where, err := g.withinReach()
	switch {
	case err != nil:
		return nil, err
	case where.lab != "":
		return g.labDoors(where.lab)
	case where.kube == nil:
		return g.ownDoor(ctx)
	}
	doors, err := g.kubeDoors(ctx, where.kube, as)
	if err != nil && g.isOnNode(err) {
		g.warn("%v: asking this machine's agent alone", err)
		return g.ownDoor(ctx)
	}
	return doors, err
}

// isOnNode says whether this machine's agent can be asked although err kept us
// from asking all.
func (g *globals) isOnNode(err error) bool {
	return fault.Is(err, fault.Unavailable) && !errors.Is(err, store.ErrDenied) && g.hasAgent()
}

// hasAgent says whether an agent runs on this machine, or ran.
func (g *globals) hasAgent() bool {
	_, err := os.Stat(g.AdminSocket)
	return err == nil
}

// ownDoor is this machine's agent.
func (g *globals) ownDoor(ctx context.Context) ([]agentDoor, error) {
	client := admin.Dial(g.AdminSocket)
	report, err := client.Report(ctx)
	if err != nil {
		return nil, err
	}
	if g.node != "" && g.node != report.Metadata.Name {
		return nil, fault.Hint(fault.New(fault.Unavailable, "node %q: only the agent of this machine, %s, is within reach", g.node, report.Metadata.Name), "Run the command on that node.")
	}
	return []agentDoor{{node: report.Metadata.Name, client: client}}, nil
}

// withinReach says whose agents can be asked from here: those of a lab or a
// Kubernetes cluster, or the one of this machine, for which the place has
// neither. An agent needs no datastore to answer, so that none was found
// matters only where there is no agent either; and an agent's own pod has no
// business with the others.
func (g *globals) withinReach() (place, error) {
	where, err := g.locate()
	named := g.lab != "" || g.kubeconfig != "" || g.kubeContext != "" || g.kubeFlag() != ""
	if g.hasAgent() && (err != nil && !named || where.kube != nil && where.kube.inPod && g.kubeFlag() == "") {
		return place{}, nil
	}
	return where, err
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
			doors = append(doors, agentDoor{node: n.Name, client: admin.Dial(l.AdminSocket(n.Name))})
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
