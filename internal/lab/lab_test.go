// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// programs are those of a lab, built once for all tests that need them.
var programs struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	_ = os.RemoveAll(programs.dir)
	os.Exit(code)
}

func buildOnce(t *testing.T) string {
	t.Helper()
	programs.once.Do(func() {
		if programs.dir, programs.err = os.MkdirTemp("", "ocicat-lab-"); programs.err == nil {
			programs.err = build(programs.dir, "ocicatd", "ocicat-cni", "ocicat-etcd")
		}
	})
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	return programs.dir
}

// upLab brings up a lab of the test's own.
func upLab(t *testing.T, topology Topology, pods []PodSpec) *Lab {
	t.Helper()
	l := newLab(t, buildOnce(t))
	mustUp(t, l, topology, pods)
	return l
}

func mustUp(t *testing.T, l *Lab, topology Topology, pods []PodSpec) {
	t.Helper()
	if err := l.Up(t.Context(), topology, pods); err != nil {
		t.Fatalf("up: %v\nhint: %s", err, fault.HintOf(err))
	}
}

func article(t *testing.T, nodes int) Topology {
	t.Helper()
	topology, err := Article(nodes)
	if err != nil {
		t.Fatal(err)
	}
	return topology
}

// addresses are the pods' addresses by name.
func addresses(t *testing.T, l *Lab) map[string]string {
	t.Helper()
	s, err := l.State()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, p := range s.Pods {
		all[p.String()] = p.Address.String()
	}
	return all
}

// pingAll pings every pod from every pod and fails the test with the pairs
// that do not answer.
func pingAll(t *testing.T, l *Lab) {
	t.Helper()
	s, err := l.State()
	if err != nil {
		t.Fatal(err)
	}
	var group errgroup.Group
	group.SetLimit(8)
	var mu sync.Mutex
	var silent []string
	for _, from := range s.Pods {
		for _, to := range s.Pods {
			group.Go(func() error {
				var out bytes.Buffer
				code, err := l.ExecPod(t.Context(), from.String(), []string{"busybox", "ping", "-c", "1", "-W", "5", to.Address.Addr().String()}, Streams{Out: &out, Err: &out})
				if err == nil && code != 0 {
					mu.Lock()
					silent = append(silent, fmt.Sprintf("%s → %s", from, to))
					mu.Unlock()
				}
				return err
			})
		}
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if len(silent) > 0 {
		t.Errorf("of %d pairs no answer for %d:\n%s", len(s.Pods)*len(s.Pods), len(silent), strings.Join(silent, "\n"))
	}
}

// Ten nodes: any pod reaches any pod, two on each node.
func TestTenNodes(t *testing.T) {
	topology := article(t, 10)
	var pods []PodSpec
	for _, n := range topology.Nodes {
		for i := range 2 {
			pods = append(pods, PodSpec{Namespace: "default", Name: fmt.Sprintf("%s-%d", n.Name, i), Node: n.Name})
		}
	}
	pingAll(t, upLab(t, topology, pods))
}

// Whatever is killed, up completes the lab: pods keep their addresses and
// namespaces, and reach each other.
func TestUpAfterKillingEverything(t *testing.T) {
	topology := article(t, 2)
	l := upLab(t, topology, ArticlePods(2))
	before := addresses(t, l)
	killed := killEverything(t, l)
	if killed != 3 {
		t.Errorf("%d processes killed, want etcd and two agents", killed)
	}
	pingAll(t, l) // forwarding does not depend on anything that runs
	status, err := l.Status(t.Context())
	if err != nil || status.Healthy() || status.Datastore.State != "dead" || status.Nodes[0].Agent.State != "dead" {
		t.Errorf("status with everything dead: %+v, %v", status, err)
	}
	mustUp(t, l, topology, nil)
	if diff := cmp.Diff(before, addresses(t, l)); diff != "" {
		t.Errorf("addresses changed: %s", diff)
	}
	pingAll(t, l)
	if status, err := l.Status(t.Context()); err != nil || !status.Healthy() {
		t.Errorf("status: %+v, %v", status, err)
	}
	if err := l.Up(t.Context(), article(t, 3), nil); !fault.Is(err, fault.Conflict) || fault.HintOf(err) == "" {
		t.Errorf("up with another topology: %v, want a conflict with a hint", err)
	}
}

// killEverything kills -9 every process of the lab and says how many.
func killEverything(t *testing.T, l *Lab) int {
	t.Helper()
	list, err := l.processes()
	if err != nil {
		t.Fatal(err)
	}
	if err := killAll(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// After a kill -9 of everything down leaves nothing, and up starts afresh with
// the same addresses.
func TestDownAfterKillingEverything(t *testing.T) {
	topology := article(t, 2)
	l := upLab(t, topology, ArticlePods(2))
	before := addresses(t, l)
	killEverything(t, l)
	if _, err := l.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rest := remains(t, l); rest != "" {
		t.Errorf("left over:\n%s", rest)
	}
	mustUp(t, l, topology, ArticlePods(2))
	if diff := cmp.Diff(before, addresses(t, l)); diff != "" {
		t.Errorf("addresses differ after down and up: %s", diff)
	}
	if _, err := l.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rest := remains(t, l); rest != "" {
		t.Errorf("left over:\n%s", rest)
	}
}

// A node whose namespace is gone comes back as after a reboot, with its pods
// attached anew; the other node's stay.
func TestUpRebootsALostNode(t *testing.T) {
	topology := article(t, 2)
	l := upLab(t, topology, ArticlePods(2))
	before := addresses(t, l)
	old, err := l.State()
	if err != nil {
		t.Fatal(err)
	}
	// What lives in the node holds its namespace: it must go with its name.
	run(t, "ip", "netns", "delete", l.nodeNetns("k8s-node-1"))
	mustUp(t, l, topology, nil)
	now, err := l.State()
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range now.Pods {
		same := p.ContainerID == old.Pods[i].ContainerID
		if same != (p.Node == "k8s-master-1") {
			t.Errorf("pod %s on %s is the same container: %v", p, p.Node, same)
		}
		if same && before[p.String()] != p.Address.String() {
			t.Errorf("pod %s moved from %s to %s", p, before[p.String()], p.Address)
		}
	}
	pingAll(t, l)
}

func TestPods(t *testing.T) {
	l := upLab(t, article(t, 2), nil)
	ctx := t.Context()
	spec := PodSpec{Namespace: "shop", Name: "web-0", Node: "k8s-node-1"}
	pod, err := l.AddPod(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	if pod.Address.String() != "172.16.109.65/32" || !strings.HasPrefix(pod.HostIf, "cali") || pod.EthMAC.String() == "" {
		t.Errorf("pod got %+v", pod)
	}
	if _, err := l.AddPod(ctx, spec); !fault.Is(err, fault.Conflict) {
		t.Errorf("same pod again: %v, want a conflict", err)
	}
	fixed := PodSpec{Namespace: "shop", Name: "web-1", Node: "k8s-node-1"}
	fixed.IP = pod.Address.Addr().Next().Next()
	if got, err := l.AddPod(ctx, fixed); err != nil || got.Address.Addr() != fixed.IP {
		t.Errorf("pod that asks for %s: %v, %v", fixed.IP, got.Address, err)
	}
	taken := PodSpec{Namespace: "shop", Name: "web-2", Node: "k8s-node-1", IP: fixed.IP}
	if _, err := l.AddPod(ctx, taken); err == nil {
		t.Errorf("pod that asks for the taken %s was attached", fixed.IP)
	}
	pingAll(t, l)
	if _, err := l.DeletePod(ctx, "web-0"); err != nil {
		t.Fatal(err)
	}
	if isNamespace(netnsPath(pod.Netns)) {
		t.Error("namespace of the deleted pod is still there")
	}
	if routes := in(t, l, "k8s-node-1", "ip", "route", "show"); strings.Contains(routes, pod.HostIf) {
		t.Errorf("route of the deleted pod is still there:\n%s", routes)
	}
	if _, err := l.DeletePod(ctx, "web-0"); !fault.Is(err, fault.NotFound) {
		t.Errorf("delete again: %v, want not found", err)
	}
}

func TestExecPassesStreamsAndExitCode(t *testing.T) {
	l := newLab(t, "")
	s := raise(t, l, 1)
	pod := Pod{PodSpec: PodSpec{Namespace: "shop", Name: "web-0", Node: "k8s-master-1"}}
	pod.Netns = l.podNetns(pod.PodSpec)
	s.Pods = []Pod{pod}
	if err := errors.Join(makeNetns(pod.Netns), l.save(s)); err != nil {
		t.Fatal(err)
	}
	for _, place := range []struct {
		name string
		exec func(context.Context, string, []string, Streams) (int, error)
	}{{"shop/web-0", l.ExecPod}, {"k8s-master-1", l.ExecNode}} {
		var out, errs bytes.Buffer
		std := Streams{In: strings.NewReader("word"), Out: &out, Err: &errs}
		code, err := place.exec(t.Context(), place.name, []string{"sh", "-c", "cat; echo oops >&2; exit 7"}, std)
		if err != nil || code != 7 || out.String() != "word" || errs.String() != "oops\n" {
			t.Errorf("%s: exit %d, %v, out %q, err %q", place.name, code, err, &out, &errs)
		}
		code, err = place.exec(t.Context(), place.name, []string{"sh", "-c", "kill -9 $$"}, Streams{})
		if err != nil || code != 128+int(syscall.SIGKILL) {
			t.Errorf("%s: killed command: exit %d, %v", place.name, code, err)
		}
		if _, err = place.exec(t.Context(), place.name, []string{"no-such-program"}, Streams{}); !fault.Is(err, fault.NotFound) {
			t.Errorf("%s: missing program: %v", place.name, err)
		}
		if _, err = place.exec(t.Context(), "nobody", []string{"true"}, Streams{}); !fault.Is(err, fault.NotFound) || fault.HintOf(err) == "" {
			t.Errorf("unknown name: %v, hint %q", err, fault.HintOf(err))
		}
	}
}

func TestAgentsCanBeKilledAndRestarted(t *testing.T) {
	topology := article(t, 2)
	l := upLab(t, topology, ArticlePods(2))
	agent := func() Process {
		s, err := l.State()
		if err != nil {
			t.Fatal(err)
		}
		return s.Nodes[1].Agent
	}
	first := agent()
	if err := l.RestartAgent(t.Context(), "k8s-node-1"); err != nil {
		t.Fatal(err)
	}
	second := agent()
	if first.Alive() || !second.Alive() || first == second {
		t.Errorf("restart: %v then %v", first, second)
	}
	if err := l.KillAgent(t.Context(), "k8s-node-1"); err != nil {
		t.Fatal(err)
	}
	if second.Alive() {
		t.Error("killed agent is alive")
	}
	pingAll(t, l)
	mustUp(t, l, topology, nil)
	if !agent().Alive() {
		t.Error("up did not start the killed agent")
	}
}

// A command that was killed between starting a program and recording it leaves
// one that runs: the next takes it over instead of starting a second.
func TestUpTakesOverWhatWasNotRecorded(t *testing.T) {
	topology := article(t, 2)
	l := upLab(t, topology, nil)
	before, err := l.State()
	if err != nil {
		t.Fatal(err)
	}
	lost := *before
	lost.Datastore, lost.Nodes = Process{}, slices.Clone(before.Nodes)
	lost.Nodes[1].Agent = Process{}
	if err := l.save(&lost); err != nil {
		t.Fatal(err)
	}
	mustUp(t, l, topology, nil)
	after, err := l.State()
	if err != nil || after.Datastore != before.Datastore || after.Nodes[1].Agent != before.Nodes[1].Agent {
		t.Errorf("datastore %v and agent %v were not taken over: %v and %v, %v", before.Datastore, before.Nodes[1].Agent, after.Datastore, after.Nodes[1].Agent, err)
	}
}

// Two commands on one lab do not mix: the second waits, or gives up.
func TestLock(t *testing.T) {
	l := newLab(t, "")
	unlock, err := l.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if _, err := l.lock(ctx); !fault.Is(err, fault.Unavailable) {
		t.Errorf("second lock: %v, want unavailable", err)
	}
	unlock()
	again, err := l.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again()
	os.Remove(filepath.Join(l.root, l.name+".lock"))
}

func TestNamesOfPods(t *testing.T) {
	s := &State{Name: "x", Pods: []Pod{
		{PodSpec: PodSpec{Namespace: "devops", Name: "busybox-77649b9c55-fv298"}},
		{PodSpec: PodSpec{Namespace: "devops", Name: "busybox-77649b9c55-s7zfv"}},
		{PodSpec: PodSpec{Namespace: "shop", Name: "web"}},
		{PodSpec: PodSpec{Namespace: "shop", Name: "web-0"}},
	}}
	for name, want := range map[string]string{
		"devops/busybox-77649b9c55-fv298": "devops/busybox-77649b9c55-fv298",
		"fv298":                           "devops/busybox-77649b9c55-fv298",
		"web":                             "shop/web",
		"web-":                            "shop/web-0",
		"busybox":                         "conflict",
		"devops/web":                      "not found",
		"nobody":                          "not found",
	} {
		got, err := s.Pod(name)
		text := fault.KindOf(err).String()
		if err == nil {
			text = got.String()
		}
		if text != want {
			t.Errorf("%q is %s, want %s", name, text, want)
		}
	}
}

func TestNamesOfLabs(t *testing.T) {
	for _, name := range []string{"Lab", "a.b", "a/b", "..", "-a", "a-", strings.Repeat("a", 33)} {
		if _, err := New(Config{Name: name}); !fault.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
			t.Errorf("lab %q: %v", name, err)
		}
	}
	root := t.TempDir()
	for _, dir := range []string{"b", "a", "NO", "made.d"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if names, err := Names(root); err != nil || !slices.Equal(names, []string{"a", "b"}) {
		t.Errorf("labs: %v, %v", names, err)
	}
}

// A lab's nodes have the configuration that is shipped.
func TestConflistIsTheShippedOne(t *testing.T) {
	shipped, err := os.ReadFile("../../deploy/10-ocicat.conflist")
	if err != nil || string(shipped) != conflist {
		t.Errorf("deploy/10-ocicat.conflist is not what labs have: %v\n%s", err, shipped)
	}
}
