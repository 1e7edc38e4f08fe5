// SPDX-License-Identifier: Apache-2.0

// Package trace holds the command line against real labs: what status, bgp,
// ipam and trace print on a healthy one, and that trace names node and
// interface of every break.
package trace

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/cli"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/internal/trace"
	"github.com/ocicat-net/ocicat/test/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

// Nodes of the labs, and the blocks the first two own.
const (
	master, node1, node2 = "k8s-master-1", "k8s-node-1", "k8s-node-2"
	masterBlock          = "172.16.196.0/26"
	node1Block           = "172.16.109.64/26"
)

// outcome is what one command line did.
type outcome struct {
	stdout, stderr string
	code           int
}

// ocicat runs the command line on the lab as somebody would who pipes its
// output.
func ocicat(t *testing.T, l *labtest.Lab, args ...string) outcome {
	t.Helper()
	return runCommand(t, exec.Command(filepath.Join(l.Bin, "ocicat"), append([]string{"--lab", l.Name()}, args...)...), l)
}

func runCommand(t *testing.T, cmd *exec.Cmd, l *labtest.Lab) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), "OCICAT_LAB_DIR="+l.Root)
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// result is what trace prints with -o json.
type result struct {
	From, To   trace.Endpoint
	Prediction trace.Prediction
	Captured   []trace.Frame
	Findings   []trace.Finding
	ReplyTTL   int
	RTT        string
	Sent       bool
}

// traced runs a trace and returns what it found and its exit code.
func traced(t *testing.T, l *labtest.Lab, args ...string) (result, int) {
	t.Helper()
	o := ocicat(t, l, append([]string{"trace", "-o", "json", "--timeout", "10s"}, args...)...)
	var r result
	decoder := json.NewDecoder(strings.NewReader(o.stdout))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		t.Fatalf("ocicat trace %v: exit %d, %v\n%s%s", args, o.code, err, o.stdout, o.stderr)
	}
	return r, o.code
}

// healthy fails unless a trace finds nothing and every predicted frame was
// captured as predicted, and no other.
func healthy(t *testing.T, l *labtest.Lab, from, to string) result {
	t.Helper()
	r, code := traced(t, l, from, to)
	if code != cli.ExitOK || len(r.Findings) > 0 {
		t.Errorf("%s → %s: exit %d, findings %v, want none", from, to, code, r.Findings)
	}
	if diff := cmp.Diff(r.Prediction.Frames(), r.Captured, cmp.Comparer(func(a, b trace.Frame) bool { return a == b })); diff != "" {
		t.Errorf("%s → %s: captured frames (-predicted +captured):\n%s", from, to, diff)
	}
	return r
}

// pods are the article's and one more on each of the nodes.
func pods(nodes ...string) []lab.PodSpec {
	list := lab.ArticlePods(2)
	for i, node := range nodes {
		list = append(list, lab.PodSpec{Namespace: "shop", Name: fmt.Sprintf("web-%d", i), Node: node})
	}
	return list
}

// Every pod reaches every other, on its own node and on others, just as
// predicted.
func TestHealthyPaths(t *testing.T) {
	l := labtest.Up(t, 3, pods(master, node1, node2, node2), nil)
	state, err := l.State()
	if err != nil {
		t.Fatal(err)
	}
	traces := 0
	for _, from := range state.Pods {
		for _, to := range state.Pods {
			if from.String() == to.String() {
				continue
			}
			traces++
			r := healthy(t, l, from.String(), to.String())
			want, ttl := 6, 62
			if from.Node == to.Node {
				want, ttl = 4, 63
			}
			if len(r.Prediction.Request) != want || len(r.Prediction.Reply) != want || r.ReplyTTL != ttl || r.RTT == "" || r.Prediction.MTU != 1500 {
				t.Errorf("%s → %s: %d hops, %d back, reply with ttl %d after %q, mtu %d; want %d hops, ttl %d", from, to,
					len(r.Prediction.Request), len(r.Prediction.Reply), r.ReplyTTL, r.RTT, r.Prediction.MTU, want, ttl)
			}
		}
	}
	if traces < 50 {
		t.Errorf("%d traces, want 50 at least", traces)
	}
}

// A pod can be named in several ways; a wrong name says which there are.
func TestNames(t *testing.T) {
	l := labtest.Up(t, 1, []lab.PodSpec{
		{Namespace: "shop", Name: "web-0", Node: master},
		{Namespace: "shop", Name: "web-1", Node: master},
		{Namespace: "blog", Name: "web-1", Node: master},
	}, nil)
	for _, name := range []string{"shop/web-0", "web-0", "0", "172.16.196.1"} {
		r := healthy(t, l, name, "shop/web-1")
		if r.From.Pod != "shop/web-0" || r.From.Node != master || r.From.HostIf == "" || r.From.IfName != "eth0" {
			t.Errorf("%s is taken for %+v", name, r.From)
		}
	}
	has := "Lab " + l.Name() + " has shop/web-0, shop/web-1, blog/web-1.\n"
	invalid := cli.ExitUsage
	notFound := fault.NotFound.ExitCode()
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"trace", "web-0", "web-9"}, notFound, "ocicat: error: pod \"web-9\": not found\nocicat: hint: " + has},
		{[]string{"trace", "10.0.0.1", "web-0"}, notFound, "ocicat: error: pod \"10.0.0.1\": not found\nocicat: hint: " + has},
		{[]string{"trace", "web-0", "web-1"}, invalid, "ocicat: error: pod \"web-1\": 2 pods fit\nocicat: hint: Which one: shop/web-1, blog/web-1?\n"},
		{[]string{"trace", "web-0", "web"}, invalid, "ocicat: error: pod \"web\": 3 pods fit\nocicat: hint: Which one: shop/web-0, shop/web-1, blog/web-1?\n"},
		{[]string{"trace", "web-0", "172.16.196.1"}, invalid, "ocicat: error: web-0 and 172.16.196.1 are the same pod: want two\n"},
		{[]string{"trace", "web-0"}, invalid, "ocicat: error: ocicat trace: accepts 2 arg(s), received 1\nocicat: hint: Usage: ocicat trace POD POD|ADDRESS [flags]\n"},
		{[]string{"trace", "web-0", "shop/web-1", "--pcap", "/nonexistent/x.pcap"}, fault.Invalid.ExitCode(), "ocicat: error: write captured frames: open /nonexistent/x.pcap: no such file or directory\nocicat: hint: Name a file that can be written with --pcap.\n"},
		{[]string{"status", "--node", "nope"}, notFound, "ocicat: error: node \"nope\": no such node\nocicat: hint: Nodes are k8s-master-1.\n"},
		{[]string{"bgp", "routes", "--node", "nope"}, notFound, "ocicat: error: node \"nope\": no such node\nocicat: hint: Nodes are k8s-master-1.\n"},
		{[]string{"bgp", "routes", "nope"}, invalid, "ocicat: error: prefix \"nope\": not an address or prefix\nocicat: hint: Write it as 172.16.109.64/26.\n"},
		{[]string{"ipam", "show", "--ip", "10.0.0.1"}, notFound, "ocicat: error: 10.0.0.1 lies in no IP pool\nocicat: hint: Pools are 172.16.0.0/16.\n"},
	} {
		if o := ocicat(t, l, test.args...); o.stderr != test.want || o.code != test.code || o.stdout != "" {
			t.Errorf("ocicat %v: exit %d, want %d\n%s%swant:\n%s", test.args, o.code, test.code, o.stdout, o.stderr, test.want)
		}
	}
	t.Run("another lab", func(t *testing.T) {
		for _, verb := range [][]string{{"trace", "a", "b"}, {"bgp", "routes"}, {"status"}} {
			o := runCommand(t, exec.Command(filepath.Join(l.Bin, "ocicat"), append(verb, "--lab", "nope")...), l)
			if want := "ocicat: error: lab nope: does not exist\nocicat: hint: There is " + l.Name() + ".\n"; o.stderr != want || o.code != notFound {
				t.Errorf("%v: exit %d\n%swant:\n%s", verb, o.code, o.stderr, want)
			}
		}
	})
	t.Run("not root", func(t *testing.T) { refusesOthers(t, l) })
}

// refusesOthers runs trace as nobody.
func refusesOthers(t *testing.T, l *labtest.Lab) {
	dir, err := os.MkdirTemp("", "ocicat-nobody-") // where nobody may go, unlike t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program := filepath.Join(dir, "ocicat")
	if err := errors.Join(os.Chmod(dir, 0o755), os.Link(filepath.Join(l.Bin, "ocicat"), program)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--lab", l.Name(), "trace", "shop/web-0", "shop/web-1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Dir = dir
	o := runCommand(t, cmd, l)
	want := "ocicat: error: trace: needs root\nocicat: hint: It enters the pods' network namespaces: run the command with sudo.\n"
	if o.stderr != want || o.stdout != "" || o.code != fault.Invalid.ExitCode() {
		t.Errorf("exit %d\n%s%swant:\n%s", o.code, o.stdout, o.stderr, want)
	}
}

// What was captured can be read by others, and what was predicted is not said
// to be captured.
func TestCapturesAndPredictions(t *testing.T) {
	l := labtest.Up(t, 2, lab.ArticlePods(2), nil)
	const from, to = "busybox-77649b9c55-fv298", "busybox-77649b9c55-s7zfv"
	file := filepath.Join(t.TempDir(), "walk.pcap")
	traced(t, l, from, to, "--pcap", file)
	out, err := exec.Command("tcpdump", "-n", "-e", "-r", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	const first, last = "0e:1c:2c:f6:2a:f9 > ee:ee:ee:ee:ee:ee, ethertype IPv4 (0x0800), length 98: 172.16.196.1 > 172.16.109.65: ICMP echo request",
		"ee:ee:ee:ee:ee:ee > 0e:1c:2c:f6:2a:f9, ethertype IPv4 (0x0800), length 98: 172.16.109.65 > 172.16.196.1: ICMP echo reply"
	if len(lines) != 12 || !strings.Contains(lines[0], first) || !strings.Contains(lines[11], last) {
		t.Errorf("tcpdump reads:\n%s", out)
	}

	r, code := traced(t, l, from, to, "--no-send")
	if code != cli.ExitOK || r.Sent || len(r.Captured) > 0 || len(r.Prediction.Request) != 6 {
		t.Errorf("--no-send: exit %d, sent %v, %d frames captured, %d hops", code, r.Sent, len(r.Captured), len(r.Prediction.Request))
	}
	if o := ocicat(t, l, "trace", from, to, "--no-send", "--pcap", file); o.code != cli.ExitUsage || o.stderr != "ocicat: error: --no-send and --pcap: nothing is captured when nothing is sent\n" {
		t.Errorf("--no-send with --pcap: exit %d, %s", o.code, o.stderr)
	}
}

// With the agents dead the kernels still say where packets go.
func TestPredictionFollowsTheKernel(t *testing.T) {
	l := labtest.Up(t, 2, lab.ArticlePods(2), nil)
	killAgents(t, l)
	const from, to = "172.16.196.1", "172.16.109.66"
	if r, code := traced(t, l, from, to, "--no-send"); code != cli.ExitOK || !r.Prediction.Delivered {
		t.Fatalf("exit %d, delivered %v", code, r.Prediction.Delivered)
	}
	l.Node(master, "ip route add 172.16.109.66/32 via 192.168.0.12 dev ens160 proto static")
	r, code := traced(t, l, from, to, "--no-send")
	if got := r.Prediction.Request[1].Decision; code != cli.ExitOK || got != "172.16.109.66 via 192.168.0.12 dev ens160 proto static (node k8s-node-1)" {
		t.Errorf("another way to the same node: exit %d, decided by %q", code, got)
	}
	l.Node(master, "ip route replace unreachable 172.16.109.66/32")
	r, code = traced(t, l, from, to, "--no-send")
	if code != cli.ExitProblems || len(r.Findings) != 1 || r.Findings[0].At.Node != master || !strings.Contains(r.Findings[0].Text, `dropped by "unreachable 172.16.109.66"`) {
		t.Errorf("no way any more: exit %d, findings %v", code, r.Findings)
	}
}

func killAgents(t *testing.T, l *labtest.Lab) {
	t.Helper()
	state, err := l.State()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range state.Topology.Nodes {
		if err := l.KillAgent(t.Context(), n.Name); err != nil {
			t.Fatal(err)
		}
	}
}

// On a node itself, without a lab in sight, its own pods can be traced, as on
// any machine with an agent.
func TestOnANode(t *testing.T) {
	l := labtest.Up(t, 2, lab.ArticlePods(2), nil)
	// Nothing of the lab but what a node has: its agent, and the datastore.
	program := "env OCICAT_LAB_DIR=/nonexistent ETCD_ENDPOINTS=http://192.168.0.2:2379 " + filepath.Join(l.Bin, "ocicat") + " "
	out := l.Node(node1, program+"trace jenkins-56b6774bb6-d8v8b 172.16.109.65")
	if !strings.HasPrefix(out, "ICMP 172.16.109.66 → 172.16.109.65   predicted and observed agree\n") {
		t.Error(out)
	}
	if out := l.Node(node1, program+"bgp routes"); strings.Count(out, "\n") != 2 || !strings.Contains(out, masterBlock) {
		t.Errorf("bgp routes:\n%s", out)
	}
	if out := l.Node(node1, program+"status"); !strings.Contains(out, "2/2 nodes ready") || !strings.Contains(out, "No problems.") {
		t.Errorf("status:\n%s", out)
	}
	var stdout, stderr bytes.Buffer
	streams := lab.Streams{Out: &stdout, Err: &stderr}
	argv := append(strings.Fields(program), "trace", "jenkins-56b6774bb6-d8v8b", "no-such-pod")
	code, err := l.ExecNode(t.Context(), node1, argv, streams)
	want := "ocicat: error: pod \"no-such-pod\": not found\nocicat: hint: This node, k8s-node-1, has devops/busybox-77649b9c55-s7zfv, devops/jenkins-56b6774bb6-d8v8b.\n"
	if err != nil || code != fault.NotFound.ExitCode() || stderr.String() != want {
		t.Errorf("no pod: exit %d, %v\n%s", code, err, stderr.String())
	}
	argv[len(argv)-1] = "172.16.196.1" // a pod of another node: its path is followed as far as this node goes
	code, err = l.ExecNode(t.Context(), node1, argv, streams)
	if err != nil || code != cli.ExitOK || !strings.Contains(stdout.String(), "172.16.196.0/26 via 192.168.0.11 dev ens160 proto bird") || strings.Contains(stdout.String(), "natOutgoing") {
		t.Errorf("a pod of another node: exit %d, %v\n%s%s", code, err, stdout.String(), stderr.String())
	}
}
