// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/netns"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

const (
	testAS   = speaker.ASN(64512)
	testPort = 1790
)

// node is a Speaker in a test, on an address of a newNet.
type node struct {
	*Speaker
	t      testing.TB
	addr   netip.Addr
	cancel context.CancelFunc
	ended  chan struct{}

	mu      sync.Mutex
	change  chan struct{} // closed at the next OnChange
	changes int
}

// newNet is a namespace in which every address of 10.0.0.0/8 is local.
func newNet(t testing.TB) *nstest.NS {
	t.Helper()
	ns := nstest.New(t)
	ns.IP("route add local 10.0.0.0/8 dev lo")
	return ns
}

// launch runs a speaker in ns until the test ends.
func launch(t testing.TB, ns *nstest.NS, addr string, opts Options) *node {
	t.Helper()
	n := &node{t: t, addr: netip.MustParseAddr(addr), ended: make(chan struct{}), change: make(chan struct{})}
	if opts.Log == nil {
		opts.Log = slog.New(slog.NewTextHandler(&testLog{t: t}, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", addr)
	}
	opts.OnChange = n.onChange
	n.Speaker = New(opts)
	n.inside = func(f func() error) error { return netns.Do(ns.File(), f) }
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	go func() {
		defer close(n.ended)
		if err := n.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	t.Cleanup(n.kill)
	return n
}

// kill ends the speaker as a SIGTERM would.
func (n *node) kill() {
	n.cancel()
	<-n.ended
}

func (n *node) onChange() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.change)
	n.change = make(chan struct{})
	n.changes++
}

// await waits until ok, which is asked again after every change, and between
// times for what changes without one.
func (n *node) await(within time.Duration, what string, ok func() bool) {
	n.t.Helper()
	deadline := time.After(within)
	for {
		n.mu.Lock()
		change := n.change
		n.mu.Unlock()
		if ok() {
			return
		}
		select {
		case <-change:
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			n.t.Fatalf("%v: after %v still not %s; sessions %+v; learned %v", n.addr, within, what, n.Sessions(), n.prefixes())
		}
	}
}

func (n *node) session(peer netip.Addr) speaker.Session {
	for _, s := range n.Sessions() {
		if s.Peer == peer {
			return s
		}
	}
	return speaker.Session{}
}

func (n *node) established(peer netip.Addr) bool {
	return n.session(peer).State == speaker.Established
}

// unsynced is how many peers have not delivered their first full set.
func (n *node) unsynced() int {
	unsynced, _ := n.Unsynced()
	return len(unsynced)
}

func (n *node) awaitUp(within time.Duration, peer netip.Addr) {
	n.t.Helper()
	n.await(within, fmt.Sprintf("established with %v", peer), func() bool { return n.established(peer) })
}

// routes are the learned prefixes with their next hops.
func (n *node) routes() map[netip.Prefix]netip.Addr { return collect(n.Learned()) }

func collect(l cluster.Learned) map[netip.Prefix]netip.Addr {
	routes := map[netip.Prefix]netip.Addr{}
	for r := range l.All() {
		routes[r.Prefix] = r.NextHop
	}
	return routes
}

// prefixes are the learned prefixes for messages.
func (n *node) prefixes() string { return fmt.Sprint(n.routes()) }

// config is a mesh configuration: n speaks with others and has the blocks.
func (n *node) config(others []netip.Addr, blocks ...string) speaker.Config {
	cfg := speaker.Config{
		AS:       testAS,
		RouterID: n.addr,
		Listen:   netip.AddrPortFrom(n.addr, testPort),
		Complete: true,
	}
	for _, o := range others {
		if o != n.addr {
			cfg.Peers = append(cfg.Peers, speaker.Peer{
				Addr: o, Port: testPort, AS: testAS, Name: "node-" + o.String(), Kind: speaker.Mesh,
				LocalAddr:   n.addr,
				Hold:        speaker.DefaultHold,
				Keepalive:   speaker.DefaultKeepalive,
				RestartTime: speaker.DefaultRestartTime,
			})
		}
	}
	for _, b := range blocks {
		cfg.Advertise = append(cfg.Advertise, speaker.Advertisement{Prefix: netip.MustParsePrefix(b), NextHop: n.addr})
	}
	return cfg
}

// testLog writes log lines into the test's log.
type testLog struct {
	t  testing.TB
	mu sync.Mutex
}

func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}
