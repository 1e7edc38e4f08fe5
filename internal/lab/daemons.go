// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// etcdPort is where the datastore listens on the gateway's address.
const etcdPort = 2379

// grace is how long a process may take to end when asked to.
const grace = 10 * time.Second

// etcdURL is the datastore as agents reach it.
func (t Topology) etcdURL() string {
	return fmt.Sprintf("http://%s:%d", t.Gateway.Addr(), etcdPort)
}

// raiseDatastore starts etcd in the gateway, if it does not run, and waits
// until it answers.
func (l *Lab) raiseDatastore(ctx context.Context, s *State) ([]string, error) {
	if !s.Datastore.Alive() {
		if err := l.startDatastore(s); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, partTimeout)
	defer cancel()
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", l.EtcdSocket())
		},
	}}
	err := l.awaitDaemon(ctx, s.Datastore, l.dir("ocicat-etcd.log"), func() error {
		resp, err := client.Get("http://etcd/health")
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fault.New(fault.Unavailable, "its health is %s", resp.Status)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("start datastore: %w", err)
	}
	return []string{"etcd at " + s.Topology.etcdURL()}, nil
}

func (l *Lab) startDatastore(s *State) error {
	if p, ok := l.running("ocicat-etcd", netnsPath(l.gatewayNetns())); ok {
		s.Datastore = p
		return l.save(s)
	}
	path, err := l.program("ocicat-etcd")
	if err != nil {
		return err
	}
	if err := os.Remove(l.EtcdSocket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fault.New(fault.Internal, "remove stale socket: %w", err)
	}
	s.Datastore, err = l.start(daemon{
		path: path,
		args: []string{
			"--data-dir", l.dir("etcd"),
			"--unsafe-no-fsync", // like all of the lab the data ends with the machine
			"--listen", s.Topology.etcdURL(),
			"--listen", "unix://" + l.EtcdSocket(),
		},
		log: l.dir("ocicat-etcd.log"),
		in:  space{net: netnsPath(l.gatewayNetns())},
	})
	return errors.Join(err, l.save(s))
}

// startAgent starts a node's agent, if it does not run. It changes nothing
// but n.
func (l *Lab) startAgent(s *State, n *Node) error {
	if n.Agent.Alive() {
		return nil
	}
	if p, ok := l.running("ocicatd", netnsPath(n.Netns)); ok {
		n.Agent = p
		return nil
	}
	path, err := l.program("ocicatd")
	if err != nil {
		return err
	}
	if err := l.writeConflist(n.Name); err != nil {
		return err
	}
	n.Agent, err = l.start(daemon{
		path: path,
		env:  s.agentEnv(n.Name),
		log:  l.AgentLog(n.Name),
		in:   l.space(n.Name),
	})
	return err
}

// agentEnv is a node's configuration in calico/node's variables, as its
// manifest would set them.
func (s *State) agentEnv(node string) []string {
	env := []string{
		"NODENAME=" + node,
		"DATASTORE_TYPE=etcdv3",
		"ETCD_ENDPOINTS=" + s.Topology.etcdURL(),
		"CALICO_IPV4POOL_CIDR=" + s.Topology.Pool.String(),
		"CALICO_IPV4POOL_IPIP=Never",
		"CALICO_IPV4POOL_VXLAN=Never",
		"CALICO_IPV4POOL_NAT_OUTGOING=false",
	}
	for _, n := range s.Topology.Nodes {
		if n.Name == node {
			env = append(env, "IP="+n.Addr.String())
		}
	}
	if !s.Topology.PermGateway {
		env = append(env, "OCICAT_PERM_GATEWAY=false")
	}
	return env
}

// awaitAgent waits until a node's agent serves pods.
func (l *Lab) awaitAgent(ctx context.Context, n *Node) error {
	ctx, cancel := context.WithTimeout(ctx, partTimeout)
	defer cancel()
	client := admin.Dial(n.Admin)
	err := l.awaitDaemon(ctx, n.Agent, l.AgentLog(n.Name), func() error { return client.Ready(ctx) })
	if err != nil {
		return fmt.Errorf("start agent of %s: %w", n.Name, err)
	}
	return nil
}

// awaitDaemon waits until a daemon answers. Its death ends the waiting at
// once; either way the end of its log says more.
func (l *Lab) awaitDaemon(ctx context.Context, p Process, log string, ready func() error) error {
	var last error
	err := await(ctx, func() (bool, error) {
		if last = ready(); last == nil {
			return true, nil
		}
		if !p.Alive() {
			return false, fault.New(fault.Unavailable, "process %d ended", p.PID)
		}
		return false, nil
	})
	if err == nil {
		return nil
	}
	if errors.Is(err, context.DeadlineExceeded) && last != nil {
		err = last
	}
	return fault.Hint(fault.New(fault.Unavailable, "%w", err), "The end of %s: %s", log, tail(log))
}

// tail is the last line of a log.
func tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// awaitRoutes waits until every node has a session with every other and the
// other's block in its kernel.
func (l *Lab) awaitRoutes(ctx context.Context, s *State) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, partTimeout)
	defer cancel()
	others := len(s.Nodes) - 1
	for _, n := range s.Nodes {
		client, last := admin.Dial(n.Admin), ""
		err := await(ctx, func() (bool, error) {
			up, installed, err := bgpState(ctx, client)
			last = fmt.Sprintf("%d of %d sessions Established, %d of %d routes installed", up, others, installed, others)
			if err != nil {
				last = err.Error()
			}
			return err == nil && up >= others && installed >= others, nil
		})
		if err != nil {
			return nil, fault.Hint(fault.New(fault.Unavailable, "wait for BGP on %s: %s", n.Name, last),
				"See %s, and ask: ocicat bgp peers", l.AgentLog(n.Name))
		}
	}
	sessions, routes := len(s.Nodes)*others/2, len(s.Nodes)*others
	return []string{fmt.Sprintf("%s Established, %s installed", count(sessions, "session"), count(routes, "route"))}, nil
}

// bgpState counts a node's established sessions and installed routes.
func bgpState(ctx context.Context, client *admin.Client) (up, installed int, err error) {
	sessions, err := client.Sessions(ctx)
	if err != nil {
		return 0, 0, err
	}
	for _, session := range sessions {
		if session.State == speaker.Established {
			up++
		}
	}
	routes, err := client.Routes(ctx)
	if err != nil {
		return 0, 0, err
	}
	for _, r := range routes {
		if r.State == "installed" {
			installed++
		}
	}
	return up, installed, nil
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
