// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// pair starts two speakers that know each other, at once.
func pair(t *testing.T, ns *nstest.NS) (a, b *node) {
	t.Helper()
	a = launch(t, ns, "10.0.0.1", Options{})
	b = launch(t, ns, "10.0.0.2", Options{})
	all := []netip.Addr{a.addr, b.addr}
	a.Set(a.config(all, "172.16.1.0/26"))
	b.Set(b.config(all, "172.16.2.0/26", "172.16.2.64/26"))
	a.awaitUp(time.Second, b.addr)
	b.awaitUp(time.Second, a.addr)
	a.await(time.Second, "given b's routes", func() bool { return len(a.routes()) == 2 })
	b.await(time.Second, "given a's route", func() bool { return len(b.routes()) == 1 })
	return a, b
}

func TestRoutesBothWays(t *testing.T) {
	a, b := pair(t, newNet(t))
	if via := a.routes()[pfx("172.16.2.64/26")]; via != b.addr {
		t.Errorf("b's route leads to %v", via)
	}
	if via := b.routes()[pfx("172.16.1.0/26")]; via != a.addr {
		t.Errorf("a's route leads to %v", via)
	}
	b.Set(b.config([]netip.Addr{a.addr}, "172.16.2.0/26"))
	a.await(time.Second, "told of the withdrawal", func() bool { return len(a.routes()) == 1 })
	if s := a.session(b.addr); s.Received != 1 || s.Sent != 1 || s.Flaps != 0 || s.RouterID != b.addr || s.Hold != 90 {
		t.Errorf("session %+v", s)
	}
	if paths := a.PathsTo(pfx("172.16.2.0/26")); len(paths) != 1 || !paths[0].Best || paths[0].From != b.addr {
		t.Errorf("paths %+v", paths)
	}
}

// reset ends the TCP connections of a speaker as a router in between would.
func reset(ns *nstest.NS, src netip.Addr) { ns.Run("ss", "-K", "-t", "src", src.String()) }

func TestReconnect(t *testing.T) {
	ns := newNet(t)
	a, b := pair(t, ns)
	for i := 1; i <= 3; i++ {
		reset(ns, a.addr)
		a.await(time.Second, "reset", func() bool { return a.session(b.addr).Flaps == i })
		a.awaitUp(time.Second, b.addr)
		b.awaitUp(time.Second, a.addr)
		a.await(time.Second, "resynchronised", func() bool { return len(a.routes()) == 2 && !a.session(b.addr).Stale })
		b.await(time.Second, "resynchronised", func() bool { return len(b.routes()) == 1 && !b.session(a.addr).Stale })
	}
	if why := a.session(b.addr).Reason; why == "" {
		t.Error("no reason for the last fall")
	}
}

// TestPeerComesBack: a peer that was away for long is Established in less than
// a second after its start.
func TestPeerComesBack(t *testing.T) {
	t.Parallel()
	ns := newNet(t)
	a := launch(t, ns, "10.0.0.1", Options{})
	peer := netip.MustParseAddr("10.0.0.2")
	a.Set(a.config([]netip.Addr{peer}, "172.16.1.0/26"))
	a.await(20*time.Second, "at a long pause", func() bool {
		return strings.HasSuffix(a.session(peer).Reason, "connection refused by 10.0.0.2:1790 5×")
	})
	b := launch(t, ns, "10.0.0.2", Options{})
	b.Set(b.config([]netip.Addr{a.addr}))
	a.awaitUp(time.Second, peer)
	b.awaitUp(time.Second, a.addr)
}

// TestCollisionSoak has 200 pairs dial each other at the same moment.
func TestCollisionSoak(t *testing.T) {
	const pairs = 200
	ns := newNet(t)
	var nodes [2][pairs]*node
	for i := range pairs {
		for side := range nodes {
			// A restarting speaker waits, until all are told to begin.
			dir := t.TempDir()
			if _, err := takeOver(dir, "this"); err != nil {
				t.Fatal(err)
			}
			nodes[side][i] = launch(t, ns, fmt.Sprintf("10.1.%d.%d", i, side+1), Options{StateDir: dir, BootID: "this"})
		}
		a, b := nodes[0][i], nodes[1][i]
		a.Set(a.config([]netip.Addr{b.addr}))
		b.Set(b.config([]netip.Addr{a.addr}))
	}
	for i := range pairs {
		for side := range nodes {
			n := nodes[side][i]
			n.await(10*time.Second, "listening", func() bool {
				n.listener.mu.Lock()
				defer n.listener.mu.Unlock()
				return n.listener.ln != nil && len(n.Sessions()) == 1
			})
		}
	}
	var wg sync.WaitGroup
	for i := range pairs {
		for side := range nodes {
			wg.Go(nodes[side][i].ForwardingVerified)
		}
	}
	wg.Wait()
	for i := range pairs {
		a, b := nodes[0][i], nodes[1][i]
		a.awaitUp(5*time.Second, b.addr)
		b.awaitUp(5*time.Second, a.addr)
	}
	for i := range pairs {
		for side := range nodes {
			n, peer := nodes[side][i], nodes[1-side][i].addr
			if s := n.session(peer); s.State != speaker.Established || s.Flaps != 0 {
				t.Errorf("session %+v", s)
			}
		}
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		established := strings.Count(ns.Run("ss", "-Htn", "state", "established"), "\n") + 1
		if established == 2*pairs {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d ends of connections stand for %d sessions", established, pairs)
		}
	}
}

func TestFullMesh(t *testing.T) {
	const size = 50
	ns := newNet(t)
	var nodes []*node
	var all []netip.Addr
	for i := range size {
		n := launch(t, ns, fmt.Sprintf("10.2.0.%d", i+1), Options{})
		nodes, all = append(nodes, n), append(all, n.addr)
	}
	began := time.Now()
	for i, n := range nodes {
		n.Set(n.config(all, fmt.Sprintf("172.16.%d.0/26", i), fmt.Sprintf("172.16.%d.64/26", i)))
	}
	for _, n := range nodes {
		n.await(time.Minute, "given all routes", func() bool { return len(n.routes()) == 2*(size-1) })
	}
	t.Logf("%d speakers know everything after %v", size, time.Since(began))
	for _, n := range nodes {
		n.await(5*time.Second, "synced", func() bool { return n.unsynced() == 0 })
		for _, s := range n.Sessions() {
			if s.Flaps != 0 {
				t.Errorf("%v: session fell: %+v", n.addr, s)
			}
		}
	}
}

// TestChurn changes what nodes announce and kills connections at random. When
// it ends, every node must know exactly what the others announce.
func TestChurn(t *testing.T) {
	const size, rounds = 15, 60
	ns := newNet(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var nodes []*node
	var all []netip.Addr
	announced := make([]map[string]bool, size)
	for i := range size {
		n := launch(t, ns, fmt.Sprintf("10.3.0.%d", i+1), Options{})
		nodes, all, announced[i] = append(nodes, n), append(all, n.addr), map[string]bool{}
	}
	set := func(i int) { nodes[i].Set(nodes[i].config(all, slices.Sorted(maps.Keys(announced[i]))...)) }
	for i := range size {
		set(i)
	}
	for range rounds {
		for range 3 {
			i := rng.IntN(size)
			block := fmt.Sprintf("172.16.%d.%d/26", i, rng.IntN(4)*64)
			if announced[i][block] {
				delete(announced[i], block)
			} else {
				announced[i][block] = true
			}
			set(i)
		}
		if rng.IntN(2) == 0 {
			reset(ns, all[rng.IntN(size)])
		}
	}
	for i, n := range nodes {
		want := map[netip.Prefix]netip.Addr{}
		for j, blocks := range announced {
			for block := range blocks {
				if i != j {
					want[pfx(block)] = all[j]
				}
			}
		}
		n.await(30*time.Second, fmt.Sprintf("knowing %v", want), func() bool { return maps.Equal(n.routes(), want) })
	}
}

// TestSet: a change concerns nobody but the peer it is about.
func TestSet(t *testing.T) {
	ns := newNet(t)
	a := launch(t, ns, "10.0.0.1", Options{})
	b := launch(t, ns, "10.0.0.2", Options{})
	c := launch(t, ns, "10.0.0.3", Options{})
	all := []netip.Addr{a.addr, b.addr, c.addr}
	for _, n := range []*node{a, b, c} {
		n.Set(n.config(all, fmt.Sprintf("172.16.%d.0/26", n.addr.As4()[3])))
	}
	for _, n := range []*node{a, b, c} {
		n.await(2*time.Second, "given all routes", func() bool { return len(n.routes()) == 2 })
	}
	same := a.config(all, "172.16.1.0/26")
	renamed := a.config(all, "172.16.1.0/26")
	renamed.Peers[0].Name = "other"
	for range 5 {
		a.Set(same)
		a.Set(renamed)
	}
	a.await(time.Second, "renamed", func() bool { return a.session(b.addr).Name == "other" })

	// The password changes on both ends: the session is made anew, silently.
	keyed := func(n *node, peer netip.Addr) speaker.Config {
		cfg := n.config(all, fmt.Sprintf("172.16.%d.0/26", n.addr.As4()[3]))
		for i := range cfg.Peers {
			if cfg.Peers[i].Addr == peer {
				cfg.Peers[i].Password = "quiet"
			}
		}
		return cfg
	}
	a.Set(keyed(a, b.addr))
	b.Set(keyed(b, a.addr))
	a.await(3*time.Second, "established with the key", func() bool {
		s := a.session(b.addr)
		return s.MD5 && s.Flaps == 1 && s.State == speaker.Established && !s.Stale
	})

	// c becomes a stranger to a.
	cfg := keyed(a, b.addr)
	cfg.Peers = cfg.Peers[:1]
	a.Set(cfg)
	a.await(time.Second, "without c's route", func() bool { return len(a.routes()) == 1 && len(a.Sessions()) == 1 })
	c.await(time.Second, "told", func() bool {
		return strings.Contains(c.session(a.addr).Reason, "peer deconfigured") && len(c.routes()) == 1
	})
	for _, s := range []speaker.Session{c.session(b.addr), b.session(c.addr)} {
		if s.Flaps != 0 {
			t.Errorf("session fell for a change that is not its: %+v", s)
		}
	}
	if s := a.session(b.addr); s.Flaps != 1 {
		t.Errorf("session of a with b fell: %+v", s)
	}
}

func TestASMismatch(t *testing.T) {
	ns := newNet(t)
	a := launch(t, ns, "10.0.0.1", Options{})
	b := launch(t, ns, "10.0.0.2", Options{})
	wrong := a.config([]netip.Addr{b.addr})
	wrong.Peers[0].AS = 64999
	a.Set(wrong)
	b.Set(b.config([]netip.Addr{a.addr}))
	a.await(2*time.Second, "told why", func() bool {
		return strings.Contains(a.session(b.addr).Reason, "its OPEN says AS 64512, configured is AS 64999")
	})
	b.await(2*time.Second, "told why", func() bool {
		return strings.Contains(b.session(a.addr).Reason, "peer closed: OPEN message error: bad peer AS")
	})
	a.Set(a.config([]netip.Addr{b.addr}))
	a.awaitUp(2*time.Second, b.addr)
}

func TestInvalidPeer(t *testing.T) {
	ns := newNet(t)
	a := launch(t, ns, "10.0.0.1", Options{})
	b := launch(t, ns, "10.0.0.2", Options{})
	cfg := a.config([]netip.Addr{b.addr})
	cfg.Peers[0].Password = strings.Repeat("x", 81)
	a.Set(cfg)
	b.Set(b.config([]netip.Addr{a.addr}))
	a.await(time.Second, "refused", func() bool {
		s := a.session(b.addr)
		return s.State == speaker.Idle && s.Reason == "MD5 password has 81 bytes, the kernel takes 80"
	})
	if a.established(b.addr) || b.established(a.addr) {
		t.Error("established all the same")
	}
	a.Set(a.config([]netip.Addr{b.addr}))
	a.awaitUp(2*time.Second, b.addr)
}

func TestListenMoves(t *testing.T) {
	ns := newNet(t)
	a, b := pair(t, ns)
	cfg := a.config([]netip.Addr{b.addr}, "172.16.1.0/26")
	cfg.Listen = netip.AddrPortFrom(a.addr, testPort+1)
	a.Set(cfg)
	a.await(time.Second, "listening elsewhere", func() bool {
		return strings.Contains(ns.Run("ss", "-Hltn", "src", cfg.Listen.String()), cfg.Listen.String())
	})
	if out := ns.Run("ss", "-Hltn", "src", fmt.Sprintf("%v:%d", a.addr, testPort)); out != "" {
		t.Errorf("old socket is still there: %s", out)
	}
	// The backlog holds a storm of peers.
	var recv, backlog int
	var state string
	if _, err := fmt.Sscan(ns.Run("ss", "-Hltn", "src", cfg.Listen.String()), &state, &recv, &backlog); err != nil || backlog < 1024 {
		t.Errorf("backlog %d (%v)", backlog, err)
	}
	if s := a.session(b.addr); s.Flaps != 0 {
		t.Errorf("session fell: %+v", s)
	}
}

func TestShutdown(t *testing.T) {
	a, b := pair(t, newNet(t))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	a.Shutdown(ctx, "node is drained")
	b.await(time.Second, "told", func() bool {
		return len(b.routes()) == 0 && strings.Contains(b.session(a.addr).Reason, "administrative shutdown")
	})
	if ctx.Err() != nil {
		t.Error("shutdown ended by its deadline")
	}
	if n := len(a.Sessions()); n != 0 {
		t.Errorf("%d sessions left", n)
	}
	a.Set(a.config([]netip.Addr{b.addr}))
	if n := len(a.Sessions()); n != 0 {
		t.Errorf("%d sessions after the shutdown", n)
	}
}
