// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/netns"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/speaker"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// raw is a peer made by hand.
type raw struct {
	net.Conn
	t testing.TB
}

// connect connects from an address to a speaker.
func connect(t testing.TB, ns *nstest.NS, from, to netip.Addr) *raw {
	t.Helper()
	var c net.Conn
	err := netns.Do(ns.File(), func() (err error) {
		d := net.Dialer{
			LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)),
			Timeout:   5 * time.Second,
			Control: onSocket(func(fd int) error {
				return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096)
			}),
		}
		c, err = d.Dial("tcp4", netip.AddrPortFrom(to, testPort).String())
		return err
	})
	if err != nil {
		t.Fatalf("connect %v to %v: %v", from, to, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	return &raw{Conn: c, t: t}
}

func (r *raw) say(m message.Message) {
	r.t.Helper()
	if _, err := r.Write(encode(r.t, m)); err != nil {
		r.t.Fatalf("write %v: %v", m.Type(), err)
	}
}

// establish shakes hands as the peer with this identifier.
func (r *raw) establish(id netip.Addr, hold uint16) {
	r.t.Helper()
	r.say(&message.Open{AS: testAS, HoldTime: hold, RouterID: id, Capabilities: message.Capabilities{
		Families: []message.Family{message.IPv4Unicast}, AS4: true, RouteRefresh: true,
	}})
	r.say(&message.Keepalive{})
	for _, want := range []message.Type{message.TypeOpen, message.TypeKeepalive} {
		if typ, _, err := readMessage(r); typ != want || err != nil {
			r.t.Fatalf("got %v, %v, want %v", typ, err, want)
		}
	}
}

// victim is a speaker with a good peer and one made by hand, which it does not
// dial.
func victim(t testing.TB, ns *nstest.NS, opts Options, hold time.Duration, blocks ...string) (a, good *node, bad netip.Addr) {
	t.Helper()
	a = launch(t, ns, "10.0.0.1", opts)
	good = launch(t, ns, "10.0.0.2", Options{})
	bad = netip.MustParseAddr("10.0.0.66")
	cfg := a.config([]netip.Addr{good.addr, bad}, blocks...)
	cfg.Peers[1].Passive, cfg.Peers[1].Hold = true, hold
	a.Set(cfg)
	good.Set(good.config([]netip.Addr{a.addr}, "172.31.0.0/26"))
	a.awaitUp(2*time.Second, good.addr)
	good.awaitUp(2*time.Second, a.addr)
	return a, good, bad
}

// TestGarbage sends what no peer should in every state. The speaker and its
// other session must not notice, and the peer is served when it behaves.
func TestGarbage(t *testing.T) {
	ns := newNet(t)
	a, good, bad := victim(t, ns, Options{}, 90*time.Second, "172.16.1.0/26")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	update := encode(t, &message.Update{
		NLRI:  []netip.Prefix{pfx("172.16.9.0/26")},
		Attrs: &message.Attrs{NextHop: bad, LocalPref: 100, HasLocalPref: true},
	})
	for i := range 300 {
		r := connect(t, ns, bad, a.addr)
		if i%3 > 0 {
			r.establish(bad, 90)
		}
		for range 1 + rng.IntN(5) {
			b := noise(rng, update, i%2 == 0)
			if _, err := r.Write(b); err != nil {
				break // it hung up on us, and rightly
			}
		}
		_ = r.Close()
	}
	if s := good.session(a.addr); s.State != speaker.Established || s.Flaps != 0 {
		t.Errorf("good session suffered: %+v", s)
	}
	r := connect(t, ns, bad, a.addr)
	r.establish(bad, 90)
	if _, err := r.Write(update); err != nil {
		t.Fatal(err)
	}
	a.await(2*time.Second, "given a good route of the bad peer", func() bool { return a.routes()[pfx("172.16.9.0/26")] == bad })
	if s := a.session(bad); strings.Contains(s.Reason, "internal error") {
		t.Errorf("quarantined: %+v", s)
	}
}

// noise is bytes without sense, or an UPDATE with some of them in it.
func noise(rng *rand.Rand, update []byte, sensible bool) []byte {
	if !sensible {
		b := make([]byte, rng.IntN(200))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		if len(b) > message.HeaderLen { // gets past the header now and then
			for i := range 16 {
				b[i] = 0xff
			}
			binary.BigEndian.PutUint16(b[16:], uint16(len(b)))
			b[18] = byte(rng.IntN(7))
		}
		return b
	}
	b := append([]byte(nil), update...)
	for range 1 + rng.IntN(4) {
		b[message.HeaderLen+rng.IntN(len(b)-message.HeaderLen)] = byte(rng.Uint32())
	}
	return b
}

// TestSlowReader: a peer that does not read delays nobody, and loses its
// session after the hold time.
func TestSlowReader(t *testing.T) {
	record := chaos.Begin(t, "C25", "a peer reads nothing and asks for everything again and again", "others are told in < 2 s, its session ends by the hold time (3 s)")
	ns := newNet(t)
	var blocks []string
	for i := range 16384 {
		blocks = append(blocks, fmt.Sprintf("172.%d.%d.%d/32", 16+i>>12, i>>4&0xff, i<<4&0xff))
	}
	a, good, bad := victim(t, ns, Options{}, 3*time.Second, blocks...)
	r := connect(t, ns, bad, a.addr)
	r.establish(bad, 3)
	a.awaitUp(time.Second, bad)
	good.await(20*time.Second, "given all routes", func() bool { return len(good.routes()) == len(blocks) })

	// Refreshes fill every buffer between the two; keepalives go on.
	began, pace := time.Now(), time.NewTicker(100*time.Millisecond)
	defer pace.Stop()
	var slowest time.Duration
	keepalive, refresh := encode(t, &message.Keepalive{}), encode(t, &message.RouteRefresh{Family: message.IPv4Unicast})
	for a.established(bad) {
		if time.Since(began) > 30*time.Second {
			t.Fatal("a peer that does not read is still Established")
		}
		for range 20 {
			_, _ = r.Write(refresh)
		}
		_, _ = r.Write(keepalive)
		// Meanwhile the good peer is told at once.
		extra := fmt.Sprintf("172.30.%d.0/26", time.Since(began)/time.Second)
		cfg := a.config([]netip.Addr{good.addr, bad}, append(blocks, extra)...)
		cfg.Peers[1].Passive, cfg.Peers[1].Hold = true, 3*time.Second
		a.Set(cfg)
		asked := time.Now()
		good.await(2*time.Second, "told", func() bool { return good.routes()[pfx(extra)].IsValid() })
		slowest = max(slowest, time.Since(asked))
		<-pace.C
	}
	if s := a.session(bad); !strings.Contains(s.Reason, "peer took no data for the hold time") {
		t.Errorf("reason %q", s.Reason)
	}
	record.Measuredf("another peer told of changes in %d ms at most; the slow one's session ended after %.1f s", slowest.Milliseconds(), time.Since(began).Seconds())
	if s := good.session(a.addr); s.Flaps != 0 {
		t.Errorf("good session suffered: %+v", s)
	}
}

// TestStrangers: connections from unknown addresses end at once and fill no
// log.
func TestStrangers(t *testing.T) {
	flood := chaos.Scale(500, 4000)
	record := chaos.Begin(t, "C24", fmt.Sprintf("%d connections from an unknown address", flood), "less than 20 kB of log, peers unaffected")
	ns := newNet(t)
	var log logSize
	a, good, _ := victim(t, ns, Options{Log: slog.New(slog.NewTextHandler(&log, nil))}, 90*time.Second)
	before := log.Load()
	stranger := netip.MustParseAddr("10.9.9.9")
	began := time.Now()
	for range flood {
		c := connect(t, ns, stranger, a.addr)
		if n, err := io.Copy(io.Discard, c); n > 0 || err != nil && !strings.Contains(err.Error(), "reset") {
			t.Fatalf("stranger was told %d bytes, %v", n, err)
		}
		_ = c.Close()
	}
	n := log.Load() - before
	record.Measuredf("%d bytes of log in %.1f s, %d sessions of peers fell", n, time.Since(began).Seconds(), good.session(a.addr).Flaps)
	if n == 0 || n > 20_000 || good.session(a.addr).Flaps != 0 {
		t.Errorf("%d bytes of log about %d strangers; %+v", n, flood, good.session(a.addr))
	}
}

// logSize is a log of which only the length in bytes matters.
type logSize struct{ atomic.Int64 }

func (c *logSize) Write(p []byte) (int, error) {
	c.Add(int64(len(p)))
	return len(p), nil
}

// TestQuarantine: a panic in what serves a peer ends that session alone.
func TestQuarantine(t *testing.T) {
	ns := newNet(t)
	a, good, bad := victim(t, ns, Options{}, 90*time.Second)
	r := connect(t, ns, bad, a.addr)
	r.establish(bad, 90)
	r.say(&message.Update{
		NLRI:  []netip.Prefix{pfx("172.16.9.0/26")},
		Attrs: &message.Attrs{NextHop: bad, LocalPref: 100, HasLocalPref: true},
	})
	a.await(2*time.Second, "given the route", func() bool { return a.routes()[pfx("172.16.9.0/26")] == bad })
	a.Speaker.mu.Lock()
	p := a.peers[bad]
	a.Speaker.mu.Unlock()
	p.frames <- frame{conn: 1, err: &panicked{value: "test", stack: []byte("stack")}}
	a.await(time.Second, "in quarantine", func() bool {
		s := a.session(bad)
		return s.State == speaker.Idle && s.Reason == "internal error: test; quarantined" && len(a.routes()) == 1
	})
	if s := good.session(a.addr); s.State != speaker.Established || s.Flaps != 0 {
		t.Errorf("good session suffered: %+v", s)
	}
	// The operator may not want to wait.
	cfg := a.config([]netip.Addr{good.addr, bad})
	cfg.Peers[1].Passive, cfg.Peers[1].Name = true, "mended"
	a.Set(cfg)
	a.await(time.Second, "mended", func() bool { return a.session(bad).Name == "mended" })
	r = connect(t, ns, bad, a.addr)
	r.establish(bad, 90)
	a.awaitUp(time.Second, bad)
}

// TestSilentCrash: a peer whose host crashed told nobody. When it is back, its
// old connection must not keep it away until the hold timer.
func TestSilentCrash(t *testing.T) {
	ns := newNet(t)
	a, _, bad := victim(t, ns, Options{}, 90*time.Second)
	first := connect(t, ns, bad, a.addr)
	first.establish(bad, 90)
	a.awaitUp(time.Second, bad)
	second := connect(t, ns, bad, a.addr) // the first stays open
	second.establish(bad, 90)
	a.await(time.Second, "on the second connection", func() bool {
		s := a.session(bad)
		return s.State == speaker.Established && s.Flaps == 1
	})
	if _, _, err := readMessage(first); err == nil {
		_, err = io.Copy(io.Discard, first)
		if err != nil {
			t.Errorf("first connection: %v", err)
		}
	}
	if why := a.session(bad).Reason; !strings.Contains(why, "came back on a new connection") {
		t.Errorf("reason %q", why)
	}
}

// TestGuard: whatever a peer's goroutine does, a panic in it stays there.
func TestGuard(t *testing.T) {
	s := New(Options{Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.ctx = ctx
	p := newPeer(s, peerConfig{peer: speaker.Peer{Addr: netip.MustParseAddr("10.0.0.2")}})
	p.guard(func() { panic("test") })
	if v := p.view.Load(); v.session.Reason != "" {
		t.Errorf("published %+v already", v)
	}
	p.publish()
	if v := p.view.Load(); v.session.Reason != "internal error: test; quarantined" || v.session.State != speaker.Idle {
		t.Errorf("published %+v", v)
	}
	p.quarantined = time.Now().Add(-time.Second)
	p.tick()
	if p.trouble != "" {
		t.Errorf("still kept down: %s", p.trouble)
	}
}
