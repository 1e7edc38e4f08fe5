// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/ocicat-net/ocicat/api/v1"
	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/speaker"
	"github.com/ocicat-net/ocicat/test/chaos"
	"github.com/ocicat-net/ocicat/test/flow"
	"github.com/ocicat-net/ocicat/test/labtest"
)

// The pod of the peer sends to the pod of the node whose uplink changes.
const (
	peer, node       = "k8s-master-1", "k8s-node-1"
	sender, receiver = "devops.sender", "devops.receiver"
)

// soon is when traffic must be back after the link is.
const soon = 200 * time.Millisecond

// packets that prove that traffic is back.
const some = 50

type scene struct {
	*labtest.Lab
	t     *testing.T
	to    netip.Addr // the receiver
	block string     // of the node
}

// newScene is a lab whose second node looks for its address by itself.
func newScene(t *testing.T) *scene {
	t.Helper()
	l := labtest.Up(t, 2, []lab.PodSpec{
		{Namespace: "devops", Name: "sender", Node: peer}, {Namespace: "devops", Name: "receiver", Node: node},
	}, nil)
	state, err := l.State()
	if err != nil {
		t.Fatal(err)
	}
	n, err := state.Node(node)
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{Lab: l, t: t, to: state.Pods[1].Address.Addr(), block: "172.16.109.64/26"}
	s.restart(n.Agent.PID)
	s.awaitPeer("192.168.0.12")
	return s
}

// restart replaces the node's agent by one with IP=autodetect.
func (s *scene) restart(pid int) {
	t := s.t
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		t.Fatal(err)
	}
	var env []string
	for entry := range strings.SplitSeq(strings.TrimSuffix(string(text), "\x00"), "\x00") {
		if !strings.HasPrefix(entry, "IP=") {
			env = append(env, entry)
		}
	}
	var spaces []*os.File
	for _, ns := range []string{"net", "mnt"} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		spaces = append(spaces, f)
	}
	if err := s.KillAgent(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(s.AgentLog(node), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	// A child's files begin at 3; nsenter takes the place of itself.
	cmd := exec.Command("nsenter", "--net=/proc/self/fd/3", "--mount=/proc/self/fd/4", "--wd=/", filepath.Join(s.Bin, "ocicatd"))
	cmd.ExtraFiles, cmd.Env, cmd.Stdout, cmd.Stderr = spaces, append(env, "IP=autodetect"), log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// awaitPeer waits until the peer has one session, Established, with addr, and
// routes the node's block there.
func (s *scene) awaitPeer(addr string) {
	s.t.Helper()
	client := admin.Dial(s.AdminSocket(peer))
	nstest.Eventually(s.t, 20*time.Second, func() bool {
		sessions, err := client.Sessions(s.t.Context())
		return err == nil && len(sessions) == 1 && sessions[0].State == speaker.Established && sessions[0].Peer.String() == addr &&
			strings.Contains(s.Node(peer, "ip route show "+s.block), "via "+addr+" ")
	}, "session and route of the peer by ", addr)
}

// back runs a flow over what break does and mend undoes, and says how long
// after mend traffic is back. Sending goes on meanwhile.
func (s *scene) back(interrupt, mend func()) (time.Duration, *flow.Flow) {
	t := s.t
	t.Helper()
	f := flow.StartAt(t, s.Netns(sender), s.Netns(receiver), s.to, 10_000)
	if !f.AwaitReceived(t, some, 10*time.Second) {
		t.Fatal("no traffic to begin with")
	}
	interrupt()
	if f.AwaitReceived(t, 20*some, soon) {
		t.Error("twin: traffic flows although it is interrupted")
	}
	mend()
	begin := time.Now()
	if !f.AwaitReceived(t, some, 20*time.Second) {
		t.Fatalf("no traffic after 20 s\n%s\n%s", s.Node(peer, "ip route"), s.Node(node, "ip route"))
	}
	return time.Since(begin), f
}

// TestUplinkDownUp: the kernel flushes our routes with the link.
func TestUplinkDownUp(t *testing.T) {
	s := newScene(t)
	for _, down := range []time.Duration{300 * time.Millisecond, time.Duration(chaos.Scale(3, 20)) * time.Second} {
		t.Run(down.String(), func(t *testing.T) { s.downUp(t, down) })
	}
}

func (s *scene) downUp(t *testing.T, down time.Duration) {
	r := chaos.Begin(t, "D6", fmt.Sprintf("uplink down for %v and up, 10,000 packets/s", down), "traffic back in < 200 ms")
	took, f := s.back(func() {
		s.Node(node, "ip link set ens160 down")
		r.Twinf("while it is down %d routes by the uplink stand", strings.Count(s.Node(node, "ip route show proto bird dev ens160"), "via"))
		<-time.After(down)
	}, func() {
		s.Node(node, "ip link set ens160 up")
	})
	sent, lost := f.End()
	r.Measuredf("back %d ms after the link; %d of %d packets lost", took.Milliseconds(), lost, sent)
	if took > soon {
		t.Errorf("down for %v: traffic back after %v, want %v", down, took, soon)
	}
	begin := time.Now()
	s.awaitPeer("192.168.0.12")
	t.Logf("back after %v, session after another %v", took, time.Since(begin))
}

// TestNextHopMAC: the node's uplink gets another MAC.
func TestNextHopMAC(t *testing.T) {
	s := newScene(t)
	r := chaos.Begin(t, "D6", "MAC of the next hop changed, the link stays up, 10,000 packets/s", "traffic back in < 200 ms")
	f := flow.StartAt(t, s.Netns(sender), s.Netns(receiver), s.to, 10_000)
	if !f.AwaitReceived(t, some, 10*time.Second) {
		t.Fatal("no traffic to begin with")
	}
	before := f.Longest()
	s.Node(node, "ip link set ens160 address 00:0c:29:00:77:77")
	if !f.AwaitReceived(t, 20*some, 20*time.Second) {
		t.Fatal("no traffic after 20 s")
	}
	f.Await(t, time.Second)
	sent, lost := f.End()
	r.Measuredf("longest silence %d ms (before: %d ms); %d of %d packets lost", f.LongestMS(), before.Milliseconds(), lost, sent)
	if f.Longest() > soon {
		t.Errorf("silence of %v, want at most %v", f.Longest(), soon)
	}
}

// TestAddressReplaced: the address is deleted and another added; the node
// writes its Node, the peer follows, nothing points to the old one.
func TestAddressReplaced(t *testing.T) {
	s := newScene(t)
	r := chaos.Begin(t, "F2", "node's address deleted, another added, 10,000 packets/s", "followed; no route by the old next hop")
	session := chaos.Begin(t, "C26", "address of a node of the mesh replaced", "session made anew in < 10 s")
	stale := chaos.Begin(t, "D7", "node's address replaced", "0 routes by the old next hop when traffic is back")
	f := flow.StartAt(t, s.Netns(sender), s.Netns(receiver), s.to, 10_000)
	if !f.AwaitReceived(t, some, 10*time.Second) {
		t.Fatal("no traffic to begin with")
	}
	s.Node(node, "ip addr del 192.168.0.12/24 dev ens160")
	nstest.Eventually(t, 2*time.Second, func() bool {
		report, err := admin.Dial(s.AdminSocket(node)).Report(t.Context())
		return err == nil && slices.ContainsFunc(report.Status.Problems, func(p v1.Problem) bool { return p.Code == string(problem.AddressMissing) })
	}, "problem of the missing address")
	s.Node(node, "ip addr add 192.168.0.77/24 dev ens160")
	begin := time.Now()
	s.awaitPeer("192.168.0.77")
	anew := time.Since(begin)
	f.Await(t, time.Second/2)
	sent, lost := f.End()
	r.Measuredf("%d of %d packets lost, longest silence %d ms", lost, sent, f.LongestMS())
	session.Measuredf("session and route by the new address %d ms after it", anew.Milliseconds())
	if anew > 10*time.Second { // its connection to the datastore is bound to the old address, and has to be given up first
		t.Errorf("session by the new address after %v, want at most 10s", anew)
	}
	old := strings.Count(s.Node(peer, "ip route"), "via 192.168.0.12 ")
	stale.Measuredf("%d routes by the old next hop", old)
	if old != 0 {
		t.Errorf("%d routes by the old next hop", old)
	}
	out := ""
	nstest.Eventually(t, 10*time.Second, func() bool {
		out, _ = s.Ocicat("status", "-o", "wide")
		return strings.Contains(out, "192.168.0.77/24  ens160  100")
	}, "status with the new address and its score")
}

// TestMaskAndBoth: another mask, and another address beside the first, lose
// nothing; the first one is kept until it goes.
func TestMaskAndBoth(t *testing.T) {
	s := newScene(t)
	r := chaos.Begin(t, "F2", "mask changed, then a second address added beside the first, 10,000 packets/s", "0 lost, the address kept")
	f := flow.StartAt(t, s.Netns(sender), s.Netns(receiver), s.to, 10_000)
	f.AwaitReceived(t, some, 10*time.Second)
	s.Node(node, "ip addr add 192.168.0.12/16 dev ens160")
	s.Node(node, "ip addr add 192.168.0.77/24 dev ens160")
	f.Await(t, time.Second)
	sent, lost := f.End()
	r.Measuredf("%d of %d packets lost", lost, sent)
	if lost != 0 {
		t.Errorf("%d of %d packets lost", lost, sent)
	}
	s.awaitPeer("192.168.0.12")
}
