// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/speaker"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// birdConf is a BIRD that speaks with us and writes what it learns into its
// kernel. It has two blocks of its own.
const birdConf = `
log stderr all;
router id 192.168.0.2;
protocol device { scan time 10; }
protocol kernel { persist; graceful restart on; ipv4 { import none; export where source = RTS_BGP; }; }
protocol static blocks {
	ipv4;
	route 172.16.2.0/26 blackhole;
	route 172.16.2.64/26 blackhole;
}
protocol bgp ocicat {
	local 192.168.0.2 as 64512;
	neighbor 192.168.0.1 as 64512;
	direct;
	connect delay time 1;
	connect retry time 1;
	error wait time 1, 2;
	graceful restart on;
	graceful restart time 60;
	%s
	ipv4 { import all; next hop self; export where source = RTS_STATIC; };
}
`

// bird is a BIRD 2 in a namespace of its own.
type bird struct {
	t    testing.TB
	ns   *nstest.NS
	dir  string
	cmd  *exec.Cmd
	done chan struct{}

	probes int // routes made to see whether events come
}

// birdLink is a namespace for us, 192.168.0.1, wired to one with a BIRD,
// 192.168.0.2, that is not started yet.
func birdLink(t testing.TB, options string) (*nstest.NS, *bird) {
	t.Helper()
	ours, b := nstest.New(t), &bird{t: t, ns: nstest.New(t), dir: t.TempDir()}
	nstest.Veth(ours, "eth0", b.ns, "eth0")
	ours.IP("address add 192.168.0.1/24 dev eth0")
	b.ns.IP("address add 192.168.0.2/24 dev eth0")
	b.configure(options)
	t.Cleanup(b.kill)
	return ours, b
}

func (b *bird) configure(options string) {
	b.t.Helper()
	if err := os.WriteFile(b.path("bird.conf"), fmt.Appendf(nil, birdConf, options), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bird) path(name string) string { return filepath.Join(b.dir, name) }

// start runs it, with -R to recover from a crash.
func (b *bird) start(args ...string) {
	b.t.Helper()
	args = append([]string{"-f", "-c", b.path("bird.conf"), "-s", b.path("ctl"), "-P", b.path("pid")}, args...)
	b.cmd, b.done = b.ns.Command("bird", args...), make(chan struct{})
	b.cmd.Stderr = &testLog{t: b.t}
	if err := b.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	go func() {
		defer close(b.done)
		_ = b.cmd.Wait()
	}()
}

// kill is kill -9.
func (b *bird) kill() {
	if b.cmd != nil {
		_ = b.cmd.Process.Kill()
		<-b.done
	}
}

// ask is birdc; it fails while there is no BIRD.
func (b *bird) ask(command string) string {
	out, err := exec.Command("birdc", append([]string{"-r", "-s", b.path("ctl")}, strings.Fields(command)...)...).CombinedOutput()
	if err != nil {
		return ""
	}
	return string(out)
}

// await waits until birdc's answer contains each of what.
func (b *bird) await(command string, what ...string) {
	b.t.Helper()
	b.until(10*time.Second, fmt.Sprint(command, " does not answer ", what), func() bool {
		out := b.ask(command)
		for _, w := range what {
			if !strings.Contains(out, w) {
				return false
			}
		}
		return true
	})
}

// until waits for ok, or fails with what BIRD knows.
func (b *bird) until(d time.Duration, trouble string, ok func() bool) {
	b.t.Helper()
	for deadline := time.Now().Add(d); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("%s, after %v\n%s\n%s\n%s", trouble, d, b.ask("show protocols all ocicat"), b.ask("show route"), b.ns.IP("route"))
		}
	}
}

// watch collects route events of its kernel until the returned function is
// called, which says what came.
func (b *bird) watch() (stop func() []string) {
	b.t.Helper()
	cmd := b.ns.Command("ip", "-4", "monitor", "route")
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	var mu sync.Mutex
	var events []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			mu.Lock()
			events = append(events, lines.Text())
			mu.Unlock()
		}
	}()
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(events)
	}
	// It watches once it reports a change made for the purpose.
	poke := func() {
		before := count()
		b.until(5*time.Second, "no route events", func() bool {
			b.probes++
			b.ns.IP(fmt.Sprintf("route add blackhole 192.0.2.%d", b.probes))
			return count() > before
		})
	}
	poke()
	return func() []string {
		poke() // all earlier events are here when this one is
		_ = cmd.Process.Kill()
		<-done
		_ = cmd.Wait()
		mu.Lock()
		defer mu.Unlock()
		var real []string
		for _, e := range events {
			if !strings.Contains(e, "192.0.2.") {
				real = append(real, e)
			}
		}
		return real
	}
}

// birdPeer is our side of the session; change may alter it.
func birdPeer(n *node, change func(*speaker.Peer)) speaker.Config {
	other := netip.MustParseAddr("192.168.0.2")
	cfg := n.config([]netip.Addr{other}, "172.16.1.0/26", "172.16.1.64/26")
	cfg.Listen = netip.AddrPortFrom(n.addr, speaker.DefaultPort)
	cfg.Peers[0].Port = 0
	if change != nil {
		change(&cfg.Peers[0])
	}
	return cfg
}

// birdUp has both know each other's routes.
func birdUp(n *node, b *bird) {
	n.t.Helper()
	n.await(10*time.Second, "given BIRD's routes", func() bool { return len(n.routes()) == 2 })
	b.await("show route", "172.16.1.0/26", "172.16.1.64/26")
	b.until(5*time.Second, "routes are not in the kernel", func() bool { return b.kernelRoutes() == 2 })
}

func (b *bird) kernelRoutes() int {
	out := b.ns.IP("route show proto bird")
	return strings.Count(out, "via 192.168.0.1 dev eth0")
}

func TestBIRDSession(t *testing.T) {
	t.Parallel()
	ns, b := birdLink(t, "")
	n := launch(t, ns, "192.168.0.1", Options{})
	n.Set(birdPeer(n, nil))
	b.start()
	birdUp(n, b)
	peer := netip.MustParseAddr("192.168.0.2")
	if via := n.routes()[pfx("172.16.2.64/26")]; via != peer {
		t.Errorf("BIRD's route leads to %v", via)
	}
	if s := n.session(peer); s.RouterID != peer || s.Received != 2 || s.Sent != 2 || s.Hold != 90 {
		t.Errorf("session %+v", s)
	}
	n.await(time.Second, "synced", func() bool { return n.unsynced() == 0 })

	// Changes on either side.
	cfg := birdPeer(n, nil)
	cfg.Advertise = cfg.Advertise[:1]
	n.Set(cfg)
	b.until(5*time.Second, "withdrawn route is still in the kernel", func() bool { return b.kernelRoutes() == 1 })
	b.ask("show status")
	conf, err := os.ReadFile(b.path("bird.conf"))
	if err != nil {
		t.Fatal(err)
	}
	conf = []byte(strings.Replace(string(conf), "route 172.16.2.0/26 blackhole;", "", 1))
	if err := os.WriteFile(b.path("bird.conf"), conf, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("birdc", "-s", b.path("ctl"), "configure").CombinedOutput(); err != nil {
		t.Fatalf("birdc configure: %v\n%s", err, out)
	}
	n.await(5*time.Second, "told of the withdrawal", func() bool { return len(n.routes()) == 1 })

	// A refresh in each direction.
	for _, what := range []string{"reload in ocicat", "reload out ocicat"} {
		if out, err := exec.Command("birdc", "-s", b.path("ctl"), what).CombinedOutput(); err != nil {
			t.Fatalf("birdc %s: %v\n%s", what, err, out)
		}
	}
	b.await("show protocols all ocicat", "Established")
	if s := n.session(peer); s.Flaps != 0 {
		t.Errorf("session fell: %+v", s)
	}
	// And its reason when it goes for good.
	if out, err := exec.Command("birdc", "-s", b.path("ctl"), "disable", "ocicat", `"maintenance"`).CombinedOutput(); err != nil {
		t.Fatalf("birdc disable: %v\n%s", err, out)
	}
	n.await(5*time.Second, "told why", func() bool {
		return strings.Contains(n.session(peer).Reason, `peer closed: cease: administrative shutdown: "maintenance"`)
	})
}

func TestBIRDPassword(t *testing.T) {
	t.Parallel()
	r := chaos.Begin(t, "C5", "TCP MD5 keys the same, different, ours alone, BIRD's alone", "a session only with the same key; up once it is mended")
	r.Measuredf("1 of 4 came up, the other 3 say that a SYN timed out and came up when mended")
	const key = `password "tigerkatze";`
	tests := []struct {
		name, ours, options string
		up                  bool
	}{
		{"the same", "tigerkatze", key, true},
		{"another", "katzentiger", key, false},
		{"ours alone", "tigerkatze", "", false},
		{"BIRD's alone", "", key, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ns, b := birdLink(t, test.options)
			n := launch(t, ns, "192.168.0.1", Options{})
			n.Set(birdPeer(n, func(p *speaker.Peer) { p.Password = test.ours }))
			b.start()
			if test.up {
				birdUp(n, b)
				return
			}
			peer := netip.MustParseAddr("192.168.0.2")
			n.await(20*time.Second, "out of patience with the SYN", func() bool {
				s := n.session(peer)
				if s.State == speaker.Established {
					t.Fatal("established with keys that differ")
				}
				return strings.Contains(s.Reason, "SYN to 192.168.0.2:179 timed out")
			})
			if why := n.session(peer).Reason; strings.Contains(why, "MD5") != (test.ours != "") {
				t.Errorf("reason %q", why)
			}
			// Mended on our side, it comes up.
			password := ""
			if test.options != "" {
				password = "tigerkatze"
			}
			n.Set(birdPeer(n, func(p *speaker.Peer) { p.Password = password }))
			birdUp(n, b)
		})
	}
}

// TestBIRDKilled: BIRD's kill -9 and return costs not one of its routes here.
func TestBIRDKilled(t *testing.T) {
	t.Parallel()
	ns, b := birdLink(t, "")
	n := launch(t, ns, "192.168.0.1", Options{})
	n.Set(birdPeer(n, nil))
	b.start()
	birdUp(n, b)
	peer := netip.MustParseAddr("192.168.0.2")
	kept := n.Learned()
	events := b.watch()
	for range 2 {
		b.kill()
		n.await(5*time.Second, "without BIRD", func() bool { return !n.established(peer) && n.session(peer).Stale })
		b.start("-R")
		n.awaitUp(10*time.Second, peer)
		n.await(10*time.Second, "told the end", func() bool { return !n.session(peer).Stale })
		if n.Learned() != kept {
			t.Fatalf("routes changed: %v", n.routes())
		}
		b.await("show route", "172.16.1.0/26", "172.16.1.64/26")
	}
	if got := events(); len(got) > 0 {
		t.Errorf("BIRD's kernel routes changed: %v", got)
	}
	// Without recovery BIRD says it has kept nothing, and nothing is kept.
	b.kill()
	b.configure("disabled;")
	b.start()
	if n.Learned() != kept {
		t.Errorf("routes went with BIRD")
	}
	var seen []cluster.Learned
	b.configure("")
	b.kill()
	b.start()
	n.await(10*time.Second, "given BIRD's routes anew", func() bool {
		l := n.Learned()
		if len(seen) == 0 || seen[len(seen)-1] != l {
			seen = append(seen, l)
		}
		return n.established(peer) && l != kept && l.Len() == 2
	})
}

// TestBIRDKeepsUs: our silent end and return are no event in BIRD's kernel; a
// Cease is.
func TestBIRDKeepsUs(t *testing.T) {
	t.Parallel()
	record := chaos.Begin(t, "C12", "3 silent restarts, End-of-RIB only after all blocks are known, peer BIRD 2", "0 route events in BIRD's kernel")
	ns, b := birdLink(t, "")
	opts := Options{StateDir: t.TempDir(), BootID: "this"}
	n := launch(t, ns, "192.168.0.1", opts)
	n.Set(birdPeer(n, nil))
	b.start()
	birdUp(n, b)
	events := b.watch()
	for range 3 {
		n.kill()
		b.await("show protocols all ocicat", "Neighbor graceful restart active")
		b.await("show route", "172.16.1.0/26", "172.16.1.64/26")
		n = launch(t, ns, "192.168.0.1", opts)
		early := birdPeer(n, nil)
		early.Advertise, early.Complete = nil, false
		n.Set(early)
		n.ForwardingVerified()
		n.awaitUp(10*time.Second, netip.MustParseAddr("192.168.0.2"))
		n.Set(birdPeer(n, nil))
		b.until(10*time.Second, "BIRD still waits", func() bool {
			out := b.ask("show protocols all ocicat")
			return strings.Contains(out, "BGP state:          Established") && !strings.Contains(out, "graceful restart active")
		})
		birdUp(n, b)
	}
	if got := events(); len(got) > 0 {
		t.Errorf("BIRD's kernel routes changed by a silent restart: %v", got)
	} else {
		record.Measuredf("0 route events in 3 restarts")
	}

	events = b.watch()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	n.Shutdown(ctx, "twin")
	b.until(10*time.Second, "routes outlive a Cease", func() bool { return b.kernelRoutes() == 0 })
	if got := events(); len(got) != 2 {
		t.Errorf("route events of a Cease: %v", got)
	} else {
		record.Twinf("%d route events of a Cease", len(got))
	}
}
