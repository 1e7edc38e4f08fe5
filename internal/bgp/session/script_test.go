// SPDX-License-Identifier: Apache-2.0

package session

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

var (
	low    = netip.MustParseAddr("10.0.0.1")
	middle = netip.MustParseAddr("10.0.0.2")
	high   = netip.MustParseAddr("10.0.0.3")
)

// ours is the configuration of most tests: we are middle.
func ours() Config {
	return Config{
		LocalAS: 64512, PeerAS: 64512, RouterID: middle,
		Hold: 90 * time.Second, Keepalive: 10 * time.Second, RestartTime: 120 * time.Second,
	}
}

// openOf is an OPEN as another of our speakers sends it.
func openOf(id netip.Addr) *message.Open {
	return &message.Open{
		AS: 64512, HoldTime: 90, RouterID: id,
		Capabilities: message.Capabilities{
			Families:     []message.Family{message.IPv4Unicast},
			RouteRefresh: true,
			AS4:          true,
			Restart: &message.GracefulRestart{
				Notification: true, Time: 120,
				Families: []message.RestartFamily{{Family: message.IPv4Unicast, Forwarding: true}},
			},
		},
	}
}

// with changes an OPEN.
func with(o *message.Open, change func(*message.Open)) *message.Open {
	change(o)
	return o
}

// script plays events to an FSM and compares what it asks for.
type script struct {
	t   *testing.T
	f   *FSM
	now time.Time
}

func play(t *testing.T, cfg Config) *script {
	return &script{t: t, f: New(cfg, false, rand.New(rand.NewPCG(1, 2))), now: time.Unix(1000, 0)}
}

// on gives an event; want are the actions, as printed by say.
func (s *script) on(ev Event, want ...string) {
	s.t.Helper()
	var got []string
	for _, a := range s.f.Step(ev, s.now) {
		got = append(got, say(a))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		s.t.Fatalf("%T %+v in %v: actions (-want +got):\n%s", ev, ev, s.f.State(), diff)
	}
}

// after lets time pass.
func (s *script) after(d time.Duration) { s.now = s.now.Add(d) }

// due lets time pass until the FSM wants a tick, which must be within about d.
func (s *script) due(d time.Duration, want ...string) {
	s.t.Helper()
	at := s.f.Deadline()
	if wait := at.Sub(s.now); at.IsZero() || wait > d || wait < d*3/4 {
		s.t.Fatalf("deadline is %v away, want about %v", wait, d)
	}
	s.now = at
	s.on(Tick{}, want...)
}

func (s *script) state(want speaker.SessionState) {
	s.t.Helper()
	if got := s.f.State(); got != want {
		s.t.Fatalf("state %v, want %v", got, want)
	}
}

func (s *script) reason(want string) {
	s.t.Helper()
	if got := s.f.Reason(); got != want {
		s.t.Fatalf("reason\n%q, want\n%q", got, want)
	}
}

// msg is a Received.
func msg(id ConnID, m message.Message) Event { return Received{Conn: id, Msg: m} }

var (
	keepalive = &message.Keepalive{}
	endOfRIB  = &message.Update{EndOfRIB: true}
)

// establish brings the session up on connection id, which we dial.
func (s *script) establish(id ConnID, peer *message.Open) {
	s.t.Helper()
	s.on(Start{}, "dial")
	s.on(Dialed{id}, fmt.Sprintf("send %d OPEN", id))
	s.confirm(id, peer)
}

// confirm goes on from OpenSent.
func (s *script) confirm(id ConnID, peer *message.Open, before ...string) {
	s.t.Helper()
	s.on(msg(id, peer), fmt.Sprintf("send %d KEEPALIVE", id), fmt.Sprintf("keepalives %d 10s", id))
	s.on(msg(id, keepalive), append(before, fmt.Sprintf("up %d", id))...)
	s.state(speaker.Established)
}

// say prints an action.
func say(a Action) string {
	switch a := a.(type) {
	case Dial:
		return "dial"
	case CancelDial:
		return "cancel dial"
	case Send:
		if n, ok := a.Msg.(*message.Notification); ok {
			return fmt.Sprintf("send %d %v", a.Conn, n)
		}
		return fmt.Sprintf("send %d %v", a.Conn, a.Msg.Type())
	case Keepalives:
		return fmt.Sprintf("keepalives %d %v", a.Conn, a.Every)
	case Close:
		return fmt.Sprintf("close %d", a.Conn)
	case Up:
		return fmt.Sprintf("up %d", a.Params.Conn)
	case Down:
		if a.KeepStale {
			return fmt.Sprintf("down %d keep", a.Conn)
		}
		return fmt.Sprintf("down %d", a.Conn)
	case DropStale:
		return "drop stale"
	case Learn:
		return "learn"
	case Readvertise:
		return fmt.Sprintf("readvertise %d", a.Conn)
	case Synced:
		return "synced"
	}
	return strings.ToLower(fmt.Sprintf("%T", a))
}
