// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/speaker"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// TestRotatedPassword: the key of a session is changed on one end, later on the
// other, and neither session nor routes notice.
func TestRotatedPassword(t *testing.T) {
	t.Parallel()
	r := chaos.Begin(t, "C5", "TCP MD5 key changed on one end, 1 s later on the other", "the session stays up, 0 routes lost")
	ns := newNet(t)
	a, b := launch(t, ns, "10.0.0.1", Options{}), launch(t, ns, "10.0.0.2", Options{})
	set := func(n, other *node, key string, blocks ...string) {
		cfg := n.config([]netip.Addr{other.addr}, blocks...)
		cfg.Peers[0].Password, cfg.Peers[0].Hold, cfg.Peers[0].Keepalive = key, 6*time.Second, time.Second
		n.Set(cfg)
	}
	set(a, b, "first", "172.16.1.0/26")
	set(b, a, "first", "172.16.2.0/26")
	a.await(10*time.Second, "given b's route", func() bool { return len(a.routes()) == 1 })
	b.await(10*time.Second, "given a's route", func() bool { return len(b.routes()) == 1 })
	keptA, keptB := a.Learned(), b.Learned()
	set(a, b, "second", "172.16.1.0/26")
	began := time.Now()
	a.await(5*time.Second, "a second on with another key", func() bool { return time.Since(began) > time.Second })
	set(b, a, "second", "172.16.2.0/26")
	// Longer than the hold time: what is heard is signed with the new key.
	a.await(20*time.Second, "past the hold time", func() bool { return time.Since(began) > 8*time.Second })
	flaps := a.session(b.addr).Flaps + b.session(a.addr).Flaps
	r.Measuredf("%d sessions fell in the hold time after it, routes the same: %t", flaps, a.Learned() == keptA && b.Learned() == keptB)
	if flaps != 0 || a.Learned() != keptA || b.Learned() != keptB {
		t.Errorf("%d flaps, %v, %v", flaps, a.Sessions(), b.Sessions())
	}
	set(a, b, "second", "172.16.1.0/26", "172.16.1.64/26")
	b.await(5*time.Second, "told of a new route", func() bool { return len(b.routes()) == 2 })
	set(a, b, "third", "172.16.1.0/26")
	a.await(30*time.Second, "without a peer of the same key", func() bool { return !a.established(b.addr) })
	r.Twinf("changed on one end only: session down, %q", a.session(b.addr).Reason)
}

// silent is a peer that restarts gracefully, with a restart time of 3 s.
func silent(t *testing.T, r *raw, id netip.Addr, restarting bool) {
	t.Helper()
	r.say(&message.Open{AS: testAS, HoldTime: 3, RouterID: id, Capabilities: message.Capabilities{
		Families: []message.Family{message.IPv4Unicast}, AS4: true,
		Restart: &message.GracefulRestart{Restarting: restarting, Time: 3, Families: []message.RestartFamily{{Family: message.IPv4Unicast, Forwarding: true}}},
	}})
	r.say(&message.Keepalive{})
}

// TestFlapsAndDies: a peer in its graceful restart that comes back five times,
// never says End-of-RIB and then stays away keeps nothing for ever.
func TestFlapsAndDies(t *testing.T) {
	t.Parallel()
	record := chaos.Begin(t, "C15", "peer restarts 5 times, never sends End-of-RIB, dies", "its routes are gone at its restart time, 3 s ± 1 s")
	ns := newNet(t)
	a, good, bad := victim(t, ns, Options{}, 3*time.Second)
	route := pfx("172.16.9.0/26")
	for i := range 6 {
		r := connect(t, ns, bad, a.addr)
		silent(t, r, bad, i > 0)
		a.awaitUp(3*time.Second, bad)
		r.say(&message.Update{NLRI: []netip.Prefix{route}, Attrs: &message.Attrs{NextHop: bad, LocalPref: 100, HasLocalPref: true}})
		a.await(2*time.Second, "given the route anew", func() bool {
			paths := a.PathsTo(route)
			return len(paths) == 1 && !paths[0].Stale
		})
		_ = r.Close()
		a.await(2*time.Second, "without the peer", func() bool { return !a.established(bad) })
		if a.routes()[route] != bad {
			t.Fatalf("route is not kept over loss %d", i)
		}
	}
	died := time.Now()
	a.await(10*time.Second, "rid of the route", func() bool { return !a.routes()[route].IsValid() })
	kept := time.Since(died)
	record.Measuredf("kept over 5 restarts, gone %.1f s after the last; other session fell %d times", kept.Seconds(), good.session(a.addr).Flaps)
	if kept < 2*time.Second || kept > 4*time.Second {
		t.Errorf("route was kept for %v", kept)
	}
}

// TestSilentPeer: the hold timer sees a peer that says nothing.
func TestSilentPeer(t *testing.T) {
	t.Parallel()
	record := chaos.Begin(t, "C7", "peer says nothing, hold time 3 s", "seen after the hold time ± 1 s")
	ns := newNet(t)
	a, _, bad := victim(t, ns, Options{}, 3*time.Second)
	r := connect(t, ns, bad, a.addr)
	silent(t, r, bad, false)
	a.awaitUp(3*time.Second, bad)
	began := time.Now()
	a.await(10*time.Second, "without the peer", func() bool { return !a.established(bad) })
	took := time.Since(began)
	record.Measuredf("session down after %.1f s: %s", took.Seconds(), a.session(bad).Reason)
	if took < 2*time.Second || took > 4*time.Second || !strings.Contains(a.session(bad).Reason, "hold timer expired") {
		t.Errorf("down after %v: %s", took, a.session(bad).Reason)
	}
}

// TestPrefixLimit: a peer beyond its limit is warned of before, and loses its
// session.
func TestPrefixLimit(t *testing.T) {
	t.Parallel()
	ns := newNet(t)
	var lines safeLog
	a := launch(t, ns, "10.0.0.1", Options{Log: slog.New(slog.NewTextHandler(&lines, nil))})
	b := launch(t, ns, "10.0.0.2", Options{})
	cfg := a.config([]netip.Addr{b.addr})
	cfg.Peers[0].PrefixLimit = 5
	a.Set(cfg)
	var blocks []string
	for i := range 4 {
		blocks = append(blocks, fmt.Sprintf("172.16.2.%d/26", i*64))
	}
	b.Set(b.config([]netip.Addr{a.addr}, blocks...))
	a.await(5*time.Second, "given 4 routes", func() bool { return len(a.routes()) == 4 })
	if text := lines.String(); !strings.Contains(text, "prefixes=4 limit=5") {
		t.Errorf("no warning at 4 of 5 prefixes in\n%s", text)
	}
	b.Set(b.config([]netip.Addr{a.addr}, append(blocks, "172.16.3.0/26", "172.16.3.64/26")...))
	a.await(5*time.Second, "tired of the peer", func() bool {
		return strings.Contains(a.session(b.addr).Reason, "more than 5 prefixes")
	})
}

// safeLog is a log that is read while it is written.
type safeLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *safeLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *safeLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestManySessions: a node with many peers of which one in ten comes and goes
// each second.
func TestManySessions(t *testing.T) {
	peers, routes := chaos.Scale(40, 200), chaos.Scale(10, 50)
	span := time.Duration(chaos.Scale(4, 60)) * time.Second
	r := chaos.Begin(t, "C23", fmt.Sprintf("%d sessions of which 10 %% restart each second, %d routes, %v", peers, peers*routes, span),
		"all routes in the end, no goroutine leaks, p99 of convergence measured")
	ns := newNet(t)
	quiet := Options{Log: slog.New(slog.DiscardHandler)}
	hub := launch(t, ns, "10.0.0.1", quiet)
	crowd := &crowd{t: t, hub: hub, routes: routes, opts: quiet, start: func(addr string) *node { return launch(t, ns, addr, quiet) }}
	var addrs []netip.Addr
	for i := range peers {
		addrs = append(addrs, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
	}
	hub.Set(hub.config(addrs, "172.31.0.0/26"))
	for _, addr := range addrs {
		crowd.leaves = append(crowd.leaves, crowd.launch(addr))
	}
	all := func() bool { return hub.Learned().Len() == peers*routes }
	hub.await(60*time.Second, "given all routes", all)
	goroutines, began, used := runtime.NumGoroutine(), time.Now(), cpuTime()
	crowd.churn(span)
	hub.await(60*time.Second, "given all routes again", all)
	cpu := (cpuTime() - used).Seconds() / time.Since(began).Seconds()
	for i := range crowd.leaves {
		hub.await(10*time.Second, "whole", func() bool { return hub.established(addrs[i]) })
	}
	hub.await(20*time.Second, "rid of goroutines", func() bool { return runtime.NumGoroutine() <= goroutines+peers/10 })
	slices.Sort(crowd.took)
	n := len(crowd.took)
	r.Measuredf("%d restarts; back with all routes: median %d ms, p99 %d ms", n, crowd.took[n/2].Milliseconds(), crowd.took[n*99/100].Milliseconds())
	r.Measuredf("%.2f cores for all %d speakers together; %d goroutines before, %d after", cpu, peers+1, goroutines, runtime.NumGoroutine())
	t.Log(r.Measured)
}

// crowd are the peers of a hub.
type crowd struct {
	t      *testing.T
	hub    *node
	routes int
	opts   Options
	start  func(addr string) *node
	leaves []*node

	mu   sync.Mutex
	took []time.Duration
}

// launch starts a peer with its routes.
func (c *crowd) launch(addr netip.Addr) *node {
	n := c.start(addr.String())
	id := addr.As4()
	var blocks []string
	for i := range c.routes {
		blocks = append(blocks, fmt.Sprintf("172.%d.%d.%d/32", 16+id[2], id[3], i))
	}
	n.Set(n.config([]netip.Addr{c.hub.addr}, blocks...))
	return n
}

// churn restarts a tenth of the peers each second, each as after a boot.
func (c *crowd) churn(span time.Duration) {
	var wg sync.WaitGroup
	tick := time.NewTicker(10 * time.Second / time.Duration(len(c.leaves)))
	defer tick.Stop()
	var busy atomic.Int64
	for i, end := 0, time.Now().Add(span); time.Now().Before(end); i++ {
		<-tick.C
		at := i % len(c.leaves)
		if busy.Load() > int64(len(c.leaves)/2) {
			c.t.Error("peers come back more slowly than they go")
			break
		}
		busy.Add(1)
		old := c.leaves[at]
		old.kill()
		began, addr := time.Now(), old.addr
		c.leaves[at] = c.launch(addr)
		wg.Go(func() {
			defer busy.Add(-1)
			c.hub.await(30*time.Second, "whole again", func() bool {
				s := c.hub.session(addr)
				return s.State == speaker.Established && !s.Since.Before(began) && s.Received == c.routes
			})
			c.mu.Lock()
			defer c.mu.Unlock()
			c.took = append(c.took, time.Since(began))
		})
	}
	wg.Wait()
}

func cpuTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
