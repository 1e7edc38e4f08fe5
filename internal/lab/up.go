// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// Patience of Up with one part, on a machine that is busy with other things.
const partTimeout = 60 * time.Second

// Up makes the lab, or completes it: what already stands is left alone, what
// died is started again, and a node whose namespaces are gone comes back as
// after a reboot. Pods of the record and then pods are attached. A lab that
// exists with another topology is a Conflict.
func (l *Lab) Up(ctx context.Context, t Topology, pods []PodSpec) error {
	return l.locked(ctx, "lab up", func() error {
		s, err := l.begin(ctx, t)
		if err != nil {
			return err
		}
		for _, p := range pods {
			if err := s.want(l, p); err != nil {
				return err
			}
		}
		steps := []struct {
			name string
			f    func(context.Context, *State) ([]string, error)
		}{
			{"nodes", l.raiseMachines},
			{"datastore", l.raiseDatastore},
			{"history", l.raiseHistory},
			{"agents", l.raiseAgents},
			{"bgp", l.awaitRoutes},
			{"pods", l.raisePods},
		}
		for _, step := range steps {
			err := l.step(step.name, func() ([]string, error) {
				if err := l.save(s); err != nil {
					return nil, err
				}
				return step.f(ctx, s)
			})
			if err := errors.Join(err, l.save(s)); err != nil {
				return err
			}
		}
		return nil
	})
}

// begin returns the lab's record, or makes that of a new lab.
func (l *Lab) begin(ctx context.Context, t Topology) (*State, error) {
	for _, name := range []string{"ocicatd", "ocicat-cni", "ocicat-etcd"} {
		if _, err := l.program(name); err != nil {
			return nil, err
		}
	}
	s, err := l.State()
	if fault.Is(err, fault.NotFound) {
		return l.found(ctx, t)
	}
	if err != nil {
		return nil, err
	}
	have, errA := json.Marshal(s.Topology)
	want, errB := json.Marshal(t)
	if err := errors.Join(errA, errB); err != nil {
		return nil, fault.New(fault.Internal, "compare topologies: %w", err)
	}
	if string(have) != string(want) {
		return nil, fault.Hint(fault.New(fault.Conflict, "lab %s: exists with another topology: %s, wanted %s", l.name, s.Topology, t),
			"Remove it first (sudo ocicat lab down%s), or make another one with --name.", l.nameFlag())
	}
	return s, nil
}

// found makes the record of a new lab.
func (l *Lab) found(ctx context.Context, t Topology) (*State, error) {
	if err := l.refuseRemains(); err != nil {
		return nil, err
	}
	if err := l.register(ctx); err != nil {
		return nil, err
	}
	s := l.newState(t)
	return s, l.save(s)
}

// refuseRemains refuses to make a lab where namespaces or files of one lie
// about without a record.
func (l *Lab) refuseRemains() error {
	names, err := l.netnsNames()
	if err != nil {
		return err
	}
	if _, err := os.Stat(l.dir()); err == nil {
		names = append(names, l.dir())
	}
	if len(names) == 0 {
		return nil
	}
	return fault.Hint(fault.New(fault.Conflict, "lab %s: has no record, but there is %s", l.name, strings.Join(names, ", ")),
		"If they are a broken lab's, remove them: sudo ocicat lab down%s", l.nameFlag())
}

// String says what distinguishes the topology.
func (t Topology) String() string {
	s := fmt.Sprintf("%d nodes, pool %s", len(t.Nodes), t.Pool)
	if !t.PermGateway {
		s += ", --article"
	}
	return s
}

// want adds a pod to the record, if it is not in it.
func (s *State) want(l *Lab, p PodSpec) error {
	if err := p.Validate(); err != nil {
		return err
	}
	if _, err := s.Node(p.Node); err != nil {
		return err
	}
	if !slices.ContainsFunc(s.Pods, func(have Pod) bool { return have.String() == p.String() }) {
		s.Pods = append(s.Pods, Pod{PodSpec: p, Netns: l.podNetns(p), ContainerID: newContainerID()})
	}
	return nil
}

// raiseMachines makes the switch, the gateway and the nodes that do not
// stand.
func (l *Lab) raiseMachines(ctx context.Context, s *State) ([]string, error) {
	if err := makeRoomForNeighbours(len(s.Topology.Nodes)); err != nil {
		return nil, err
	}
	if err := l.preparePins(); err != nil {
		return nil, err
	}
	if !l.switchStands() {
		if err := errors.Join(removeNetns(l.switchNetns()), l.makeSwitch()); err != nil {
			return nil, err
		}
	}
	if p := l.gatewayMachine(s.Topology); !l.plugged(p) {
		if err := l.raiseGateway(ctx, s, p); err != nil {
			return nil, err
		}
	}
	var detail []string
	for i, n := range s.Topology.Nodes {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		if p := l.nodeMachine(s.Topology, i); !l.nodeStands(p, n.Name) {
			if err := l.bootNode(ctx, s, p, n.Name); err != nil {
				return nil, err
			}
		}
		detail = append(detail, n.Name+" "+n.Addr.Addr().String())
	}
	if len(detail) > 3 {
		detail = append(append([]string{}, detail[:2]...), fmt.Sprintf("… %d in all", len(s.Topology.Nodes)))
	}
	return []string{strings.Join(detail, ", ")}, nil
}

func (l *Lab) raiseGateway(ctx context.Context, s *State, p port) error {
	if err := errors.Join(s.Datastore.kill(ctx), l.clearNamespace(ctx, p.netns)); err != nil {
		return err
	}
	if err := makeNetns(p.netns); err != nil {
		return err
	}
	return l.plug(p)
}

// nodeStands says whether all of a node's namespaces and its cable are there.
func (l *Lab) nodeStands(p port, node string) bool {
	s := l.space(node)
	return isNamespace(s.mnt) && isNamespace(s.uts) && l.plugged(p)
}

// bootNode makes a node anew. Like a reboot it ends what ran in the node and
// takes its pods; their records stay, so that they come back.
func (l *Lab) bootNode(ctx context.Context, s *State, p port, node string) error {
	for i := range s.Pods {
		if s.Pods[i].Node != node {
			continue
		}
		if err := l.clearNamespace(ctx, s.Pods[i].Netns); err != nil {
			return err
		}
		s.Pods[i].Attached, s.Pods[i].ContainerID = false, newContainerID()
	}
	n, err := s.Node(node)
	if err != nil {
		return err
	}
	pins := l.space(node)
	// The agent by its record too: whoever took the namespaces' names away
	// left it running in them.
	if err := errors.Join(n.Agent.kill(ctx), killInside(ctx, pins.mnt), l.clearNamespace(ctx, p.netns)); err != nil {
		return err
	}
	if err := errors.Join(removePin(pins.mnt), removePin(pins.uts)); err != nil {
		return err
	}
	if err := makeNetns(p.netns); err != nil {
		return err
	}
	// A new namespace copies the machine's settings (devconf_inherit_init_net);
	// that a node forwards is its agent's work.
	err = space{net: netnsPath(p.netns)}.run(func() error { return setSysctl("net/ipv4/ip_forward", "0") })
	if err != nil {
		return err
	}
	if err := l.plug(p); err != nil {
		return err
	}
	return l.makeMounts(node)
}

// clearNamespace ends every process in a network namespace and removes it; a
// missing one is no error.
func (l *Lab) clearNamespace(ctx context.Context, netns string) error {
	if err := killInside(ctx, netnsPath(netns)); err != nil {
		return err
	}
	return removeNetns(netns)
}

// killInside ends every process in the namespace at path; a missing one is no
// error.
func killInside(ctx context.Context, path string) error {
	inode, ok := inodeOf(path)
	if !ok || !isNamespace(path) {
		return nil
	}
	inside, err := processesWhere(func(pid int) bool { return livesIn(pid, map[uint64]bool{inode: true}) })
	if err != nil {
		return err
	}
	return killAll(ctx, inside)
}

// raiseAgents starts the agents that do not run and waits until all serve.
func (l *Lab) raiseAgents(ctx context.Context, s *State) ([]string, error) {
	var group errgroup.Group
	group.SetLimit(4)
	for i := range s.Nodes {
		group.Go(func() error { return l.startAgent(s, &s.Nodes[i]) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if err := l.save(s); err != nil {
		return nil, err
	}
	for i := range s.Nodes {
		if err := l.awaitAgent(ctx, &s.Nodes[i]); err != nil {
			return nil, err
		}
	}
	return []string{fmt.Sprintf("%d × ocicatd ready", len(s.Nodes))}, nil
}
