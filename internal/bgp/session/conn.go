// SPDX-License-Identifier: Apache-2.0

package session

import (
	"fmt"
	"time"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// handler takes message m on connection c.
type handler func(f *FSM, c *conn, m message.Message, now time.Time)

// handlers is RFC 4271 section 8.2.2 for the messages that can come: what is
// not in here does not belong into the state and ends the connection with an
// FSM error of subcode unexpected. NOTIFICATION ends it in every state.
var handlers = map[speaker.SessionState]struct {
	unexpected message.Subcode // RFC 6608
	on         map[message.Type]handler
}{
	speaker.OpenSent: {message.UnexpectedInOpenSent, map[message.Type]handler{
		message.TypeOpen:         gotOpen,
		message.TypeNotification: gotNotification,
	}},
	speaker.OpenConfirm: {message.UnexpectedInOpenConfirm, map[message.Type]handler{
		message.TypeKeepalive:    gotConfirmation,
		message.TypeNotification: gotNotification,
	}},
	speaker.Established: {message.UnexpectedInEstablished, map[message.Type]handler{
		message.TypeKeepalive:    gotKeepalive,
		message.TypeUpdate:       gotUpdate,
		message.TypeRouteRefresh: gotRefresh,
		message.TypeNotification: gotNotification,
	}},
}

// stepConn takes the events that concern one connection.
func (f *FSM) stepConn(ev Event, now time.Time) {
	switch ev := ev.(type) {
	case Received:
		f.received(ev, now)
	case Heard:
		f.keptAlive(ev)
	case Malformed:
		f.refuse(f.find(ev.Conn), ev.Err, now)
	case Refused:
		if c := f.find(ev.Conn); c != nil {
			f.do(Send{Conn: c.id, Msg: f.lasting(c, ev.Err)})
			f.end(c, ending{reason: "we closed: " + ev.Err.Error()}, now)
		}
	case Lost:
		if c := f.find(ev.Conn); c != nil {
			f.end(c, ending{reason: ev.Reason, loss: true}, now)
		}
	case Loaded:
		if c := f.established(); c != nil && c.id == ev.Conn {
			f.restarting = false
		}
	}
}

func (f *FSM) received(ev Received, now time.Time) {
	c := f.find(ev.Conn)
	if c == nil {
		return
	}
	c.heard = true
	if c.params.Hold > 0 {
		c.expireAt = now.Add(c.params.Hold)
	}
	row := handlers[c.state]
	if on := row.on[ev.Msg.Type()]; on != nil {
		on(f, c, ev.Msg, now)
		return
	}
	f.refuse(c, &message.Notification{
		Code: message.FSMError, Subcode: row.unexpected,
		Data: []byte{byte(ev.Msg.Type())}, Detail: ev.Msg.Type().String(),
	}, now)
}

// keptAlive moves the hold timer on, never back.
func (f *FSM) keptAlive(ev Heard) {
	c := f.find(ev.Conn)
	if c == nil || c.params.Hold == 0 {
		return
	}
	if until := ev.At.Add(c.params.Hold); until.After(c.expireAt) {
		c.expireAt = until
	}
}

func gotOpen(f *FSM, c *conn, m message.Message, now time.Time) {
	params, refusal := f.negotiate(m.(*message.Open))
	if refusal != nil {
		f.refuse(c, refusal, now)
		return
	}
	params.Conn = c.id
	c.params = params
	if !f.collide(c) {
		return
	}
	f.cancelDial()
	f.retryAt = time.Time{}
	c.state = speaker.OpenConfirm
	if params.Hold > 0 {
		c.expireAt = now.Add(params.Hold)
	}
	f.do(Send{Conn: c.id, Msg: &message.Keepalive{}}, Keepalives{Conn: c.id, Every: params.Keepalive})
}

// gotConfirmation makes the session: the peer has accepted our OPEN. Another
// connection that was Established is the one the peer lost in its restart.
func gotConfirmation(f *FSM, c *conn, _ message.Message, now time.Time) {
	for len(f.conns) > 1 {
		other := f.conns[0]
		if other == c {
			other = f.conns[1]
		}
		if other.state == speaker.Established {
			f.drop(other, ending{reason: "peer restarted: it came back on a new connection", loss: true}, now)
		} else {
			f.do(Send{Conn: other.id, Msg: collision})
			f.forget(other)
		}
	}
	f.cancelDial()
	f.retryAt = time.Time{}
	c.state = speaker.Established
	c.upAt = now
	if c.params.Hold == 0 {
		c.expireAt = time.Time{}
	}
	f.wasUp, f.unanswered = true, false
	f.why.up()
	f.up(c, now)
}

func gotKeepalive(*FSM, *conn, message.Message, time.Time) {}

func gotUpdate(f *FSM, _ *conn, m message.Message, _ time.Time) {
	update := m.(*message.Update)
	f.do(Learn{Update: update})
	if update.EndOfRIB {
		f.dropStale()
		f.sync()
	}
}

func gotRefresh(f *FSM, c *conn, m message.Message, _ time.Time) {
	r := m.(*message.RouteRefresh)
	if r.Family == message.IPv4Unicast && r.Subtype == 0 {
		f.do(Readvertise{Conn: c.id})
	}
}

func gotNotification(f *FSM, c *conn, m message.Message, now time.Time) {
	n := m.(*message.Notification)
	if n.Code == message.OpenError && n.Subcode == message.UnsupportedParameter {
		f.plain = true // RFC 5492 section 3: try again without
	}
	f.end(c, ending{
		reason: "peer closed: " + n.Error(),
		loss:   c.params.Restart.Notification && !isCease(n, message.HardReset),
		quiet:  isCease(n, message.CollisionResolution),
	}, now)
}

func isCease(n *message.Notification, s message.Subcode) bool {
	return n.Code == message.Cease && n.Subcode == s
}

// expired ends a connection whose peer was silent for the hold time.
func (f *FSM) expired(c *conn, now time.Time) {
	silent := openHold
	if c.state != speaker.OpenSent && c.params.Hold > 0 {
		silent = c.params.Hold
	}
	f.refuse(c, &message.Notification{
		Code:   message.HoldTimerExpired,
		Detail: fmt.Sprintf("nothing heard for %v", silent),
	}, now)
}

// refuse ends c, if it still stands, with our notification.
func (f *FSM) refuse(c *conn, n *message.Notification, now time.Time) {
	if c == nil {
		return
	}
	f.do(Send{Conn: c.id, Msg: n})
	f.end(c, ending{reason: "we closed: " + n.Error(), loss: c.params.Restart.Notification}, now)
}

// ending says how a connection came to its end.
type ending struct {
	reason string
	loss   bool // in a way that lets the peer's routes be kept
	quiet  bool // by collision resolution: nothing for people
}

// end drops c for a failure and plans the next dial.
func (f *FSM) end(c *conn, e ending, now time.Time) {
	wasUp := c.state == speaker.Established
	switch {
	case wasUp && now.Sub(c.upAt) >= stableFor:
		f.failures = 0
	case len(f.conns) == 1:
		f.failures++
	}
	if c.dialled && !c.heard {
		f.unanswered = true
	}
	f.drop(c, e, now)
	if !e.quiet && f.established() == nil {
		f.why.fell(e.reason)
	}
	f.plan(now)
}

// drop closes c and, if it carried the session, takes that down.
func (f *FSM) drop(c *conn, e ending, now time.Time) {
	f.forget(c)
	if c.state == speaker.Established {
		f.down(c, e, now)
	}
}

// forget closes c without any consequence.
func (f *FSM) forget(c *conn) {
	for i, other := range f.conns {
		if other == c {
			f.conns = append(f.conns[:i], f.conns[i+1:]...)
			f.do(Close{Conn: c.id})
			return
		}
	}
}
