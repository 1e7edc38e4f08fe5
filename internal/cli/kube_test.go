// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/api/meta"
	v1 "github.com/ocicat-net/ocicat/api/v1"
	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/speaker"
	"github.com/ocicat-net/ocicat/internal/store"
)

// agentOf is a node's agent, with one route and one pod.
type agentOf struct {
	node, address string
	pods          []admin.Endpoint
	drained       string
}

func (*agentOf) Ready() error { return nil }
func (a *agentOf) Report() *v1.NodeStatus {
	return &v1.NodeStatus{Metadata: meta.Object{Name: a.node}, Status: v1.NodeReport{Address: a.address + "/24"}}
}
func (*agentOf) Sessions() []speaker.Session   { return nil }
func (*agentOf) Paths() []speaker.Path         { return nil }
func (a *agentOf) Endpoints() []admin.Endpoint { return a.pods }
func (a *agentOf) Routes(context.Context) ([]admin.Route, error) {
	return []admin.Route{{Prefix: netip.MustParsePrefix("172.16.109.64/26"), From: "192.168.0.12", State: "installed", Kernel: "via 192.168.0.12"}}, nil
}

func (a *agentOf) Drain(_ context.Context, reason string) error {
	a.drained = reason
	return nil
}

// articleScene is the article's cluster: both nodes are up.
func articleScene(t *testing.T) (s *kubeScene, master, node1 *agentOf) {
	t.Helper()
	s = newKubeScene(t)
	net := newArticleNet()
	master = &agentOf{node: "k8s-master-1", address: "192.168.0.11", pods: []admin.Endpoint{endpointFor(podA)}}
	node1 = &agentOf{node: "k8s-node-1", address: "192.168.0.12", pods: []admin.Endpoint{endpointFor(podB)}}
	for _, a := range []*agentOf{master, node1} {
		s.agent(a.node, a.address, admin.Door{Source: a, Drainer: a, Tracer: net})
	}
	return s, master, node1
}

func TestRoutesThroughTheAPIServer(t *testing.T) {
	s, _, _ := articleScene(t)
	got := s.run("bgp", "routes")
	want := outcome{stdout: `NODE          PREFIX            FROM          STATE      KERNEL
k8s-master-1  172.16.109.64/26  192.168.0.12  installed  via 192.168.0.12
k8s-node-1    172.16.109.64/26  192.168.0.12  installed  via 192.168.0.12
`}
	want.stdout = strings.Replace(want.stdout, "KERNEL\n", "KERNEL            REASON\n", 1)
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(outcome{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	tokens := 0
	for _, path := range s.asked {
		if strings.HasSuffix(path, "/ocicat-tracer/token") {
			tokens++
		}
	}
	if tokens != 1 {
		t.Errorf("%d tokens were made, want one for all agents: %q", tokens, s.asked)
	}
	if got := s.run("bgp", "routes", "--node", "k8s-node-1"); got.code != ExitOK || strings.Count(got.stdout, "\n") != 2 {
		t.Errorf("of one node: %+v", got)
	}
	if got := s.run("bgp", "routes", "--node", "k8s-node-9"); got.code != 4 || !strings.Contains(got.stderr, "Nodes are k8s-master-1, k8s-node-1.") {
		t.Errorf("of no node: %+v", got)
	}
}

// TestDeadNode: what answered is shown, who did not is named with why, and the
// reader is told whom one waits for.
func TestDeadNode(t *testing.T) {
	s, _, _ := articleScene(t)
	s.dead("k8s-node-2", "192.168.0.13")
	s.pod("k8s-node-3", "Pending", "", agentPort)
	got := s.run("bgp", "routes")
	waiting, warnings, _ := strings.Cut(got.stderr, "\n")
	want := `ocicat: warning: k8s-node-2: no answer within 5s
ocicat: warning: k8s-node-3: its agent's pod kube-system/ocicat-node-k8s-node-3 is Pending
`
	if got.code != ExitProblems || strings.Count(got.stdout, "installed") != 2 || warnings != want ||
		!strings.HasPrefix(waiting, "waiting for ") || !strings.HasSuffix(waiting, "k8s-node-2") { // a slow machine waits for others too
		t.Errorf("%+v, want on standard error whom one waits for, and\n%s", got, want)
	}
}

func TestRightsAreMissing(t *testing.T) {
	for part, test := range map[string]struct {
		args []string
		want string
	}{
		"/pods":         {[]string{"trace", "a", "b"}, "ClusterRole ocicat-tracer"},
		"tracer/token":  {[]string{"bgp", "routes"}, "ClusterRole ocicat-tracer"},
		"/portforward":  {[]string{"trace", "a", "b"}, "ClusterRole ocicat-tracer"},
		"admin/token":   {[]string{"drain", "k8s-node-1"}, "ClusterRole ocicat-admin"},
		"s/k8s-nothing": {[]string{"bgp", "routes"}, ""},
	} {
		s, _, _ := articleScene(t)
		s.denied = part
		got := s.run(test.args...)
		if test.want == "" {
			if got.code != ExitOK {
				t.Errorf("%s: %+v: the test denies nothing", part, got)
			}
			continue
		}
		if got.code != 8 || strings.Count(got.stderr, "\n") != 2 || !strings.Contains(got.stderr, test.want) || !strings.Contains(got.stderr, `User "me" cannot do that`) {
			t.Errorf("%s: code %d\n%swant %s", part, got.code, got.stderr, test.want)
		}
	}
}

func TestDrainComesAsAdmin(t *testing.T) {
	s, master, node1 := articleScene(t)
	got := s.run("drain", "k8s-node-1", "--reason", "disk")
	if got.code != ExitOK || node1.drained != "disk" || master.drained != "" || got.stdout != "node/k8s-node-1 drained: its sessions stay down until its agent is restarted\n" {
		t.Errorf("%+v, drained %q and %q", got, master.drained, node1.drained)
	}
}

// TestViewersNeedNoAgent: what the datastore knows is shown to people who may
// not reach agents.
func TestViewersNeedNoAgent(t *testing.T) {
	s, _, _ := articleScene(t)
	s.denied = "/"
	report := `{"apiVersion":"ocicat.net/v1","kind":"NodeStatus","metadata":{"name":"k8s-node-1"},"status":{"heartbeat":"2026-11-22T12:00:00Z","ready":true,"agent":{"version":"v1"}}}`
	if _, err := s.store.Put(t.Context(), store.Key{Kind: store.NodeStatus, Name: "k8s-node-1"}, []byte(report), store.AnyRevision); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"status", "bgp peers", "ipam show", "get nodestatuses"} {
		if got := s.run(strings.Fields(verb)...); got.code != ExitOK || got.stderr != "" || len(s.asked) > 0 {
			t.Errorf("%s: %+v, asked %q", verb, got, s.asked)
		}
	}
}

var anyRTT = regexp.MustCompile(`rtt [0-9.]+ ms`)

// TestTraceThroughAgents: the text is that of a lab, and no root is needed.
func TestTraceThroughAgents(t *testing.T) {
	s, _, _ := articleScene(t)
	got := s.run("trace", "fv298", "s7zfv")
	want := outcome{stdout: `ICMP 172.16.196.1 → 172.16.109.65   predicted and observed agree
#  WHERE                         SRC MAC            DST MAC            TTL  DECISION
1  pod eth0                      0e:1c:2c:f6:2a:f9  ee:ee:ee:ee:ee:ee  64   default via 169.254.1.1 dev eth0 (permanent neighbour)
2  k8s-master-1 cali1dadcdd5b31  0e:1c:2c:f6:2a:f9  ee:ee:ee:ee:ee:ee  64   172.16.109.64/26 via 192.168.0.12 dev ens160 proto bird (node k8s-node-1)
3  k8s-master-1 ens160           00:0c:29:b1:02:f0  00:0c:29:90:fa:e2  63   neighbour 192.168.0.12 by ARP
4  k8s-node-1 ens160             00:0c:29:b1:02:f0  00:0c:29:90:fa:e2  63   172.16.109.65 dev cali4e329df4a89 scope link
5  k8s-node-1 cali4e329df4a89    ee:ee:ee:ee:ee:ee  72:19:6b:9b:bf:e2  62   neighbour 172.16.109.65 permanent
6  pod eth0                      ee:ee:ee:ee:ee:ee  72:19:6b:9b:bf:e2  62   delivered; reply seen ttl 62, rtt T
tunnel: none   mtu: 1500 end to end
`}
	got.stdout = anyRTT.ReplaceAllString(got.stdout, "rtt T")
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(outcome{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := s.run("trace", "fv298", "nobody"); got.code != 4 || !strings.Contains(got.stderr, "The cluster has devops/fv298, devops/s7zfv.") {
		t.Errorf("a pod that does not exist: %+v", got)
	}
}

// TestTraceToDeadNode: nothing is said about pods of nodes that do not answer.
func TestTraceToDeadNode(t *testing.T) {
	s, _, _ := articleScene(t)
	s.pod("k8s-node-2", "Failed", "192.168.0.13", agentPort)
	got := s.run("trace", "fv298", "elsewhere")
	if got.code != 8 || !strings.Contains(got.stderr, `pod "elsewhere": not found, and the pods of k8s-node-2 are not known`) ||
		!strings.Contains(got.stderr, "k8s-node-2: its agent's pod kube-system/ocicat-node-k8s-node-2 is Failed") {
		t.Errorf("%+v", got)
	}
	if got := s.run("trace", "fv298", "s7zfv"); got.code != ExitOK {
		t.Errorf("between other nodes: %+v", got)
	}
}

func TestNoAgents(t *testing.T) {
	s := newKubeScene(t)
	if got := s.run("bgp", "routes"); got.code != 4 || !strings.Contains(got.stderr, "Is Ocicat installed there?") {
		t.Errorf("%+v", got)
	}
	s.server.Close()
	if got := s.run("bgp", "routes"); got.code != 8 || strings.Contains(got.stderr, "ClusterRole") {
		t.Errorf("without an API server: %+v", got)
	}
}

// TestOnNode: on a node the agent's socket is used where there is no kubeconfig,
// and where the API server does not answer; not where somebody lacks a right.
func TestOnNode(t *testing.T) {
	s, master, _ := articleScene(t)
	socket := filepath.Join(s.dir, "admin.sock")
	server := admin.New(socket, admin.Door{Source: master, Drainer: master, Tracer: newArticleNet()}, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	<-server.Ready()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	kubeconfig := filepath.Join(s.dir, "kubeconfig")
	check := func(what string, got outcome, code, lines int, stderr string) {
		t.Helper()
		if got.code != code || strings.Count(got.stdout, "\n") != lines || !strings.Contains(got.stderr, stderr) || (stderr == "") != (got.stderr == "") {
			t.Errorf("%s: %+v, want code %d, %d lines, %q", what, got, code, lines, stderr)
		}
	}
	check("no kubeconfig", s.runOn(socket, "bgp", "routes"), ExitOK, 2, "")
	check("all agents", s.runOn(socket, "bgp", "routes", "--kubeconfig", kubeconfig), ExitOK, 3, "")
	s.denied = "/"
	check("no right", s.runOn(socket, "bgp", "routes", "--kubeconfig", kubeconfig), 8, 0, "ClusterRole ocicat-tracer")
	s.server.Close()
	check("no API server", s.runOn(socket, "bgp", "routes", "--kubeconfig", kubeconfig), ExitOK, 2, "asking this machine's agent alone")
	check("wrong kubeconfig", s.runOn(socket, "bgp", "routes", "--kubeconfig", socket+".none"), 3, 0, "read KUBECONFIG")
}

// endpointFor is a pod as its agent knows it.
func endpointFor(p tracedPod) admin.Endpoint {
	namespace, name, _ := strings.Cut(p.Pod, "/")
	return admin.Endpoint{Endpoint: cluster.Endpoint{Namespace: namespace, Pod: name, Addr: p.Addr, HostIf: p.HostIf, ID: cluster.EndpointID{IfName: p.IfName}}}
}

// TestWhom: flags say whom the API server sees, and are refused where there is
// none.
func TestWhom(t *testing.T) {
	s, _, _ := articleScene(t)
	for _, test := range []struct {
		args       string
		code       int
		as, stderr string
	}{
		{"", ExitOK, ":", ""},
		{"--as anna --as-group shop --as-group dev", ExitOK, "anna:shop,dev", ""},
		{"--token mine --cluster x --user x", ExitOK, ":", ""},
		{"--token other", 8, ":", "does not know who we are"},
		{"--user nobody", 3, "", `user "nobody": no such user`},
		{"--cluster nowhere", 3, "", `cluster "nowhere": no such cluster`},
		{"--as-group shop", ExitUsage, "", "without --as"},
		{"--tls-server-name x", ExitUsage, "", "unknown flag: --tls-server-name"},
	} {
		s.as = ""
		got := s.run(append([]string{"bgp", "routes"}, strings.Fields(test.args)...)...)
		if got.code != test.code || s.as != test.as || !strings.Contains(got.stderr, test.stderr) {
			t.Errorf("%s: as %q, %+v, want %+v", test.args, s.as, got, test)
		}
	}
	if got := s.runOn("/none", "status", "--lab", "a", "--as", "anna"); got.code != ExitUsage || !strings.Contains(got.stderr, "--as is about Kubernetes, --lab is not") {
		t.Errorf("of a lab: %+v", got)
	}
}
