// SPDX-License-Identifier: Apache-2.0

package session

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/speaker"
	"github.com/ocicat-net/ocicat/test/chaos"
)

func TestEstablish(t *testing.T) {
	s := play(t, ours())
	s.state(speaker.Idle)
	s.on(Start{}, "dial")
	s.state(speaker.Connect)
	s.on(Dialed{1}, "send 1 OPEN")
	s.state(speaker.OpenSent)
	s.on(msg(1, openOf(high)), "send 1 KEEPALIVE", "keepalives 1 10s")
	s.state(speaker.OpenConfirm)
	s.on(msg(1, keepalive), "up 1")
	s.state(speaker.Established)
	s.on(msg(1, &message.Update{}), "learn")
	s.on(msg(1, endOfRIB), "learn", "synced")
	s.on(msg(1, endOfRIB), "learn")
	s.on(msg(1, &message.RouteRefresh{Family: message.IPv4Unicast}), "readvertise 1")
	s.on(msg(1, &message.RouteRefresh{Family: message.IPv4Unicast, Subtype: 1}))
	s.on(msg(1, &message.RouteRefresh{Family: message.Family{AFI: 2, SAFI: 1}}))
	s.reason("")
}

func TestEstablishAccepted(t *testing.T) {
	cfg := ours()
	cfg.Passive = true
	s := play(t, cfg)
	s.on(Accepted{1}, "close 1") // not started
	s.on(Start{})
	s.state(speaker.Active)
	s.on(Accepted{2}, "send 2 OPEN")
	s.confirm(2, openOf(high))
	s.after(time.Minute)
	s.on(Lost{2, "gone"}, "close 2", "down 2 keep")
	s.state(speaker.Active)
}

func TestOpenMessage(t *testing.T) {
	f := play(t, ours()).f
	want := &message.Open{
		AS: 64512, HoldTime: 90, RouterID: middle,
		Capabilities: message.Capabilities{
			Families: []message.Family{message.IPv4Unicast}, RouteRefresh: true, AS4: true,
			Restart: &message.GracefulRestart{
				Notification: true, Time: 120,
				Families: []message.RestartFamily{{Family: message.IPv4Unicast}},
			},
		},
	}
	if diff := cmp.Diff(want, f.openMessage(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("OPEN (-want +got):\n%s", diff)
	}
}

func TestNegotiate(t *testing.T) {
	type caps = message.Capabilities
	tests := []struct {
		name  string
		cfg   func(*Config)
		open  func(*message.Open)
		want  Params
		wrong string
	}{
		{name: "equal", want: Params{Hold: 90 * time.Second, Keepalive: 10 * time.Second, RouteRefresh: true,
			Message: message.Options{AS4: true, Internal: true}, Restart: Restart{Time: 120 * time.Second, Forwarding: true, Notification: true}}},
		{name: "no capabilities", open: func(o *message.Open) { o.Capabilities = caps{} },
			want: Params{Hold: 90 * time.Second, Keepalive: 10 * time.Second, Message: message.Options{Internal: true}}},
		{name: "short hold", open: func(o *message.Open) { o.HoldTime = 9 },
			want: Params{Hold: 9 * time.Second, Keepalive: 3 * time.Second, RouteRefresh: true,
				Message: message.Options{AS4: true, Internal: true}, Restart: Restart{Time: 120 * time.Second, Forwarding: true, Notification: true}}},
		{name: "no hold", open: func(o *message.Open) { o.HoldTime = 0; o.Capabilities.Restart = nil },
			want: Params{RouteRefresh: true, Message: message.Options{AS4: true, Internal: true}}},
		{name: "our graceful restart off", cfg: func(c *Config) { c.RestartTime = 0 },
			want: Params{Hold: 90 * time.Second, Keepalive: 10 * time.Second, RouteRefresh: true, Message: message.Options{AS4: true, Internal: true}}},
		{name: "graceful restart of another family", open: func(o *message.Open) { o.Capabilities.Restart.Families[0].Family.AFI = message.AFIIPv6 },
			want: Params{Hold: 90 * time.Second, Keepalive: 10 * time.Second, RouteRefresh: true, Message: message.Options{AS4: true, Internal: true}}},
		{name: "external with our identifier", cfg: func(c *Config) { c.PeerAS = 65001 },
			open: func(o *message.Open) { o.AS, o.RouterID, o.Capabilities.Restart = 65001, middle, nil },
			want: Params{AS: 65001, RouterID: middle, Hold: 90 * time.Second, Keepalive: 10 * time.Second, RouteRefresh: true, Message: message.Options{AS4: true}}},
		{name: "another AS", open: func(o *message.Open) { o.AS = 64513 },
			wrong: "OPEN message error: bad peer AS: its OPEN says AS 64513, configured is AS 64512"},
		{name: "our identifier", open: func(o *message.Open) { o.RouterID = middle },
			wrong: "OPEN message error: bad BGP identifier: its BGP identifier 10.0.0.2 is ours, too"},
		{name: "IPv6 only", open: func(o *message.Open) { o.Capabilities.Families[0].AFI = message.AFIIPv6 },
			wrong: "OPEN message error: unsupported capability: it does not speak IPv4 unicast"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cfg, open := ours(), openOf(high)
			if test.cfg != nil {
				test.cfg(&cfg)
			}
			if test.open != nil {
				test.open(open)
			}
			s := play(t, cfg)
			got, wrong := s.f.negotiate(open)
			if test.wrong != "" {
				if wrong == nil || wrong.Error() != test.wrong {
					t.Fatalf("refused with %v, want %s", wrong, test.wrong)
				}
				s.on(Start{}, "dial")
				s.on(Dialed{1}, "send 1 OPEN")
				s.on(msg(1, open), "send 1 "+test.wrong, "close 1")
				s.reason("we closed: " + test.wrong)
				return
			}
			if test.want.AS == 0 {
				test.want.AS, test.want.RouterID = 64512, high
			}
			if wrong != nil || got != test.want {
				t.Errorf("negotiated %+v, %v\nwant %+v", got, wrong, test.want)
			}
		})
	}
}

// TestUnexpected gives every message to every state it does not belong into.
func TestUnexpected(t *testing.T) {
	all := []message.Message{openOf(high), &message.Update{}, &message.Keepalive{}, &message.RouteRefresh{}}
	reach := map[speaker.SessionState]func(*script){
		speaker.OpenSent: func(s *script) {
			s.on(Start{}, "dial")
			s.on(Dialed{1}, "send 1 OPEN")
		},
		speaker.OpenConfirm: func(s *script) {
			s.on(Start{}, "dial")
			s.on(Dialed{1}, "send 1 OPEN")
			s.on(msg(1, openOf(high)), "send 1 KEEPALIVE", "keepalives 1 10s")
		},
		speaker.Established: func(s *script) { s.establish(1, openOf(high)) },
	}
	for state, get := range reach {
		for _, m := range all {
			if handlers[state].on[m.Type()] != nil {
				continue
			}
			t.Run(string(state)+" "+m.Type().String(), func(t *testing.T) {
				s := play(t, ours())
				get(s)
				want := []string{"send 1 finite state machine error: unexpected message in " + string(state) + ": " + m.Type().String(), "close 1"}
				if state == speaker.Established {
					want = append(want, "down 1 keep")
				}
				s.on(msg(1, m), want...)
				s.state(speaker.Active)
			})
		}
	}
}

func TestNotificationReceived(t *testing.T) {
	tests := []struct {
		name   string
		n      *message.Notification
		keep   bool
		reason string
	}{
		{"shutdown", message.Shutdown(message.AdminShutdown, "maintenance"), true, `peer closed: cease: administrative shutdown: "maintenance"`},
		{"hard reset", message.Hard(message.Shutdown(message.AdminShutdown, "bye")), false, `peer closed: cease: hard reset: cease: administrative shutdown: "bye"`},
		{"hold timer", &message.Notification{Code: message.HoldTimerExpired}, true, "peer closed: hold timer expired"},
		{"header error of number 9", &message.Notification{Code: message.HeaderError, Subcode: 9}, true, "peer closed: message header error: subcode 9"},
	}
	for _, test := range tests {
		for _, nbit := range []bool{true, false} {
			t.Run(test.name, func(t *testing.T) {
				s := play(t, ours())
				s.establish(1, with(openOf(high), func(o *message.Open) { o.Capabilities.Restart.Notification = nbit }))
				down := "down 1"
				if test.keep && nbit {
					down += " keep"
				}
				s.on(msg(1, test.n), "close 1", down)
				s.reason(test.reason)
			})
		}
	}
}

func TestHoldTimer(t *testing.T) {
	s := play(t, ours())
	s.establish(1, openOf(high))
	for range 20 {
		s.after(89 * time.Second)
		s.on(Tick{})
		s.on(msg(1, keepalive))
	}
	s.after(89 * time.Second)
	s.on(Tick{})
	s.after(time.Second)
	s.on(Tick{}, "send 1 hold timer expired: nothing heard for 1m30s", "close 1", "down 1 keep", "dial")
	s.reason("we closed: hold timer expired: nothing heard for 1m30s")
}

// TestHeardLate: KEEPALIVEs of which the machine learns only when its timer runs
// out move the hold timer, and never back.
func TestHeardLate(t *testing.T) {
	s := play(t, ours())
	s.establish(1, openOf(high))
	began := s.now
	s.after(90 * time.Second)
	s.on(Heard{Conn: 1, At: began.Add(80 * time.Second)})
	s.on(Tick{})
	s.on(Heard{Conn: 1, At: began.Add(70 * time.Second)})
	s.on(Heard{Conn: 2, At: began.Add(100 * time.Second)})
	s.due(80*time.Second, "send 1 hold timer expired: nothing heard for 1m30s", "close 1", "down 1 keep", "dial")
}

// TestFrozen wakes up long after the hold timer: what the peer sent meanwhile
// waits in the socket.
func TestFrozen(t *testing.T) {
	r := chaos.Begin(t, "C8", "we are frozen for 10 minutes of simulated time, the peer's keepalives wait in the socket", "we read them before we judge the peer")
	r.Measuredf("session kept")
	s := play(t, ours())
	s.establish(1, openOf(high))
	s.after(10 * time.Minute)
	s.on(Tick{})
	s.on(msg(1, keepalive))
	s.after(89 * time.Second)
	s.on(Tick{})
	s.after(time.Hour)
	s.on(Tick{})
	s.after(lateGrace)
	s.on(Tick{}, "send 1 hold timer expired: nothing heard for 1m30s", "close 1", "down 1 keep", "dial")
}

func TestNoHoldTimer(t *testing.T) {
	s := play(t, ours())
	s.on(Start{}, "dial")
	s.on(Dialed{1}, "send 1 OPEN")
	s.on(msg(1, with(openOf(high), func(o *message.Open) { o.HoldTime = 0 })), "send 1 KEEPALIVE", "keepalives 1 0s")
	s.on(msg(1, keepalive), "up 1")
	if at := s.f.Deadline(); !at.IsZero() {
		t.Errorf("deadline %v although nothing can become due", at)
	}
}

func TestSilentConnection(t *testing.T) {
	s := play(t, ours())
	s.on(Start{}, "dial")
	s.on(Dialed{1}, "send 1 OPEN")
	s.due(openHold, "send 1 hold timer expired: nothing heard for 1m0s", "close 1")
	s.due(retryMin, "dial")
}

func TestRedial(t *testing.T) {
	s := play(t, ours())
	s.on(Start{}, "dial")
	pauses := []time.Duration{100, 200, 400, 800, 1600, 3200, 5000, 5000}
	for _, ms := range pauses {
		s.on(DialFailed{Reason: "connection refused"})
		s.state(speaker.Active)
		s.due(ms*time.Millisecond, "dial")
	}
	s.reason("connection refused 8×")
	s.on(DialFailed{Reason: "SYN timed out", Hint: "MD5?"})
	s.reason("SYN timed out (MD5?)")
	s.due(retryMax, "dial")
	s.on(Dialed{1}, "send 1 OPEN")
	s.confirm(1, openOf(high))
	s.reason("")

	// A session that lasted is redialled at once, one that did not is not.
	s.after(stableFor)
	s.on(Lost{1, "reset"}, "close 1", "down 1 keep", "dial")
	s.on(Dialed{2}, "send 2 OPEN")
	s.confirm(2, openOf(high))
	s.reason("reset")
	s.on(Lost{2, "reset again"}, "close 2", "down 2 keep")
	s.due(retryMin, "dial")
	s.on(DialFailed{Reason: "connection refused"})
	s.reason("reset again; since then: connection refused")
	s.due(2*retryMin, "dial")
}

// TestServedWhileWaiting: a peer that connects is served whatever we wait for.
func TestServedWhileWaiting(t *testing.T) {
	s := play(t, ours())
	s.on(Start{}, "dial")
	for range 10 {
		s.on(DialFailed{Reason: "connection refused"})
		s.due(s.f.Deadline().Sub(s.now), "dial")
	}
	s.on(DialFailed{Reason: "connection refused"})
	s.on(Accepted{1}, "send 1 OPEN")
	s.confirm(1, openOf(high))
	if !s.f.retryAt.IsZero() {
		t.Error("still wants to dial")
	}
}

func TestWithoutCapabilities(t *testing.T) {
	r := chaos.Begin(t, "C4", "peer refuses every capability", "a session without any")
	r.Measuredf("second OPEN without capabilities, Established")
	s := play(t, ours())
	s.on(Start{}, "dial")
	s.on(Dialed{1}, "send 1 OPEN")
	s.on(msg(1, &message.Notification{Code: message.OpenError, Subcode: message.UnsupportedParameter}), "close 1")
	s.due(retryMin, "dial")
	s.on(Dialed{2}, "send 2 OPEN")
	if caps := s.f.openMessage().Capabilities; caps.AS4 || caps.RouteRefresh || caps.Restart != nil || caps.Families != nil {
		t.Errorf("capabilities %+v offered to a peer that refuses them", caps)
	}
	s.confirm(2, with(openOf(high), func(o *message.Open) { o.Capabilities = message.Capabilities{} }))
}

func TestStop(t *testing.T) {
	bye := message.Shutdown(message.AdminShutdown, "drained")
	s := play(t, ours())
	s.establish(1, openOf(high))
	s.on(Stop{Notification: bye, Reason: "drained"}, `send 1 cease: hard reset: cease: administrative shutdown: "drained"`, "close 1", "down 1")
	s.state(speaker.Idle)
	s.reason("drained")
	s.on(Tick{})
	s.on(Start{}, "dial")
	s.on(Stop{Reason: "again"}, "cancel dial")
	s.on(Dialed{2}, "close 2")

	// Without the N bit a plain Cease has the peer drop our routes.
	s = play(t, ours())
	s.establish(1, with(openOf(high), func(o *message.Open) { o.Capabilities.Restart.Notification = false }))
	s.on(Stop{Notification: bye, Reason: "drained"}, `send 1 cease: administrative shutdown: "drained"`, "close 1", "down 1")
}

func TestReset(t *testing.T) {
	s := play(t, ours())
	s.establish(1, openOf(high))
	s.on(Reset{Config: ours(), Reason: "password changed"}, "close 1", "down 1 keep", "dial")
	s.on(Dialed{2}, "send 2 OPEN")
	s.confirm(2, openOf(high))
	cfg := ours()
	cfg.PeerAS = 65000
	s.on(Reset{Config: cfg, Notification: &message.Notification{Code: message.Cease, Subcode: message.ConfigurationChange}, Reason: "AS changed"},
		"send 2 cease: hard reset: cease: other configuration change", "close 2", "down 2", "dial")
	s.on(Dialed{3}, "send 3 OPEN")
	s.confirm(3, with(openOf(high), func(o *message.Open) { o.AS = 65000 }))
}

func TestMalformedAndRefused(t *testing.T) {
	s := play(t, ours())
	s.establish(1, openOf(high))
	s.on(Malformed{1, &message.Notification{Code: message.HeaderError, Subcode: message.BadMessageType}},
		"send 1 message header error: bad message type", "close 1", "down 1 keep")
	s.due(retryMin, "dial")
	s.on(Dialed{2}, "send 2 OPEN")
	s.confirm(2, openOf(high))
	s.on(Refused{2, &message.Notification{Code: message.Cease, Subcode: message.PrefixLimit}},
		"send 2 cease: hard reset: cease: maximum number of prefixes reached", "close 2", "down 2")
	// What an ended connection still says means nothing.
	s.on(Refused{2, &message.Notification{Code: message.Cease}})
	s.on(msg(2, keepalive))
	s.on(Lost{2, "late"})
	s.on(Loaded{2})
}
