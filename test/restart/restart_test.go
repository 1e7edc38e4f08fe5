// SPDX-License-Identifier: Apache-2.0

// Package restart proves that pods lose no packet when an agent dies: under a
// flow of 10,000 packets a second, with our own speaker and with BIRD as the
// peer. Each test has a twin whose sessions end with a Cease, which proves
// that the meter sees loss.
package restart

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/test/flow"
	"github.com/ocicat-net/ocicat/test/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

const (
	stable, dying = "k8s-master-1", "k8s-node-1" // the peer that sends, and the node whose agent dies
	sender        = "devops/sender"
	receiver      = "devops/receiver"
)

// perSecond is the rate of the flow, in packets.
const perSecond = 10_000

// dyingBlock is the block of the node whose agent dies.
var dyingBlock = netip.MustParsePrefix("172.16.109.64/26")

func up(t *testing.T) (l *labtest.Lab, to netip.Addr) {
	t.Helper()
	l = labtest.Up(t, 2, []lab.PodSpec{{Namespace: "devops", Name: "sender", Node: stable}, {Namespace: "devops", Name: "receiver", Node: dying}}, nil)
	state, err := l.State()
	if err != nil {
		t.Fatal(err)
	}
	return l, state.Pods[1].Address.Addr()
}

// measure runs a flow from the sender to the receiver across what during does.
func measure(t *testing.T, l *labtest.Lab, to netip.Addr, during func(*flow.Flow)) (lost, events int64) {
	t.Helper()
	routes := flow.WatchRoutes(t, l.Netns(stable), dyingBlock)
	f := flow.StartAt(t, l.Netns("devops.sender"), l.Netns("devops.receiver"), to, perSecond)
	f.AwaitSent(t, perSecond/2)
	during(f)
	f.AwaitSent(t, 2*perSecond)
	sent, lost := f.End()
	t.Logf("%d packets sent, %d lost, %d route events in the peer's kernel", sent, lost, routes.Load())
	return lost, routes.Load()
}

// killAndRestart kills the agent with SIGKILL and starts it again half a
// second of the flow later.
func killAndRestart(t *testing.T, l *labtest.Lab, f *flow.Flow) {
	t.Helper()
	if err := l.KillAgent(t.Context(), dying); err != nil {
		t.Fatal(err)
	}
	f.AwaitSent(t, perSecond/2)
	if err := l.RestartAgent(t.Context(), dying); err != nil {
		t.Fatal(err)
	}
}

func established(t *testing.T, l *labtest.Lab) {
	t.Helper()
	client := admin.Dial(l.AdminSocket(dying))
	nstest.Eventually(t, 10*time.Second, func() bool {
		sessions, err := client.Sessions(t.Context())
		return err == nil && len(sessions) == 1 && sessions[0].State == "Established"
	}, "session Established again")
}

func TestKillLosesNothing(t *testing.T) {
	l, to := up(t)
	lost, events := measure(t, l, to, func(f *flow.Flow) {
		killAndRestart(t, l, f)
		established(t, l)
	})
	if lost != 0 || events != 0 {
		t.Errorf("%d packets lost, %d route events: want none", lost, events)
	}
}

func TestStopLosesNothing(t *testing.T) {
	l, to := up(t)
	lost, events := measure(t, l, to, func(f *flow.Flow) {
		if err := l.RestartAgent(t.Context(), dying); err != nil { // with SIGTERM
			t.Fatal(err)
		}
		established(t, l)
	})
	if lost != 0 || events != 0 {
		t.Errorf("%d packets lost, %d route events: want none", lost, events)
	}
}

// The twin: a Cease makes the peer forget the routes at once.
func TestCeaseLoses(t *testing.T) {
	l, to := up(t)
	lost, events := measure(t, l, to, func(*flow.Flow) {
		if err := admin.Dial(l.AdminSocket(dying)).Drain(t.Context(), "test"); err != nil {
			t.Fatal(err)
		}
	})
	if lost == 0 || events == 0 {
		t.Errorf("%d packets lost, %d route events: the meter sees nothing", lost, events)
	}
}

// withBIRD replaces the stable node's agent by BIRD 2, which takes over its
// address and its pods.
func withBIRD(t *testing.T, l *labtest.Lab) {
	t.Helper()
	if err := l.KillAgent(t.Context(), stable); err != nil {
		t.Fatal(err)
	}
	l.Node(stable, "ip route flush proto bird")
	dir := t.TempDir()
	config := filepath.Join(dir, "bird.conf")
	text := `router id 192.168.0.11;
protocol device { scan time 2; }
protocol kernel { ipv4 { export where source = RTS_BGP; }; persist; }
protocol static { ipv4; route 172.16.196.0/26 blackhole; }
protocol bgp node1 {
	local 192.168.0.11 as 64512;
	neighbor 192.168.0.12 as 64512;
	direct;
	connect delay time 1; connect retry time 1; error wait time 1, 2;
	graceful restart on;
	ipv4 { import all; export where source = RTS_STATIC; next hop self; };
}
`
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "bird.ctl")
	bird := exec.Command("ip", "netns", "exec", l.Name()+"."+stable, "bird", "-f", "-c", config, "-s", socket, "-P", filepath.Join(dir, "pid"))
	var log strings.Builder
	bird.Stderr = &log
	if err := bird.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = bird.Process.Kill()
		_ = bird.Wait()
		if t.Failed() {
			t.Logf("bird: %s", log.String())
		}
	})
	nstest.Eventually(t, 15*time.Second, func() bool {
		return strings.Contains(l.Node(stable, "ip route show"), fmt.Sprint(dyingBlock, " via 192.168.0.12 dev ens160 proto bird"))
	}, "BIRD installs the route")
}

func TestKillLosesNothingWithBIRD(t *testing.T) {
	l, to := up(t)
	withBIRD(t, l)
	lost, events := measure(t, l, to, func(f *flow.Flow) {
		killAndRestart(t, l, f)
		established(t, l)
	})
	if lost != 0 || events != 0 {
		t.Errorf("%d packets lost, %d route events: want none", lost, events)
	}
}

func TestCeaseLosesWithBIRD(t *testing.T) {
	l, to := up(t)
	withBIRD(t, l)
	lost, events := measure(t, l, to, func(*flow.Flow) {
		if err := admin.Dial(l.AdminSocket(dying)).Drain(t.Context(), "test"); err != nil {
			t.Fatal(err)
		}
	})
	if lost == 0 || events == 0 {
		t.Errorf("%d packets lost, %d route events: the meter sees nothing", lost, events)
	}
}
