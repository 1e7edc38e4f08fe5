// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"time"

	"github.com/ocicat-net/ocicat/internal/admin"
)

// KillAgent kills a node's agent as a crash would and leaves it dead.
func (l *Lab) KillAgent(ctx context.Context, node string) error {
	return l.changeNode(ctx, "lab kill", node, func(_ *State, n *Node) error { return n.Agent.kill(ctx) })
}

// RestartAgent ends a node's agent as an upgrade would, starts it again and
// waits until it serves.
func (l *Lab) RestartAgent(ctx context.Context, node string) error {
	return l.changeNode(ctx, "lab restart", node, func(s *State, n *Node) error {
		if err := n.Agent.stop(ctx, grace); err != nil {
			return err
		}
		if err := l.startAgent(s, n); err != nil {
			return err
		}
		if err := l.save(s); err != nil {
			return err
		}
		return l.awaitAgent(ctx, n)
	})
}

func (l *Lab) changeNode(ctx context.Context, what, node string, f func(*State, *Node) error) error {
	return l.locked(ctx, what, func() error {
		s, err := l.State()
		if err != nil {
			return err
		}
		n, err := s.Node(node)
		if err != nil {
			return err
		}
		if !isNamespace(l.space(node).mnt) {
			return l.notUp("node " + node)
		}
		return f(s, n)
	})
}

// Status is what of a lab stands at this moment.
type Status struct {
	Name      string       `json:"name"`
	Created   time.Time    `json:"created"`
	Datastore PartStatus   `json:"datastore"`
	Nodes     []NodeStatus `json:"nodes"`
	Pods      []PodStatus  `json:"pods"`
}

// PartStatus says whether a process runs and serves.
type PartStatus struct {
	PID    int    `json:"pid"`
	State  string `json:"state"` // "running" or "ready", or what is wrong
	Reason string `json:"reason,omitempty"`
}

// NodeStatus is one node: its namespaces and its agent.
type NodeStatus struct {
	NodeSpec
	Netns string     `json:"netns"`
	Agent PartStatus `json:"agent"`
}

// PodStatus is one pod of the record and whether it stands.
type PodStatus struct {
	Pod
	State string `json:"state"` // "attached", or why not
}

// Healthy says that everything the record names stands and serves.
func (s Status) Healthy() bool {
	if s.Datastore.State != "running" {
		return false
	}
	for _, n := range s.Nodes {
		if n.Agent.State != "ready" {
			return false
		}
	}
	for _, p := range s.Pods {
		if p.State != "attached" {
			return false
		}
	}
	return true
}

// Status looks at the lab without changing it.
func (l *Lab) Status(ctx context.Context) (Status, error) {
	if err := requireRoot("lab status"); err != nil {
		return Status{}, err
	}
	s, err := l.State()
	if err != nil {
		return Status{}, err
	}
	status := Status{Name: s.Name, Created: s.Created, Datastore: PartStatus{PID: s.Datastore.PID, State: "running"}}
	if !s.Datastore.Alive() {
		status.Datastore.State = "dead"
	}
	for i, n := range s.Nodes {
		status.Nodes = append(status.Nodes, NodeStatus{NodeSpec: s.Topology.Nodes[i], Netns: n.Netns, Agent: l.agentStatus(ctx, n)})
	}
	for _, p := range s.Pods {
		status.Pods = append(status.Pods, PodStatus{Pod: p, State: podState(p)})
	}
	return status, nil
}

func (l *Lab) agentStatus(ctx context.Context, n Node) PartStatus {
	p := PartStatus{PID: n.Agent.PID, State: "ready"}
	switch {
	case !isNamespace(l.space(n.Name).mnt) || !isNamespace(netnsPath(n.Netns)):
		p.State = "node is gone"
	case !n.Agent.Alive():
		p.State = "dead"
	default:
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		if err := admin.Dial(n.Admin).Ready(ctx); err != nil {
			p.State, p.Reason = "not ready", err.Error()
		}
	}
	return p
}

func podState(p Pod) string {
	switch {
	case !isNamespace(netnsPath(p.Netns)):
		return "namespace is gone"
	case !p.Attached:
		return "not attached"
	}
	return "attached"
}
