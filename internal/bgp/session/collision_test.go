// SPDX-License-Identifier: Apache-2.0

package session

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

const collided = "cease: connection collision resolution"

// both brings an FSM to two connections in OpenSent: 1 dialled, 2 accepted.
func both(t *testing.T) *script {
	s := play(t, ours())
	s.on(Start{}, "dial")
	s.on(Accepted{2}, "send 2 OPEN")
	s.on(Dialed{1}, "send 1 OPEN")
	return s
}

func TestCollision(t *testing.T) {
	tests := []struct {
		name string
		play func(*script)
		up   ConnID
	}{
		// The peer is higher: its connection is to stay, once it shows that
		// it has not dropped it.
		{"low, OPEN on the peer's first", func(s *script) {
			s.on(msg(2, openOf(high)), "send 2 KEEPALIVE", "keepalives 2 10s")
			s.on(msg(1, openOf(high)), "send 1 "+collided, "close 1")
			s.on(msg(2, keepalive), "up 2")
		}, 2},
		{"low, OPEN on ours first", func(s *script) {
			s.on(msg(1, openOf(high)), "send 1 KEEPALIVE", "keepalives 1 10s")
			s.on(msg(2, openOf(high)), "send 1 "+collided, "close 1", "send 2 KEEPALIVE", "keepalives 2 10s")
			s.on(msg(2, keepalive), "up 2")
		}, 2},
		{"low, the peer dropped its own", func(s *script) {
			s.on(msg(1, openOf(high)), "send 1 KEEPALIVE", "keepalives 1 10s")
			s.on(msg(1, keepalive), "send 2 "+collided, "close 2", "up 1")
		}, 1},
		// The peer is lower: ours stays, and nothing is confirmed on the other.
		{"high, OPEN on ours first", func(s *script) {
			s.on(msg(1, openOf(low)), "send 1 KEEPALIVE", "keepalives 1 10s")
			s.on(msg(2, openOf(low)), "send 2 "+collided, "close 2")
			s.on(msg(1, keepalive), "up 1")
		}, 1},
		{"high, OPEN on the peer's first", func(s *script) {
			s.on(msg(2, openOf(low)), "send 2 "+collided, "close 2")
			s.on(msg(1, openOf(low)), "send 1 KEEPALIVE", "keepalives 1 10s")
			s.on(msg(1, keepalive), "up 1")
		}, 1},
		{"high, the other is gone by itself", func(s *script) {
			s.on(Lost{2, "reset"}, "close 2")
			s.on(msg(1, openOf(low)), "send 1 KEEPALIVE", "keepalives 1 10s")
			s.on(msg(1, keepalive), "up 1")
		}, 1},
		{"the loser is told by the peer", func(s *script) {
			s.on(msg(2, openOf(high)), "send 2 KEEPALIVE", "keepalives 2 10s")
			s.on(msg(1, collision), "close 1")
			s.reason("")
			s.on(msg(2, keepalive), "up 2")
		}, 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := both(t)
			test.play(s)
			if p, ok := s.f.Params(); !ok || p.Conn != test.up || len(s.f.conns) != 1 {
				t.Errorf("session on %d with %d connections", p.Conn, len(s.f.conns))
			}
			s.reason("")
		})
	}
}

func TestCollisionWithDialUnderWay(t *testing.T) {
	s := play(t, ours())
	s.on(Start{}, "dial")
	s.on(Accepted{1}, "send 1 OPEN")
	s.on(msg(1, openOf(low)), "cancel dial", "send 1 KEEPALIVE", "keepalives 1 10s")
	s.on(Dialed{2}, "close 2") // too late to be taken back
	s.on(msg(1, keepalive), "up 1")
}

// TestCollisionEqualIdentifiers: between two AS the higher AS decides.
func TestCollisionEqualIdentifiers(t *testing.T) {
	cfg := ours()
	cfg.PeerAS = 65000
	s := play(t, cfg)
	open := with(openOf(middle), func(o *message.Open) { o.AS = 65000 })
	s.on(Start{}, "dial")
	s.on(Accepted{2}, "send 2 OPEN")
	s.on(Dialed{1}, "send 1 OPEN")
	s.on(msg(1, open), "send 1 KEEPALIVE", "keepalives 1 10s")
	s.on(msg(2, open), "send 1 "+collided, "close 1", "send 2 KEEPALIVE", "keepalives 2 10s")
}

// TestRejectedDials: a peer that closes what we dial without a word must not
// make us refuse what it dials.
func TestRejectedDials(t *testing.T) {
	s := both(t)
	s.on(Lost{1, "closed"}, "close 1")
	s.due(retryMin, "dial")
	s.on(Dialed{3}, "send 3 OPEN")
	s.on(msg(2, openOf(low)), "send 2 KEEPALIVE", "keepalives 2 10s")
	s.on(msg(2, keepalive), "send 3 "+collided, "close 3", "up 2")
}

func TestSecondConnectionOfPeer(t *testing.T) {
	s := play(t, ours())
	s.on(Start{}, "dial")
	s.on(Accepted{1}, "send 1 OPEN")
	s.on(msg(1, openOf(high)), "cancel dial", "send 1 KEEPALIVE", "keepalives 1 10s")
	s.on(Accepted{2}, "close 1", "send 2 OPEN")
	s.due(retryMin, "dial") // the peer may not mean it
	s.on(msg(2, openOf(high)), "cancel dial", "send 2 KEEPALIVE", "keepalives 2 10s")
	s.on(msg(2, keepalive), "up 2")
}

// TestReplace is RFC 4724 section 4.2: a peer that comes back from a restart
// while its old connection still looks alive.
func TestReplace(t *testing.T) {
	s := play(t, ours())
	s.establish(1, openOf(high))
	s.on(Accepted{2}, "send 2 OPEN")
	s.state(speaker.Established)
	s.on(msg(2, openOf(high)), "send 2 KEEPALIVE", "keepalives 2 10s")
	s.on(msg(1, &message.Update{}), "learn")
	s.state(speaker.Established)
	s.on(msg(2, keepalive), "close 1", "down 1 keep", "up 2")
	s.on(msg(2, endOfRIB), "learn", "drop stale", "synced")

	// The newcomer comes to nothing: the session stays.
	s.on(Accepted{3}, "send 3 OPEN")
	s.on(Lost{3, "reset"}, "close 3")
	s.on(Accepted{4}, "send 4 OPEN")
	s.on(msg(4, with(openOf(high), func(o *message.Open) { o.AS = 1 })),
		"send 4 OPEN message error: bad peer AS: its OPEN says AS 1, configured is AS 64512", "close 4")
	s.state(speaker.Established)

	// The old connection ends while the newcomer is under way.
	s.on(Accepted{5}, "send 5 OPEN")
	s.after(time.Minute)
	s.on(Lost{2, "reset"}, "close 2", "down 2 keep")
	s.confirm(5, openOf(high))
}

// TestReplaceWithoutGracefulRestart: the same, but nothing is kept.
func TestReplaceWithoutGracefulRestart(t *testing.T) {
	s := play(t, ours())
	plain := with(openOf(high), func(o *message.Open) { o.Capabilities.Restart = nil })
	s.establish(1, plain)
	s.on(Accepted{2}, "send 2 OPEN")
	s.on(msg(2, plain), "send 2 KEEPALIVE", "keepalives 2 10s")
	s.on(msg(2, keepalive), "close 1", "down 1", "up 2")
}

// world is two FSMs and the network between them.
type world struct {
	t     *testing.T
	rng   *rand.Rand
	now   time.Time
	ends  [2]*end
	conns int
	trace []string
}

// end is one speaker: its FSM and what is on its way to it. Messages of one
// connection stay in order, everything else may overtake.
type end struct {
	f       *FSM
	inbox   map[int][]Event // by connection
	dialing int             // the connection last dialled
}

func newWorld(t *testing.T, seed uint64, restart time.Duration) *world {
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 0)), now: time.Unix(1000, 0)}
	for i := range w.ends {
		cfg := ours()
		cfg.RouterID, cfg.RestartTime = low, restart
		if i == 1 {
			cfg.RouterID = high
		}
		w.ends[i] = &end{f: New(cfg, false, w.rng), inbox: map[int][]Event{}}
	}
	return w
}

// step gives end i an event and puts what follows from it on its way.
func (w *world) step(i int, ev Event) {
	e, far := w.ends[i], w.ends[1-i]
	w.trace = append(w.trace, fmt.Sprintf("%d %v %T%+v", i, e.f.State(), ev, ev))
	for _, a := range e.f.Step(ev, w.now) {
		w.trace = append(w.trace, fmt.Sprintf("    %s", say(a)))
		switch a := a.(type) {
		case Dial:
			w.conns++
			id := ConnID(w.conns)
			e.dialing = w.conns
			e.inbox[w.conns] = append(e.inbox[w.conns], Dialed{id})
			far.inbox[w.conns] = append(far.inbox[w.conns], Accepted{id})
		case CancelDial:
			delete(e.inbox, e.dialing)
			far.inbox[e.dialing] = append(far.inbox[e.dialing], Lost{ConnID(e.dialing), "cancelled"})
		case Send:
			far.inbox[int(a.Conn)] = append(far.inbox[int(a.Conn)], msg(a.Conn, a.Msg))
		case Close:
			delete(e.inbox, int(a.Conn))
			far.inbox[int(a.Conn)] = append(far.inbox[int(a.Conn)], Lost{a.Conn, "closed"})
		}
	}
}

// deliver picks something that is under way, at random; false when nothing is.
func (w *world) deliver() bool {
	type choice struct{ end, conn int }
	var choices []choice
	for i, e := range w.ends {
		for conn, evs := range e.inbox {
			if len(evs) > 0 {
				choices = append(choices, choice{i, conn})
			}
		}
	}
	if len(choices) == 0 {
		return false
	}
	slices.SortFunc(choices, func(a, b choice) int { return cmp.Or(a.end-b.end, a.conn-b.conn) })
	w.now = w.now.Add(time.Microsecond)
	c := choices[w.rng.IntN(len(choices))]
	e := w.ends[c.end]
	ev := e.inbox[c.conn][0]
	e.inbox[c.conn] = e.inbox[c.conn][1:]
	w.step(c.end, ev)
	return true
}

// settle runs until both ends agree on one session, for a simulated second at
// most.
func (w *world) settle() {
	w.t.Helper()
	limit := w.now.Add(time.Second)
	for {
		for w.deliver() {
		}
		a, okA := w.ends[0].f.Params()
		b, okB := w.ends[1].f.Params()
		if okA && okB && a.Conn == b.Conn {
			return
		}
		next := earlier(w.ends[0].f.Deadline(), w.ends[1].f.Deadline())
		if next.IsZero() || next.After(limit) {
			w.fail("no common session within 1s: %v on %d, %v on %d", w.ends[0].f.State(), a.Conn, w.ends[1].f.State(), b.Conn)
		}
		w.now = next
		for i := range w.ends {
			w.step(i, Tick{})
		}
	}
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	for _, line := range w.trace {
		w.t.Log(line)
	}
	w.t.Fatalf(format, args...)
}

// TestTwoEnds starts two speakers at once, with every order of events that
// chance finds, and again after losses: they must agree on one session, and a
// session both agreed on must not fall by itself.
func TestTwoEnds(t *testing.T) {
	falls := 0
	for seed := range uint64(20000) {
		w := newWorld(t, seed, time.Duration(seed%2)*2*time.Minute)
		w.step(0, Start{})
		w.step(1, Start{})
		w.settle()
		for w.deliver() {
		}
		falls += w.falls()
		p, _ := w.ends[0].f.Params()
		for i := range w.ends { // the network loses the connection
			w.ends[i].inbox[int(p.Conn)] = append(w.ends[i].inbox[int(p.Conn)], Lost{p.Conn, "reset"})
		}
		w.now = w.now.Add(time.Minute)
		for w.deliver() {
		}
		w.settle()
	}
	if falls > 0 {
		t.Errorf("%d sessions fell by themselves", falls)
	}
}

// falls counts the sessions that went down so far.
func (w *world) falls() (n int) {
	for _, line := range w.trace {
		if len(line) > 8 && line[4:8] == "down" {
			n++
		}
	}
	return n
}
