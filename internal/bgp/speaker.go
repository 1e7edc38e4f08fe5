// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// verifyWait is how long OPENs wait after a restart for the kernel's routes to
// be verified. Peers keep our routes for the restart time; a later F bit would
// be of no use to a peer that has seen an OPEN without.
const verifyWait = 3 * time.Second

// Options are what a Speaker is made with.
type Options struct {
	Log *slog.Logger // required
	// StateDir is where one speaker leaves word for the next that it ran, as
	// /run/ocicat/gr; "" turns that memory off, and restarts look like boots.
	StateDir string
	// BootID identifies the boot of this machine, as
	// /proc/sys/kernel/random/boot_id does.
	BootID string
	// OnChange is called when Learned, Unsynced or the state of a session may
	// be another, once for changes that come close together, but not before
	// the first complete Config is in effect: what the speaker says is a full
	// picture from the first call on. Calls come one at a time; while one
	// lasts, no session waits for it.
	OnChange func()
}

// Speaker is a BGP speaker. Its methods may be called from any goroutine and,
// but for Run and Shutdown, do not block.
type Speaker struct {
	log        *slog.Logger
	opts       Options
	inside     func(func() error) error // runs what makes sockets; tests put it into a namespace
	ready      chan struct{}
	gate       chan struct{} // closed once OPENs may be sent
	gateOnce   sync.Once
	verified   atomic.Bool
	complete   atomic.Bool   // a complete Config is in effect
	impatient  atomic.Bool   // the restart time is over: nobody is waited for any more
	configured chan struct{} // capacity 1: config was set
	news       chan struct{} // capacity 1: OnChange is to be called
	rib        *rib
	beats      beats // when keepalives are sent
	listener   *listener
	wg         sync.WaitGroup // everything that runs below Run

	// These are set by Run before anything below it starts.
	ctx        context.Context
	restarting bool

	mu     sync.Mutex
	config *speaker.Config // wanted; nil before the first Set
	closed bool            // Shutdown: no peers any more
	peers  map[netip.Addr]*peer
}

// New makes a speaker that does nothing before Run.
func New(opts Options) *Speaker {
	if opts.OnChange == nil {
		opts.OnChange = func() {}
	}
	s := &Speaker{
		log:        opts.Log,
		opts:       opts,
		inside:     func(f func() error) error { return f() },
		ready:      make(chan struct{}),
		gate:       make(chan struct{}),
		configured: make(chan struct{}, 1),
		news:       make(chan struct{}, 1),
		rib:        newRIB(),
		beats:      newBeats(),
		peers:      map[netip.Addr]*peer{},
	}
	s.listener = newListener(s.log, func(f func() error) error { return s.inside(f) }, s.accept)
	return s
}

// Run speaks BGP until ctx ends. It then closes every connection silently, so
// that peers which restart gracefully keep our routes, and returns nil. It can
// run once.
func (s *Speaker) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer s.wg.Wait()
	defer cancel()
	s.ctx = ctx
	restarting, err := takeOver(s.opts.StateDir, s.opts.BootID)
	if err != nil {
		s.log.Warn("restart state is not usable: starting without the restart bit, peers drop our routes and learn them anew", "err", err)
	}
	s.restarting = restarting
	if restarting {
		timer := time.AfterFunc(verifyWait, s.openGate)
		defer timer.Stop()
	} else {
		s.openGate()
	}
	patience := time.AfterFunc(speaker.DefaultRestartTime, func() {
		s.impatient.Store(true)
		s.changed()
	})
	defer patience.Stop()
	s.wg.Go(func() { s.listener.run(ctx) })
	s.wg.Go(func() { s.tell(ctx) })
	close(s.ready)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.configured:
			s.apply()
		}
	}
}

// Ready is closed when Run has begun its work.
func (s *Speaker) Ready() <-chan struct{} { return s.ready }

// String names the task in logs.
func (s *Speaker) String() string { return "bgp speaker" }

// Set makes cfg the whole configuration. Peers that did not change keep their
// session; the same cfg again changes nothing. It takes effect soon after Set
// has returned. cfg must not be changed afterwards.
func (s *Speaker) Set(cfg speaker.Config) {
	s.mu.Lock()
	s.config = &cfg
	s.mu.Unlock()
	select {
	case s.configured <- struct{}{}:
	default:
	}
}

// ForwardingVerified says that the kernel holds the routes it held when the
// last speaker ended: OPENs may claim that forwarding was kept.
func (s *Speaker) ForwardingVerified() {
	s.verified.Store(true)
	s.mu.Lock()
	for _, p := range s.peers {
		p.orders.leave(func(o *orders) { o.verified = true })
	}
	s.mu.Unlock()
	s.openGate()
}

func (s *Speaker) openGate() { s.gateOnce.Do(func() { close(s.gate) }) }

// changed has the agent told.
func (s *Speaker) changed() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// tell calls OnChange for what changed.
func (s *Speaker) tell(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.news:
			if s.complete.Load() {
				s.opts.OnChange()
			}
		}
	}
}

// apply brings peers, table and listener to the wanted configuration.
func (s *Speaker) apply() {
	s.mu.Lock()
	if s.config == nil || s.closed {
		s.mu.Unlock()
		return
	}
	cfg := *s.config
	wanted := make(map[netip.Addr]peerConfig, len(cfg.Peers))
	keys := map[netip.Addr]string{}
	for _, p := range cfg.Peers {
		wanted[p.Addr] = newPeerConfig(cfg, p)
		if p.Password != "" && wanted[p.Addr].invalid == nil {
			keys[p.Addr] = p.Password
		}
	}
	for addr, p := range s.peers {
		if _, kept := wanted[addr]; !kept {
			s.dismiss(addr, p)
		}
	}
	changed := s.rib.configure(cfg)
	for addr, want := range wanted {
		changed = s.employ(addr, want) || changed
	}
	s.listener.set(s.ctx, cfg.Listen, keys)
	s.mu.Unlock()
	if first := cfg.Complete && s.complete.CompareAndSwap(false, true); first || changed {
		s.changed()
	}
}

// dismiss takes leave of a peer that is no longer configured.
func (s *Speaker) dismiss(addr netip.Addr, p *peer) {
	delete(s.peers, addr)
	p.orders.leave(func(o *orders) {
		o.end = &farewell{
			notification: &message.Notification{Code: message.Cease, Subcode: message.PeerDeconfigured},
			reason:       "removed from the configuration",
		}
	})
}

// employ makes or changes the peer at addr; it says whether it is new.
func (s *Speaker) employ(addr netip.Addr, want peerConfig) (fresh bool) {
	if p := s.peers[addr]; p != nil {
		if p.wanted.peer != want.peer || p.wanted.session != want.session {
			p.wanted = want
			p.orders.leave(func(o *orders) { o.config = &want })
		}
		return false
	}
	p := newPeer(s, want)
	p.wanted = want
	s.peers[addr] = p
	s.wg.Go(func() {
		p.run(s.ctx)
		p.linger.Wait()
		close(p.left)
	})
	return true
}

// accept takes a connection from the listener, or says why not.
func (s *Speaker) accept(tcp *net.TCPConn, from netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.peers[from]
	switch {
	case p == nil:
		return fault.New(fault.NotFound, "no BGP peer has this address")
	case p.wanted.invalid != nil:
		return p.wanted.invalid
	case p.wanted.peer.Password != "":
		// The connection may have been made before the listening socket knew
		// the key. With the key on it, unsigned segments are dropped.
		raw, err := tcp.SyscallConn()
		if err == nil {
			err = control(raw, func(fd int) error { return setMD5(fd, from, p.wanted.peer.Password) })
		}
		if err != nil {
			return err
		}
	}
	p.orders.leaveAccepted(tcp)
	return nil
}

// Shutdown takes leave of all peers with a Cease (administrative shutdown) that
// carries reason (RFC 9003), and has them drop our routes even where they keep
// them over restarts: for drain and uninstall. It returns when all are told or
// ctx ends. No session comes up after it.
func (s *Speaker) Shutdown(ctx context.Context, reason string) {
	s.mu.Lock()
	s.closed = true
	var leaving []*peer
	for addr, p := range s.peers {
		delete(s.peers, addr)
		p.orders.leave(func(o *orders) {
			o.end = &farewell{notification: message.Shutdown(message.AdminShutdown, reason), reason: "shut down: " + reason}
		})
		leaving = append(leaving, p)
	}
	s.listener.set(ctx, netip.AddrPort{}, nil)
	s.mu.Unlock()
	s.forgetRun()
	for _, p := range leaving {
		select {
		case <-p.left:
		case <-ctx.Done():
			return
		}
	}
	s.changed()
}

// forgetRun makes the next start look like the first of this boot: the peers
// keep nothing of ours.
func (s *Speaker) forgetRun() {
	if s.opts.StateDir == "" {
		return
	}
	if err := os.Remove(filepath.Join(s.opts.StateDir, restartFile)); err != nil && !os.IsNotExist(err) {
		s.log.Warn("restart state stays behind", "err", err)
	}
}

// Sessions are all peers' sessions, sorted by address.
func (s *Speaker) Sessions() []speaker.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	sessions := make([]speaker.Session, 0, len(s.peers))
	for addr, p := range s.peers {
		session := p.view.Load().session
		session.Received, session.Sent = s.rib.counts(addr)
		session.MessagesReceived, session.MessagesSent = p.total.received.Load(), p.total.sent.Load()
		sessions = append(sessions, session)
	}
	slices.SortFunc(sessions, func(a, b speaker.Session) int { return a.Peer.Compare(b.Peer) })
	return sessions
}

// Unsynced are the configured peers that have not delivered their first full
// set of routes since Run began: an End-of-RIB, or for peers that send none a
// moment of being Established. Asked are all configured peers. Once the restart
// time (120 s) is over nobody is waited for: the one is empty, the other nil.
func (s *Speaker) Unsynced() (unsynced, asked map[netip.Addr]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	unsynced = map[netip.Addr]bool{}
	if s.impatient.Load() {
		return unsynced, nil
	}
	asked = make(map[netip.Addr]bool, len(s.peers))
	for addr, p := range s.peers {
		asked[addr] = true
		if !p.view.Load().synced {
			unsynced[addr] = true
		}
	}
	return unsynced, asked
}

// Learned is the best learned path to each prefix, without those we originate.
// It never changes; as long as no best path changed it is the same value.
func (s *Speaker) Learned() cluster.Learned { return s.rib.learned() }

// Paths is every path to every prefix and what decided for or against it,
// sorted by prefix, the best first.
func (s *Speaker) Paths() []speaker.Path { return s.rib.paths() }

// PathsTo is the part of Paths that concerns prefix.
func (s *Speaker) PathsTo(prefix netip.Prefix) []speaker.Path { return s.rib.pathsTo(prefix) }
