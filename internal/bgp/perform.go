// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/bgp/session"
	"github.com/ocicat-net/ocicat/internal/bgp/table"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// step gives the state machine an event, and the events that follow from what
// it asked for.
func (p *peer) step(ev session.Event) {
	p.queue = append(p.queue, ev)
	for len(p.queue) > 0 {
		ev := p.queue[0]
		p.queue = p.queue[1:]
		for _, a := range p.fsm.Step(ev, time.Now()) {
			p.perform(a)
		}
	}
}

// follow queues an event that is the consequence of an action.
func (p *peer) follow(ev session.Event) { p.queue = append(p.queue, ev) }

// perform carries out one action of the state machine.
func (p *peer) perform(a session.Action) {
	switch a := a.(type) {
	case session.Dial:
		p.dial()
	case session.CancelDial:
		p.cancelDial()
	case session.Send:
		p.send(a)
	case session.Keepalives:
		p.conns[a.Conn].keepalive <- keepalives{every: a.Every, hold: p.fsm.Hold(a.Conn)}
	case session.Close:
		p.close(a.Conn)
	case session.Up:
		p.up(a.Params)
	case session.Down:
		p.down(a)
	case session.DropStale:
		p.s.rib.dropStale(p.cfg.peer.Addr)
		p.notable = true
	case session.Learn:
		p.learn(a.Update)
	case session.Readvertise:
		p.s.rib.refresh(p.cfg.peer.Addr)
	case session.Synced:
		p.synced, p.notable = true, true
	}
}

// dial starts an attempt; its result comes through dials.
func (p *peer) dial() {
	ctx, cancel := context.WithCancel(p.s.ctx)
	at := &attempt{cancel: cancel}
	p.dialing = at
	target := p.cfg.peer
	p.s.wg.Go(func() {
		d := dialled{of: at}
		d.err = p.s.inside(func() (err error) {
			d.tcp, err = dial(ctx, target)
			return err
		})
		select {
		case p.dials <- d:
		case <-p.done:
			d.discard()
		}
	})
}

// discard closes the connection of a dial nobody wants any more.
func (d dialled) discard() {
	if d.tcp != nil {
		_ = d.tcp.Close()
	}
}

func (p *peer) cancelDial() {
	if p.dialing != nil {
		p.dialing.cancel()
		p.dialing = nil
	}
}

func (p *peer) takeDialled(d dialled) {
	if d.of != p.dialing {
		d.discard()
		return
	}
	p.cancelDial()
	if d.err == nil {
		p.adopt(d.tcp, func(id session.ConnID) session.Event { return session.Dialed{Conn: id} })
		return
	}
	reason, hint := dialTrouble(p.cfg.peer, d.err)
	if reason != p.dialTrouble {
		p.dialTrouble, p.notable = reason, true
		p.log.Info("cannot reach BGP peer, trying on", "reason", reason)
	}
	p.step(session.DialFailed{Reason: reason, Hint: hint})
}

// adopt takes a TCP connection into service.
func (p *peer) adopt(tcp *net.TCPConn, event func(session.ConnID) session.Event) {
	p.lastID++
	c := newConn(p.lastID, tcp, p.frames)
	c.traffic, c.beats = &p.total, p.s.beats
	p.conns[c.id] = c
	c.start(&p.linger)
	p.step(event(c.id))
}

// send queues a message on a connection. A full queue means that the peer has
// not read for a long time.
func (p *peer) send(a session.Send) {
	c := p.conns[a.Conn]
	if c == nil {
		return
	}
	b, err := message.Append(nil, a.Msg, message.Options{})
	if err != nil {
		p.follow(session.Lost{Conn: a.Conn, Reason: err.Error()})
		return
	}
	if !c.send(b) {
		p.follow(session.Lost{Conn: a.Conn, Reason: "peer does not read"})
	}
}

func (p *peer) close(id session.ConnID) {
	if c := p.conns[id]; c != nil {
		c.close()
		delete(p.conns, id)
		p.notable = true
	}
}

// take takes what a connection reports.
func (p *peer) take(f frame) {
	if p.conns[f.conn] == nil {
		return
	}
	var wrong *message.Notification
	var crash *panicked
	switch {
	case errors.As(f.err, &crash):
		p.quarantine(crash)
	case errors.As(f.err, &wrong):
		p.step(session.Malformed{Conn: f.conn, Err: wrong})
	case f.err != nil:
		p.step(session.Lost{Conn: f.conn, Reason: lossTrouble(f.err)})
	case f.loaded:
		p.step(session.Loaded{Conn: f.conn})
	default:
		p.takeMessage(f)
	}
}

func (p *peer) takeMessage(f frame) {
	m, err := message.Decode(f.typ, f.body, p.fsm.Options(f.conn))
	var wrong *message.Notification
	if errors.As(err, &wrong) {
		p.step(session.Malformed{Conn: f.conn, Err: wrong})
		return
	}
	if err != nil {
		p.step(session.Lost{Conn: f.conn, Reason: fmt.Sprintf("decode %v: %v", f.typ, err)})
		return
	}
	p.step(session.Received{Conn: f.conn, Msg: m})
}

// up advertises to a new session.
func (p *peer) up(params session.Params) {
	p.notable = true
	p.since = time.Now()
	p.dialTrouble, p.nearLimit = "", false
	p.log.Info("BGP session up", "as", params.AS, "routerID", params.RouterID, "hold", params.Hold, "gracefulRestart", params.Restart.Time)
	c := p.conns[params.Conn]
	c.up.Store(true)
	local := c.tcp.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	log, rib, addr := p.log, p.s.rib, p.cfg.peer.Addr
	c.resume = func(behind *table.Cursor) error {
		log.Info("BGP peer reads slowly, what it is to be told is compacted", "bytes", behind.Lag())
		return rib.resume(addr, behind)
	}
	c.routes <- p.s.rib.up(p.cfg.peer, local, params)
}

func (p *peer) down(a session.Down) {
	p.notable = true
	p.flaps++
	p.since = time.Now()
	p.fault = a.Reason
	p.log.Warn("BGP session down", "reason", a.Reason, "routesKept", a.KeepStale)
	p.s.rib.down(p.cfg.peer.Addr, a.KeepStale)
}

// learn takes an UPDATE into the table. Flaws that RFC 7606 lets a session
// live with are logged, the first of a while.
func (p *peer) learn(u *message.Update) {
	if len(u.Flaws) > 0 {
		if held, pass := p.flaws.pass(time.Now()); pass {
			p.log.Warn("BGP peer sent a flawed UPDATE", "flaw", u.Flaws[0], "alike", held)
		}
	}
	limit := prefixLimit(p.cfg.peer)
	received, changed, refusal := p.s.rib.learn(p.cfg.peer.Addr, u, limit)
	p.notable = p.notable || changed
	p.warnOfLimit(received, limit)
	if params, up := p.fsm.Params(); up && refusal != nil {
		p.follow(session.Refused{Conn: params.Conn, Err: refusal})
	}
}

// warnOfLimit logs once in a session that a peer comes near its prefix limit.
func (p *peer) warnOfLimit(received, limit int) {
	if near := received >= warnAt(limit); near && !p.nearLimit {
		p.nearLimit = true
		p.log.Warn("BGP peer announces nearly as many prefixes as it may; its session ends beyond the limit (OcicatConfiguration, peerPrefixLimit)",
			"prefixes", received, "limit", limit)
	}
}

// publish makes the present state visible to others.
func (p *peer) publish() {
	cfg := p.cfg.peer
	s := speaker.Session{
		Peer: cfg.Addr, Name: cfg.Name, Kind: cfg.Kind, AS: cfg.AS,
		State: p.fsm.State(), Since: p.since,
		Stale: p.fsm.Stale(), Reason: p.fsm.Reason(),
		MD5: cfg.Password != "", Flaps: p.flaps,
	}
	if params, ok := p.fsm.Params(); ok {
		s.RouterID, s.Hold = params.RouterID, params.Hold.Seconds()
	}
	if p.trouble != "" {
		s.State, s.Reason = speaker.Idle, p.trouble
	}
	p.logFault(s.State)
	now := view{session: s, synced: p.synced}
	if old := p.view.Load(); old == nil || *old != now {
		p.view.Store(&now)
	}
	if p.notable {
		p.notable = false
		p.s.changed()
	}
}

// logFault logs why a connection came to nothing, when that is news.
func (p *peer) logFault(state speaker.SessionState) {
	fault := p.fsm.Fault()
	if fault == p.fault || state == speaker.Established {
		return
	}
	p.fault = fault
	if fault == "" {
		return
	}
	if held, pass := p.faults.pass(time.Now()); pass {
		p.log.Warn("BGP connection failed, trying on", "reason", fault, "alike", held)
	}
}
