// SPDX-License-Identifier: Apache-2.0

package session

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/test/chaos"
)

func restartBits(f *FSM) (r, fbit bool) {
	g := f.openMessage().Capabilities.Restart
	forwarding, _ := g.Kept(message.IPv4Unicast)
	return g.Restarting, forwarding
}

// TestRestartBits: R from a restart until our routes are with the peer, F from
// the verification on, but never right after a boot.
func TestRestartBits(t *testing.T) {
	for _, restarting := range []bool{true, false} {
		s := &script{t: t, f: New(ours(), restarting, rand.New(rand.NewPCG(1, 2))), now: time.Unix(1000, 0)}
		check := func(when string, wantR, wantF bool) {
			t.Helper()
			if r, f := restartBits(s.f); r != wantR || f != wantF {
				t.Errorf("restarted %t, %s: R %t F %t, want %t %t", restarting, when, r, f, wantR, wantF)
			}
		}
		check("at first", restarting, false)
		s.on(Forwarding{})
		check("verified", restarting, restarting)
		s.establish(1, openOf(high))
		check("established", restarting, true)
		s.on(Lost{1, "reset"}, "close 1", "down 1 keep")
		check("lost before End-of-RIB was sent", restarting, true)
		s.due(retryMin, "dial")
		s.on(Dialed{2}, "send 2 OPEN")
		s.confirm(2, openOf(high))
		s.on(Loaded{1}) // of a session that is over
		check("established again", restarting, true)
		s.on(Loaded{2})
		check("loaded", false, true)
	}
}

// helped is a script whose peer went away after its session had lasted.
func helped(t *testing.T, peer *message.Open) *script {
	s := play(t, ours())
	s.establish(1, peer)
	s.on(msg(1, endOfRIB), "learn", "synced")
	s.after(time.Minute)
	s.on(Lost{1, "reset"}, "close 1", "down 1 keep", "dial")
	if !s.f.Stale() {
		t.Fatal("nothing is stale")
	}
	return s
}

func TestHelper(t *testing.T) {
	noForwarding := func(o *message.Open) { o.Capabilities.Restart.Families[0].Forwarding = false }
	tests := []struct {
		name string
		back func(*message.Open)
		drop bool // at once
	}{
		{"kept forwarding", func(*message.Open) {}, false},
		{"did not keep forwarding", noForwarding, true},
		{"lost the family", func(o *message.Open) { o.Capabilities.Restart.Families = nil }, true},
		{"lost the capability", func(o *message.Open) { o.Capabilities.Restart = nil }, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := helped(t, openOf(high))
			s.on(Dialed{2}, "send 2 OPEN")
			if test.drop {
				s.confirm(2, with(openOf(high), test.back), "drop stale")
				s.on(msg(2, endOfRIB), "learn")
				return
			}
			s.confirm(2, with(openOf(high), test.back))
			s.on(msg(2, &message.Update{}), "learn")
			if !s.f.Stale() {
				t.Error("nothing is stale before End-of-RIB")
			}
			s.on(msg(2, endOfRIB), "learn", "drop stale")
			if s.f.Stale() {
				t.Error("something is stale after End-of-RIB")
			}
		})
	}
}

func TestHelperTimesOut(t *testing.T) {
	r := chaos.Begin(t, "C13", "peer stays away longer than its restart time, 30 s of simulated time", "stale routes dropped then, not before or after")
	s := helped(t, with(openOf(high), func(o *message.Open) { o.Capabilities.Restart.Time = 30 }))
	s.on(DialFailed{Reason: "no route to host"})
	lost := s.now
	dials := 0
	for s.f.Stale() {
		s.now = s.f.Deadline()
		for _, a := range s.f.Step(Tick{}, s.now) {
			switch a.(type) {
			case Dial:
				dials++
				s.f.Step(DialFailed{Reason: "no route to host"}, s.now)
			case DropStale:
				after := s.now.Sub(lost)
				r.Measuredf("dropped after %v", after)
				if after != 30*time.Second {
					t.Errorf("dropped after %v", after)
				}
			}
		}
	}
	if dials < 5 {
		t.Errorf("%d dials in 30 s", dials)
	}
}

// TestHelperFlaps: a peer that dies again before its End-of-RIB must not keep
// routes for ever; the table drops the older stale ones at each Down.
func TestHelperFlaps(t *testing.T) {
	s := helped(t, openOf(high))
	s.on(Dialed{2}, "send 2 OPEN")
	s.confirm(2, openOf(high))
	s.on(Lost{2, "reset"}, "close 2", "down 2 keep")
	s.due(retryMin, "dial")
	s.on(Dialed{3}, "send 3 OPEN")
	s.confirm(3, openOf(high))
	// It never sends End-of-RIB.
	for s.now.Before(time.Unix(1000, 0).Add(time.Hour)) && s.f.Stale() {
		s.after(30 * time.Second)
		s.f.Step(msg(3, keepalive), s.now)
		s.f.Step(Tick{}, s.now)
	}
	if s.f.Stale() {
		t.Error("stale for an hour")
	}
}

func TestNoHelpWithoutCapability(t *testing.T) {
	for name, change := range map[string]func(*message.Open){
		"no capability": func(o *message.Open) { o.Capabilities.Restart = nil },
		"no family":     func(o *message.Open) { o.Capabilities.Restart.Families = nil },
		"no time":       func(o *message.Open) { o.Capabilities.Restart.Time = 0 },
	} {
		s := play(t, ours())
		s.establish(1, with(openOf(high), change))
		s.on(Lost{1, name}, "close 1", "down 1")
	}
}

// TestHoldTimerKeepsOnlyWithN: RFC 4724 knows only the loss of TCP, RFC 8538
// adds the rest.
func TestHoldTimerKeepsOnlyWithN(t *testing.T) {
	s := play(t, ours())
	s.establish(1, with(openOf(high), func(o *message.Open) { o.Capabilities.Restart.Notification = false }))
	s.due(90*time.Second, "send 1 hold timer expired: nothing heard for 1m30s", "close 1", "down 1", "dial")
}

// TestSyncedWithoutEndOfRIB: a peer that sends none counts after a moment.
func TestSyncedWithoutEndOfRIB(t *testing.T) {
	s := play(t, ours())
	s.establish(1, with(openOf(high), func(o *message.Open) { o.Capabilities.Restart = nil }))
	s.due(syncGrace, "synced")
	s.after(time.Minute)
	s.on(Lost{1, "reset"}, "close 1", "down 1", "dial")
	s.on(Dialed{2}, "send 2 OPEN")
	s.confirm(2, openOf(high))
	s.on(msg(2, endOfRIB), "learn")
}

// TestStopSilently keeps the routes as after a loss, for as long.
func TestStopSilently(t *testing.T) {
	s := play(t, ours())
	s.establish(1, openOf(high))
	s.on(Stop{Reason: "paused"}, "close 1", "down 1 keep")
	s.due(120*time.Second, "drop stale")
}
