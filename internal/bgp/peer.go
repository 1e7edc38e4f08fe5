// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/bgp/session"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

const (
	quarantineFor = time.Minute // how long a peer is left alone whose messages made us panic
	faultEvery    = time.Minute // at most one log line about a peer's failed connections in this time
	flawEvery     = time.Minute // at most one log line about a peer's flawed UPDATEs in this time
)

// peer drives the state machine of one peer. Its fields belong to the
// goroutine of run, but for the last ones.
type peer struct {
	s   *Speaker
	log *slog.Logger
	cfg peerConfig
	fsm *session.FSM

	conns   map[session.ConnID]*conn
	lastID  session.ConnID
	frames  chan frame
	dials   chan dialled
	dialing *attempt // nil when no dial is under way
	queue   []session.Event

	started     bool      // the gate is open
	ended       bool      // farewell was said
	quarantined time.Time // until then; zero for not
	trouble     string    // why it is kept down, whatever it says
	dialTrouble string    // of the last dial
	fault       string    // of the last connection
	faults      sieve     // in what is logged of them
	flaps       int
	synced      bool
	since       time.Time // of being Established, or of not being it
	flaws       sieve     // in what the peer sends
	nearLimit   bool      // said in this session
	notable     bool      // something happened that the agent should look at

	wanted peerConfig     // as last ordered; the Speaker's
	linger sync.WaitGroup // readers and writers
	orders orders
	view   atomic.Pointer[view]
	total  traffic       // of all its connections
	done   chan struct{} // closed when run has ended
	left   chan struct{} // closed when, after that, the last words are said
}

// view is what others may know of a peer; it is made after every step.
type view struct {
	session speaker.Session
	synced  bool
}

// attempt is a dial under way.
type attempt struct{ cancel context.CancelFunc }

// dialled is what came of an attempt.
type dialled struct {
	of  *attempt
	tcp *net.TCPConn
	err error
}

func newPeer(s *Speaker, cfg peerConfig) *peer {
	p := &peer{
		s:      s,
		log:    s.log.With("peer", cfg.peer.Addr, "name", cfg.peer.Name),
		conns:  map[session.ConnID]*conn{},
		frames: make(chan frame, frameQueue),
		dials:  make(chan dialled, 1),
		since:  time.Now(),
		faults: sieve{every: faultEvery},
		flaws:  sieve{every: flawEvery},
		orders: orders{wake: make(chan struct{}, 1)},
		done:   make(chan struct{}),
		left:   make(chan struct{}),
	}
	p.renew(cfg)
	p.publish()
	return p
}

// renew begins with a fresh state machine.
func (p *peer) renew(cfg peerConfig) {
	p.cfg = cfg
	p.fsm = session.New(cfg.session, p.s.restarting, rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())))
	p.queue = nil
	p.trouble = ""
	if cfg.invalid != nil {
		p.trouble = cfg.invalid.Error()
	}
}

// run serves the peer until ctx ends or it is told farewell.
func (p *peer) run(ctx context.Context) {
	defer close(p.done)
	defer p.orders.close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	gate := p.s.gate
	for !p.ended && ctx.Err() == nil {
		p.rewind(timer)
		select {
		case <-ctx.Done():
		case <-gate:
			gate = nil
			p.guard(p.open)
		case <-p.orders.wake:
			p.guard(p.obey)
		case f := <-p.frames:
			p.guard(func() { p.take(f) })
		case d := <-p.dials:
			p.guard(func() { p.takeDialled(d) })
		case <-timer.C:
			p.guard(p.tick)
		}
		p.publish()
	}
	if ctx.Err() != nil {
		p.abandon()
	}
}

// rewind sets the timer to what is due next.
func (p *peer) rewind(timer *time.Timer) {
	at := p.fsm.Deadline()
	if !p.quarantined.IsZero() {
		at = p.quarantined
	}
	if at.IsZero() {
		timer.Stop()
		return
	}
	timer.Reset(time.Until(at))
}

// guard runs f; should it panic, this peer alone is put aside.
func (p *peer) guard(f func()) {
	defer func() {
		if v := recover(); v != nil {
			p.quarantine(&panicked{value: v, stack: debug.Stack()})
		}
	}()
	f()
}

// quarantine ends whatever there is with the peer and leaves it alone for a
// while. It may run in any state.
func (p *peer) quarantine(cause *panicked) {
	p.log.Error("BGP peer quarantined", "err", cause, "stack", string(cause.stack))
	p.abandon()
	p.forgetRoutes()
	p.renew(p.cfg)
	p.trouble = cause.Error() + "; quarantined"
	p.quarantined = time.Now().Add(quarantineFor)
	p.notable = true
}

// forgetRoutes drops what the peer announced, if the table can still do that
// after what happened.
func (p *peer) forgetRoutes() {
	defer func() {
		if v := recover(); v != nil {
			p.log.Error("routes of quarantined BGP peer stay", "err", v, "stack", string(debug.Stack()))
		}
	}()
	p.s.rib.down(p.cfg.peer.Addr, false)
}

// abandon closes every connection at once and without a word.
func (p *peer) abandon() {
	p.cancelDial()
	for id, c := range p.conns {
		c.abandon()
		delete(p.conns, id)
	}
}

// open starts the peer once OPENs may be sent.
func (p *peer) open() {
	p.obey()
	p.started = true
	p.start()
	p.obey() // connections were left till now
}

// start lets the state machine work, unless something forbids it.
func (p *peer) start() {
	if p.s.verified.Load() {
		p.step(session.Forwarding{})
	}
	if p.started && p.trouble == "" {
		p.step(session.Start{})
	}
}

// obey carries out what others left.
func (p *peer) obey() {
	config, accepted, verified, end := p.orders.take(p.started)
	if verified {
		p.step(session.Forwarding{})
	}
	if config != nil {
		p.configure(*config)
	}
	if accepted != nil {
		p.adopt(accepted, func(id session.ConnID) session.Event { return session.Accepted{Conn: id} })
	}
	if end != nil {
		p.ended = true
		p.step(session.Stop{Notification: end.notification, Reason: end.reason})
		p.notable = p.s.rib.down(p.cfg.peer.Addr, false) || p.notable
	}
}

// configure changes to cfg with as little harm to the session as possible. Who
// we or the peer are cannot change within a session's promises; for the rest
// the connection is made anew silently, so that a peer that restarts gracefully
// keeps the routes.
func (p *peer) configure(cfg peerConfig) {
	old := p.cfg
	p.cfg = cfg
	switch {
	case p.trouble != "" || !p.started:
		p.quarantined = time.Time{}
		p.renew(cfg)
		p.start()
	case cfg.invalid != nil:
		p.step(session.Stop{Notification: changed(), Reason: cfg.invalid.Error()})
		p.renew(cfg)
	case cfg.session.LocalAS != old.session.LocalAS || cfg.session.PeerAS != old.session.PeerAS || cfg.session.RouterID != old.session.RouterID:
		p.step(session.Reset{Config: cfg.session, Notification: changed(), Reason: "configuration changed"})
	case cfg.session == old.session && cfg.peer.LocalAddr == old.peer.LocalAddr && p.rekey(old.peer.Password):
	case cfg.session != old.session || cfg.peer.Password != old.peer.Password || cfg.peer.LocalAddr != old.peer.LocalAddr:
		p.step(session.Reset{Config: cfg.session, Reason: "configuration changed"})
	}
}

// rekey gives an established session another MD5 key without an end of its
// connection, and says whether it could. Until the peer has the key as well,
// what the two send is not heard and sent again: the session outlives that for
// its hold time. From or to no key there is no such way.
func (p *peer) rekey(old string) bool {
	password := p.cfg.peer.Password
	if password == old || password == "" || old == "" {
		return password == old
	}
	params, up := p.fsm.Params()
	if !up || len(p.conns) != 1 || p.conns[params.Conn] == nil {
		return false
	}
	socket, ok := p.conns[params.Conn].tcp.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := socket.SyscallConn()
	if err == nil {
		err = control(raw, func(fd int) error { return setMD5(fd, p.cfg.peer.Addr, password) })
	}
	if err != nil {
		p.log.Warn("MD5 key of the BGP session cannot be changed, the session is made anew", "err", err)
		return false
	}
	p.log.Info("MD5 key of the BGP session changed")
	return true
}

// changed tells the peer that one of us is somebody else now.
func changed() *message.Notification {
	return &message.Notification{Code: message.Cease, Subcode: message.ConfigurationChange}
}

// tick is called when something is due. Only now the state machine is told
// which peers lived meanwhile.
func (p *peer) tick() {
	if p.quarantined.IsZero() {
		for id, c := range p.conns {
			if at := c.heard.Load(); at != nil {
				p.step(session.Heard{Conn: id, At: *at})
			}
		}
		p.step(session.Tick{})
		return
	}
	if time.Now().Before(p.quarantined) {
		return
	}
	p.quarantined = time.Time{}
	p.renew(p.cfg)
	p.start()
}
