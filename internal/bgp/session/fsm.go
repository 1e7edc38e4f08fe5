// SPDX-License-Identifier: Apache-2.0

package session

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// Times that are not negotiated.
const (
	retryMin  = 100 * time.Millisecond // first pause between dials
	retryMax  = 5 * time.Second        // longest pause between dials
	openHold  = time.Minute            // how long a connection may take to its OPEN (RFC 4271 wants "large")
	stableFor = 5 * time.Second        // a session that lived as long is redialled at once when it falls
	lateTick  = 2 * time.Second        // a tick as late as this means that we were frozen
	lateGrace = 5 * time.Second        // what the peer gets to be heard after that
	syncGrace = 5 * time.Second        // a peer that sends no End-of-RIB has sent all by then
	eorWait   = 2 * time.Minute        // longest a peer that came back may take to its End-of-RIB
)

// Config is what one peer's FSM is told. A Reset replaces it whole.
type Config struct {
	LocalAS  speaker.ASN
	RouterID netip.Addr // ours, IPv4
	PeerAS   speaker.ASN
	// Hold is the hold time we offer, in whole seconds: 0 or at least 3 s.
	// Keepalive is the longest pause between our keepalives.
	Hold, Keepalive time.Duration
	// RestartTime is how long our routes may be kept while we are away; 0
	// turns graceful restart off in both roles.
	RestartTime time.Duration
	Passive     bool // never dial
}

// FSM is the state machine of one peer. It is not safe for concurrent use.
type FSM struct {
	cfg Config
	rng *rand.Rand

	started bool
	dialing bool
	conns   []*conn   // at most two
	retryAt time.Time // when to dial; zero for not planned

	failures   int  // consecutive ones, for the pause between dials
	plain      bool // the peer refused our capabilities: offer none
	unanswered bool // the last connection we dialled ended without a message
	restarting bool // we restarted and this peer has not got all our routes since
	verified   bool // the kernel's routes were verified
	wasUp      bool // the session was Established in this FSM's life

	staleUntil time.Time // stale routes are held until then; zero for none
	syncedAt   time.Time // a peer without End-of-RIB counts as synced then
	synced     bool

	why why
	out []Action
}

// conn is one TCP connection.
type conn struct {
	id       ConnID
	dialled  bool // by us
	state    speaker.SessionState
	heard    bool      // a message came
	expireAt time.Time // hold timer; zero for none
	upAt     time.Time
	params   Params // from OpenConfirm on
}

// New returns the FSM of a peer, stopped. restarting says that this agent ran
// before in the same boot: it is announced in the R bit until Loaded. rng
// makes the jitter.
func New(cfg Config, restarting bool, rng *rand.Rand) *FSM {
	return &FSM{cfg: cfg, restarting: restarting, rng: rng}
}

// Step takes one event at time now and returns what has to be done about it.
// The slice is valid until the next Step.
func (f *FSM) Step(ev Event, now time.Time) []Action {
	clear(f.out)
	f.out = f.out[:0]
	switch ev := ev.(type) {
	case Start:
		f.start(now)
	case Stop:
		f.stop(ev.Notification, ev.Reason, now)
	case Reset:
		f.stop(ev.Notification, ev.Reason, now)
		f.cfg, f.plain, f.unanswered = ev.Config, false, false
		f.start(now)
	case Forwarding:
		f.verified = true
	case Dialed:
		f.dialed(ev.Conn, now)
	case DialFailed:
		f.dialFailed(ev, now)
	case Accepted:
		f.accepted(ev.Conn, now)
	case Tick:
		f.tick(now)
	default:
		f.stepConn(ev, now)
	}
	return f.out
}

// do adds actions to those Step returns.
func (f *FSM) do(actions ...Action) { f.out = append(f.out, actions...) }

// Deadline is when the next Tick is due; zero when none is.
func (f *FSM) Deadline() time.Time {
	next := earlier(earlier(f.retryAt, f.staleUntil), f.syncedAt)
	for _, c := range f.conns {
		next = earlier(next, c.expireAt)
	}
	return next
}

// earlier is the earlier of two times of which zero means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// due says whether the time at, zero for never, has come.
func due(at, now time.Time) bool { return !at.IsZero() && !now.Before(at) }

// State is the session's state as RFC 4271 names it: that of the connection
// that came farthest. Active means waiting to dial, or for the peer to.
func (f *FSM) State() speaker.SessionState {
	if c := f.farthest(); c != nil {
		return c.state
	}
	switch {
	case !f.started:
		return speaker.Idle
	case f.dialing:
		return speaker.Connect
	}
	return speaker.Active
}

// progress orders the states of connections.
func progress(s speaker.SessionState) int {
	return slices.Index([]speaker.SessionState{speaker.OpenSent, speaker.OpenConfirm, speaker.Established}, s)
}

// farthest is the connection nearest to Established, nil when there is none.
func (f *FSM) farthest() *conn {
	var best *conn
	for _, c := range f.conns {
		if best == nil || progress(c.state) > progress(best.state) {
			best = c
		}
	}
	return best
}

// established is the connection of the session, nil when there is none.
func (f *FSM) established() *conn { return f.inState(speaker.Established) }

// inState is a connection in state s, nil when there is none.
func (f *FSM) inState(s speaker.SessionState) *conn {
	for _, c := range f.conns {
		if c.state == s {
			return c
		}
	}
	return nil
}

// find is the connection with this id, nil when it is gone.
func (f *FSM) find(id ConnID) *conn {
	for _, c := range f.conns {
		if c.id == id {
			return c
		}
	}
	return nil
}

// Params are those of the established session; ok is false without one.
func (f *FSM) Params() (p Params, ok bool) {
	if c := f.established(); c != nil {
		return c.params, true
	}
	return Params{}, false
}

// Options are how messages of connection id are to be decoded.
func (f *FSM) Options(id ConnID) message.Options {
	if c := f.find(id); c != nil {
		return c.params.Message
	}
	return message.Options{}
}

// Hold is the negotiated hold time of connection id, 0 when there is none.
func (f *FSM) Hold(id ConnID) time.Duration {
	if c := f.find(id); c != nil {
		return c.params.Hold
	}
	return 0
}

// Stale says whether routes of the peer are kept while it is away or has not
// sent its End-of-RIB.
func (f *FSM) Stale() bool { return !f.staleUntil.IsZero() }

// Fault says why the last connection ended that was or might have become the
// session; "" while it is Established or nothing was wrong.
func (f *FSM) Fault() string { return f.why.down }

// Reason says why the session is not Established, or why it last fell; "" if
// it never did.
func (f *FSM) Reason() string { return f.why.text(f.established() != nil) }
