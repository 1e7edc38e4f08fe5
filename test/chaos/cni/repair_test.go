// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// TestTwin shows that what the sweeps look for is seen: without journal and
// alias nothing tells a restarted agent whose a link is. The address comes back
// all the same: the datastore knows the container's handle.
func TestTwin(t *testing.T) {
	w := up(t)
	w.mustAdd("twin")
	w.clean("ADD", "twin")
	held, _ := w.recorded([]string{"twin"})
	hostIf := held["twin"].Endpoint.HostIf
	if err := w.KillAgent(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(w.run, "journal")); err != nil {
		t.Fatal(err)
	}
	if out, code := w.node("ip", "link", "set", hostIf, "alias", ""); code != 0 {
		t.Fatal(out)
	}
	w.restart()
	w.mustDel("twin")
	leaks := strings.Join(w.leaks(), "\n")
	for _, want := range []string{"node's links: too many: " + hostIf, "2 links in the pod's namespace"} {
		if !strings.Contains(leaks, want) {
			t.Errorf("the meter does not see %q:\n%s", want, leaks)
		}
	}
	for _, id := range []string{"A2", "A3", "A4"} {
		chaos.Begin(t, id, "journal and alias taken away between kill and DEL", "the meter sees the leak").
			Twinf("%d leaks seen: link, pod's interface", strings.Count(leaks, "\n")+1)
	}
}

// node runs a command in the node and returns what it printed and its exit
// code.
func (w *world) node(argv ...string) (string, int) {
	w.t.Helper()
	var out bytes.Buffer
	code, err := w.ExecNode(w.t.Context(), node, argv, lab.Streams{Out: &out, Err: &out})
	if err != nil {
		w.t.Fatal(err)
	}
	return out.String(), code
}

// TestAgentKilledRepairing kills the agent at each netlink message by which it
// repairs a pod that somebody damaged, under a flow between two other pods.
func TestAgentKilledRepairing(t *testing.T) {
	r := chaos.Begin(t, "D13", "a pod's route, neighbour and link settings damaged, agent killed before each netlink send of the repair, other pods talking", "0 packets lost between others, state as before")
	w := up(t)
	var hostIf, addr string
	for _, name := range []string{"a", "b", "c"} {
		pod, err := w.AddPod(t.Context(), lab.PodSpec{Namespace: "devops", Name: name, Node: node})
		if err != nil {
			t.Fatal(err)
		}
		hostIf, addr = pod.HostIf, pod.Address.String()
	}
	b, err := w.state().Pod("devops/b")
	if err != nil {
		t.Fatal(err)
	}
	whole := w.kernelState()
	flow := w.ping("a", b.Address.Addr().String())
	points := 0
	for round := range chaos.Scale(1, 30) {
		for at := 1; ; at++ {
			p := attach(t, w.agentPID(), at, netlinkSend)
			w.damage(hostIf, addr, round)
			nstest.Eventually(t, 10*time.Second, func() bool {
				return p.ended() || slices.Equal(w.kernelState(), whole) && p.quiet(100*time.Millisecond)
			}, "killed, or repaired unhurt")
			hit := p.hit.Load()
			p.kill(t)
			w.restart()
			nstest.Eventually(t, 10*time.Second, func() bool { return slices.Equal(w.kernelState(), whole) }, "repaired after kill before send ", at, " of round ", round)
			if !hit {
				break
			}
			points++
		}
	}
	sent, received := flow()
	if points < 4 || sent < 100 {
		t.Errorf("%d points, %d packets: the meter does not work", points, sent)
	}
	if sent != received {
		t.Errorf("%d of %d packets lost", sent-received, sent)
	}
	r.Measuredf("%d points: %d of %d packets lost, state as before every time", points, sent-received, sent)
	flow = w.ping("a", b.Address.Addr().String())
	if err := w.KillAgent(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	w.node("ip", "link", "set", "dev", b.HostIf, "down")
	w.restart()
	nstest.Eventually(t, 10*time.Second, func() bool { return slices.Equal(w.kernelState(), whole) }, "repaired")
	if sent, received = flow(); sent == received {
		t.Error("the meter does not see the loss through a link that was down")
	}
	r.Twinf("%d of %d packets lost when the flow's own link was set down and the agent restarted", sent-received, sent)
}

// damage takes something away from a pod's host end, in another order each
// round.
func (w *world) damage(hostIf, addr string, round int) {
	w.t.Helper()
	ways := [][]string{
		{"ip", "route", "del", addr, "dev", hostIf},
		{"ip", "neigh", "flush", "dev", hostIf, "nud", "permanent"},
		{"ip", "link", "set", "dev", hostIf, "mtu", "1400"},
		{"ip", "link", "set", "dev", hostIf, "down"},
	}
	for i := range ways {
		w.node(ways[(i+round)%len(ways)]...) // a later way may find nothing left
	}
}

// fleeting is what differs between two looks at the same links.
var fleeting = regexp.MustCompile(`qlen \d+|LOWER_UP`)

// kernelState is the node's links, routes and permanent neighbours.
func (w *world) kernelState() []string {
	w.t.Helper()
	var lines []string
	for _, command := range []string{"ip -o link show", "ip -4 route show table all", "ip -4 neigh show nud permanent"} {
		for line := range strings.Lines(w.Node(node, command)) {
			lines = append(lines, strings.TrimSpace(fleeting.ReplaceAllString(line, "")))
		}
	}
	slices.Sort(lines)
	return lines
}

// ping starts a flow of 100 packets a second from a pod; the function ends it
// and says how many packets were sent and answered.
func (w *world) ping(pod, addr string) func() (sent, received int) {
	w.t.Helper()
	var out bytes.Buffer
	cmd := exec.Command("ip", "netns", "exec", w.Name()+".devops."+pod, "ping", "-q", "-i", "0.01", "-W", "2", addr)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = cmd.Process.Kill() })
	return func() (sent, received int) {
		w.t.Helper()
		<-time.After(100 * time.Millisecond) // some packets at least
		_ = cmd.Process.Signal(unix.SIGINT)
		_ = cmd.Wait() // 1 without an answer
		m := regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`).FindStringSubmatch(out.String())
		if m == nil {
			w.t.Fatalf("ping: %s", out.String())
		}
		return number(w.t, m[1]), number(w.t, m[2])
	}
}
