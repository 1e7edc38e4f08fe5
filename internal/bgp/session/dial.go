// SPDX-License-Identifier: Apache-2.0

package session

import (
	"time"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

func (f *FSM) start(now time.Time) {
	f.started = true
	f.failures = 0
	f.plan(now)
}

// stop ends everything; with a notification the peer is told and its routes
// go, without one they are kept as after a loss.
func (f *FSM) stop(n *message.Notification, reason string, now time.Time) {
	f.started = false
	f.cancelDial()
	f.retryAt = time.Time{}
	for len(f.conns) > 0 {
		c := f.conns[0]
		if n != nil {
			f.do(Send{Conn: c.id, Msg: f.lasting(c, n)})
		}
		f.drop(c, ending{reason: reason, loss: n == nil}, now)
	}
	if n != nil {
		f.dropStale()
	}
	f.retryAt = time.Time{}
	f.why.fell(reason)
}

// plan sets the time of the next dial: now after a start or the loss of a
// session that had lasted, else, or if the peer has just connected itself,
// after a pause that grows with the failures. A pause is shortened by up to a
// quarter, so that two peers do not keep step.
func (f *FSM) plan(now time.Time) {
	if !f.started || f.cfg.Passive || f.dialing || f.hasDialled() || f.progressed() {
		return
	}
	if f.failures == 0 && len(f.conns) == 0 {
		f.retryAt = time.Time{}
		f.dialing = true
		f.do(Dial{})
		return
	}
	pause := min(retryMin<<min(max(f.failures-1, 0), 10), retryMax)
	pause -= time.Duration(f.rng.Int64N(int64(pause)/4 + 1))
	f.retryAt = now.Add(pause)
}

// hasDialled says whether a connection of our own stands.
func (f *FSM) hasDialled() bool {
	for _, c := range f.conns {
		if c.dialled {
			return true
		}
	}
	return false
}

// progressed says whether a connection has a valid OPEN: then no other is
// looked for.
func (f *FSM) progressed() bool {
	return f.inState(speaker.OpenConfirm) != nil || f.established() != nil
}

func (f *FSM) cancelDial() {
	if f.dialing {
		f.dialing = false
		f.do(CancelDial{})
	}
}

func (f *FSM) dialed(id ConnID, now time.Time) {
	if !f.dialing { // taken back
		f.do(Close{Conn: id})
		return
	}
	f.dialing = false
	f.open(&conn{id: id, dialled: true}, now)
}

func (f *FSM) dialFailed(ev DialFailed, now time.Time) {
	if !f.dialing {
		return
	}
	f.dialing = false
	f.why.notDialled(ev.Reason, ev.Hint)
	f.failures++
	f.plan(now)
}

// accepted takes a connection the peer made. A second one of its making
// replaces one that got no further than OpenConfirm: the peer must have given
// that up. In Established it is a candidate, see collide.
func (f *FSM) accepted(id ConnID, now time.Time) {
	if !f.started {
		f.do(Close{Conn: id})
		return
	}
	for _, c := range f.conns {
		if !c.dialled && c.state != speaker.Established {
			f.forget(c)
			break
		}
	}
	f.open(&conn{id: id}, now)
	if f.retryAt.IsZero() {
		f.plan(now)
	}
}

// open sends our OPEN on a new connection.
func (f *FSM) open(c *conn, now time.Time) {
	c.state = speaker.OpenSent
	c.expireAt = now.Add(openHold)
	f.conns = append(f.conns, c)
	f.do(Send{Conn: c.id, Msg: f.openMessage()})
}

// tick does what has become due.
func (f *FSM) tick(now time.Time) {
	for _, c := range f.conns {
		if !due(c.expireAt, now) {
			continue
		}
		if now.Sub(c.expireAt) >= lateTick {
			c.expireAt = now.Add(lateGrace)
			continue
		}
		f.expired(c, now)
		break // conns has changed; Deadline is already over for another
	}
	if due(f.syncedAt, now) {
		f.sync()
	}
	if due(f.staleUntil, now) {
		f.dropStale()
	}
	if due(f.retryAt, now) {
		f.retryAt = time.Time{}
		if f.started && !f.progressed() && !f.hasDialled() && !f.dialing {
			f.dialing = true
			f.do(Dial{})
		}
	}
}
