// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/api/meta"
	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/agent"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/mem"
	"github.com/ocicat-net/ocicat/internal/uplink"
)

// An agent works in the namespace of its process: the tests run in one of
// their own, with an uplink of their own.
const inside = "OCICAT_TEST_INSIDE"

func TestMain(m *testing.M) {
	if os.Getenv(inside) == "" && os.Geteuid() == 0 {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if err := cmd.Run(); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// node is a machine with an agent that can be started and stopped.
type node struct {
	t     testing.TB
	cfg   agent.Config
	agent *agent.Agent
	stop  func()
	// prepare changes the agent before it runs; nil for nothing.
	prepare func(*agent.Agent)
}

// newNode makes this namespace a node again: an uplink with the article's
// address and nothing of an earlier test.
func newNode(t testing.TB) *node {
	t.Helper()
	nstest.RequireRoot(t)
	peer := nstest.New(t)
	for _, left := range []string{"ip route flush table main proto bird", "nft delete table inet ocicat"} { // by an earlier test, if any
		command := strings.Fields(left)
		_ = exec.Command(command[0], command[1:]...).Run()
	}
	ip(t, "link set lo up")
	ip(t, "link add ens160 type veth peer name sw netns "+peer.Path())
	t.Cleanup(func() {
		for line := range strings.Lines(ip(t, "-o link show")) { // also the pods' links, whose namespaces go a little later
			if fields := strings.FieldsFunc(line, func(r rune) bool { return r == ':' || r == '@' || r == ' ' }); fields[1] != "lo" {
				_ = exec.Command("ip", "link", "del", fields[1]).Run() // it may go meanwhile
			}
		}
	})
	peer.IP("link set sw up")
	ip(t, "addr add 192.168.0.11/24 dev ens160")
	ip(t, "link set ens160 up")
	ip(t, "route add default via 192.168.0.2 dev ens160 proto static metric 100")
	return &node{t: t, cfg: agent.Config{
		Node: "k8s-master-1", RunDir: t.TempDir(), StateDir: t.TempDir(), Store: mem.New(), Log: slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Uplink: uplink.Policy{IP: uplink.IP{Fixed: netip.MustParsePrefix("192.168.0.11/24")}, InterfacePrefix: "cali"},
		DefaultPools: func([]netip.Prefix) ([]*v3.IPPool, error) {
			pool := &v3.IPPool{Type: meta.Type{APIVersion: v3.APIVersion, Kind: v3.KindIPPool}, Metadata: meta.Object{Name: "default-ipv4-ippool"}, Spec: v3.IPPoolSpec{CIDR: "172.16.0.0/16"}}
			pool.SetDefaults()
			return []*v3.IPPool{pool}, nil
		},
		Settings: cluster.Settings{RouteProtocol: host.ProtoBird, InterfacePrefix: "cali", PermGateway: true, Reserve: 16},
	}}
}

type testLog struct{ t testing.TB }

func (l testLog) Write(b []byte) (int, error) {
	if l.t.Context().Err() == nil {
		l.t.Log(strings.TrimSuffix(string(b), "\n"))
	}
	return len(b), nil
}

func ip(t testing.TB, args string) string {
	t.Helper()
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		t.Errorf("ip %s: %v: %s", args, err, out)
	}
	return string(out)
}

// start starts the agent and waits until it serves.
func (n *node) start() {
	n.t.Helper()
	n.launch()
	nstest.Eventually(n.t, 10*time.Second, func() bool { return n.agent.Ready() == nil }, "agent ready")
}

// launch starts the agent.
func (n *node) launch() {
	n.t.Helper()
	a, err := agent.New(n.cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	if n.prepare != nil {
		n.prepare(a)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stopped := false
	n.agent = a
	n.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("agent ended: %v", err)
		}
	}
	n.t.Cleanup(n.stop)
}

// pod is a container's namespace and what is asked for it.
type pod struct {
	ns  *nstest.NS
	req cniwire.AddRequest
}

func (n *node) pod(name, container string) *pod {
	ns := nstest.New(n.t)
	return &pod{ns: ns, req: cniwire.AddRequest{
		ID:      cniwire.ID{ContainerID: container, IfName: "eth0"},
		Network: "k8s-pod-network", Pod: cniwire.Pod{Namespace: "devops", Name: name},
		NetNSPath: ns.Path(), NetNS: ns.File(),
	}}
}

// add attaches a pod, waiting out the agent's start.
func (n *node) add(p *pod) cniwire.AddResult {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), 10*time.Second)
	defer cancel()
	result, err := n.agent.Add(ctx, p.req)
	if err != nil {
		n.t.Fatalf("ADD: %v", err)
	}
	return result
}

func (n *node) del(p *pod) {
	n.t.Helper()
	if err := n.agent.Del(n.t.Context(), cniwire.DelRequest{ID: p.req.ID, Network: p.req.Network}); err != nil {
		n.t.Errorf("DEL: %v", err)
	}
}

// handles are the IPAM handles in the datastore but the reserve's.
func (n *node) handles() []string {
	entries, _, err := n.cfg.Store.List(n.t.Context(), store.Handle, "k8s-pod-network")
	if err != nil {
		n.t.Error(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Key.Name)
	}
	return names
}
