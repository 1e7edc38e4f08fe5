// SPDX-License-Identifier: Apache-2.0

package restart

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/test/flow"
)

// peer is what stands on the stable node.
type peer struct {
	name string
	// take puts the peer in the agent's place, or in that of an earlier one,
	// with graceful restart or without. nil for our own agent.
	take func(t *testing.T, s *scene, graceful bool, old *daemons) *daemons
	// rib says that the peer has no kernel routes: events are those of its RIB
	// and packets mean nothing.
	rib bool
	// idle is how long the peer refuses connections after it lost one.
	idle time.Duration
}

var peers = []peer{
	{name: "our own"},
	{name: "BIRD 2", take: takeBIRD},
	{name: "FRR with zebra", take: takeFRR},
	{name: "GoBGP", take: takeGoBGP, rib: true, idle: 5 * time.Second},
}

// daemons are the programs of a peer.
type daemons struct {
	dir  string
	stop []func()
}

func (d *daemons) end() {
	if d == nil {
		return
	}
	for i := len(d.stop) - 1; i >= 0; i-- {
		d.stop[i]()
	}
	d.stop = nil
}

// newDaemons begins a peer on the stable node, after the end of what was there.
// The agent goes without a word, but its routes of BGP go with it.
func newDaemons(t *testing.T, s *scene, old *daemons) *daemons {
	t.Helper()
	if old == nil {
		if err := s.KillAgent(t.Context(), stable); err != nil {
			t.Fatal(err)
		}
	}
	old.end()
	// What comes next shall be the new peer's. The old one may take its routes
	// away at the same time, which lets a flush fail; zebra's hang on nexthop
	// objects.
	routes := func() string { return s.Node(stable, "ip route show exact "+dyingBlock.String()) }
	nstest.Eventually(t, 20*time.Second, func() bool {
		for _, flush := range []string{"ip nexthop flush", "ip route flush exact " + dyingBlock.String()} {
			_, _ = s.ExecNode(t.Context(), stable, strings.Fields(flush), lab.Streams{Out: io.Discard, Err: io.Discard})
		}
		return routes() == ""
	}, func() string { return "no route of the old peer: " + routes() })
	dir, err := os.MkdirTemp("", "ocicat-peer-")
	if err != nil {
		t.Fatal(err)
	}
	d := &daemons{dir: dir}
	d.stop = append(d.stop, func() { _ = os.RemoveAll(dir) })
	s.t.Cleanup(d.end)
	return d
}

func (d *daemons) path(name string) string { return filepath.Join(d.dir, name) }

func (d *daemons) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(d.path(name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// run starts a program on the stable node until the daemons end.
func (d *daemons) run(t *testing.T, s *scene, argv ...string) {
	t.Helper()
	cmd := onStable(s, argv...)
	log, err := os.Create(d.path(filepath.Base(argv[0]) + ".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.stop = append(d.stop, func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
		if text, err := os.ReadFile(log.Name()); err == nil && s.t.Failed() {
			s.t.Logf("%s: %s", argv[0], text)
		}
	})
}

func onStable(s *scene, argv ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", s.Name() + "." + stable}, argv...)...)
}

// give gives the directory to the user the peer runs as.
func (d *daemons) give(t *testing.T, name string) {
	t.Helper()
	who, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(who.Uid)
	gid, _ := strconv.Atoi(who.Gid)
	files, _ := filepath.Glob(d.path("*"))
	for _, file := range append(files, d.dir) {
		if err := os.Chown(file, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
}

// awaitKernelRoute waits until the peer has our block in its kernel.
func awaitKernelRoute(t *testing.T, s *scene) {
	t.Helper()
	nstest.Eventually(t, 30*time.Second, func() bool {
		return strings.Contains(s.Node(stable, "ip route show "+dyingBlock.String()), "via 192.168.0.12")
	}, "the peer installs the route to ", dyingBlock)
}

// shortHold is the hold time of peers without graceful restart: a frozen agent
// must be seen as dead.
const shortHold = 9 // seconds

func takeBIRD(t *testing.T, s *scene, graceful bool, old *daemons) *daemons {
	t.Helper()
	d := newDaemons(t, s, old)
	option := "graceful restart on;"
	if !graceful {
		option = fmt.Sprintf("graceful restart off; hold time %d;", shortHold)
	}
	d.write(t, "bird.conf", fmt.Sprintf(`router id 192.168.0.11;
protocol device { scan time 2; }
protocol kernel { ipv4 { export where source = RTS_BGP; }; }
protocol static { ipv4; route %v blackhole; }
protocol bgp node1 {
	local 192.168.0.11 as 64512;
	neighbor 192.168.0.12 as 64512;
	direct;
	connect delay time 1; connect retry time 1; error wait time 1, 2;
	%s
	ipv4 { import all; export where source = RTS_STATIC; next hop self; };
}
`, stableBlock, option))
	d.run(t, s, "bird", "-f", "-c", d.path("bird.conf"), "-s", d.path("ctl"), "-P", d.path("pid"))
	awaitKernelRoute(t, s)
	return d
}

func takeFRR(t *testing.T, s *scene, graceful bool, old *daemons) *daemons {
	t.Helper()
	d := newDaemons(t, s, old)
	option := "bgp graceful-restart"
	timers := ""
	if !graceful {
		option, timers = "bgp graceful-restart-disable", fmt.Sprintf(" neighbor 192.168.0.12 timers 3 %d\n", shortHold)
	}
	d.write(t, "zebra.conf", "hostname peer\n")
	d.write(t, "bgpd.conf", fmt.Sprintf(`hostname peer
router bgp 64512
 bgp router-id 192.168.0.11
 no bgp ebgp-requires-policy
 no bgp network import-check
 %s
 neighbor 192.168.0.12 remote-as 64512
 neighbor 192.168.0.12 timers connect 1
%s address-family ipv4 unicast
  network %v
 exit-address-family
`, option, timers, stableBlock))
	d.give(t, "frr")
	for _, name := range []string{"zebra", "bgpd"} {
		d.run(t, s, "/usr/lib/frr/"+name, "-f", d.path(name+".conf"), "-i", d.path(name+".pid"), "-z", d.path("zserv"),
			"--vty_socket", d.dir, "-P", "0", "--log", "stdout")
		nstest.Eventually(t, 10*time.Second, func() bool {
			_, err := os.Stat(d.path(name + ".vty"))
			return err == nil
		}, name, " serves")
	}
	awaitKernelRoute(t, s)
	return d
}

func takeGoBGP(t *testing.T, s *scene, graceful bool, old *daemons) *daemons {
	t.Helper()
	d := newDaemons(t, s, old)
	option := fmt.Sprintf("[neighbors.timers.config]\nhold-time = %d\n", shortHold)
	if graceful {
		option = "[neighbors.graceful-restart.config]\nenabled = true\nrestart-time = 120\n"
	}
	d.write(t, "gobgpd.toml", fmt.Sprintf(`[global.config]
as = 64512
router-id = "192.168.0.11"
[[neighbors]]
[neighbors.config]
neighbor-address = "192.168.0.12"
peer-as = 64512
%s[[neighbors.afi-safis]]
[neighbors.afi-safis.config]
afi-safi-name = "ipv4-unicast"
[neighbors.afi-safis.mp-graceful-restart.config]
enabled = %t
`, option, graceful))
	d.run(t, s, "gobgpd", "-f", d.path("gobgpd.toml"), "--api-hosts", "127.0.0.1:50051", "-p")
	nstest.Eventually(t, 20*time.Second, func() bool {
		return onStable(s, "gobgp", "global", "rib", "add", stableBlock.String(), "nexthop", "192.168.0.11").Run() == nil
	}, "gobgpd serves")
	nstest.Eventually(t, 30*time.Second, func() bool {
		out, _ := onStable(s, "gobgp", "global", "rib").CombinedOutput()
		return strings.Contains(string(out), dyingBlock.String())
	}, "gobgpd has our route")
	return d
}

// watch counts the events about our block, in the peer's kernel or, where the
// peer keeps no routes there, in its RIB.
func (p peer) watch(t *testing.T, s *scene) *atomic.Int64 {
	t.Helper()
	if !p.rib {
		return flow.WatchRoutes(t, s.Netns(stable), dyingBlock)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", s.Name()+"."+stable, "gobgp", "monitor", "global", "rib", "--current")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var events atomic.Int64
	first, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		seen := false
		for lines := bufio.NewScanner(out); lines.Scan(); {
			switch {
			case !strings.Contains(lines.Text(), dyingBlock.String()):
			case !seen: // what there is, told at the beginning
				seen = true
				close(first)
			default:
				events.Add(1)
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done; _ = cmd.Wait() })
	select {
	case <-first:
	case <-time.After(10 * time.Second):
		t.Fatal("gobgp monitor shows nothing")
	}
	return &events
}
