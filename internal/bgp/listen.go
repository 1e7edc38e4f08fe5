// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	relistenEvery = time.Second      // pause between tries to listen
	strangerEvery = 10 * time.Second // at most one log line about strangers in this time
)

// listener accepts the peers' connections on one address. It tries again by
// itself while it cannot listen, as before the address is there.
type listener struct {
	log     *slog.Logger
	inside  func(func() error) error             // runs what makes a socket
	accept  func(*net.TCPConn, netip.Addr) error // takes the connection, or says why not
	changed chan struct{}                        // capacity 1: addr changed
	refused sieve

	mu   sync.Mutex
	addr netip.AddrPort        // port 0: do not listen
	keys map[netip.Addr]string // MD5 keys by peer; not changed, only replaced
	ln   *net.TCPListener
}

func newListener(log *slog.Logger, inside func(func() error) error, accept func(*net.TCPConn, netip.Addr) error) *listener {
	return &listener{
		log: log, inside: inside, accept: accept,
		changed: make(chan struct{}, 1),
		refused: sieve{every: strangerEvery},
	}
}

// set changes address and keys; it takes ownership of keys. A key the kernel
// refuses is no error here: whoever accepts a connection of that peer must set
// it on the connection too, and so finds out.
func (l *listener) set(ctx context.Context, addr netip.AddrPort, keys map[netip.Addr]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.keys
	l.keys = keys
	if addr != l.addr {
		l.addr = addr
		l.shut()
		select {
		case l.changed <- struct{}{}:
		default:
		}
	}
	if l.ln != nil {
		l.rekey(old)
		return
	}
	_ = l.open(ctx) // run tries again, and says what is wrong
}

// rekey brings the open socket from the old keys to the present ones.
func (l *listener) rekey(old map[netip.Addr]string) {
	raw, err := l.ln.SyscallConn()
	if err != nil {
		return
	}
	want := maps.Clone(l.keys)
	for addr := range old {
		if _, kept := l.keys[addr]; !kept {
			want[addr] = ""
		}
	}
	for addr, key := range want {
		if old[addr] == key {
			continue
		}
		if err := control(raw, func(fd int) error { return setMD5(fd, addr, key) }); err != nil {
			l.log.Warn("listening socket refuses MD5 key", "peer", addr, "err", err)
		}
	}
}

// shut closes the socket, if there is one.
func (l *listener) shut() {
	if l.ln != nil {
		_ = l.ln.Close()
		l.ln = nil
	}
}

// run accepts connections until ctx ends.
func (l *listener) run(ctx context.Context) {
	defer context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.addr = netip.AddrPort{}
		l.shut()
	})()
	trouble := ""
	for ctx.Err() == nil {
		ln, err := l.current(ctx)
		if ln != nil {
			if trouble != "" {
				trouble = ""
				l.log.Info("listening for BGP again", "addr", ln.Addr())
			}
			l.serve(ctx, ln)
			continue
		}
		if err != nil && err.Error() != trouble {
			trouble = err.Error()
			l.log.Warn("cannot listen for BGP, trying on", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-l.changed:
		case <-time.After(relistenEvery):
		}
	}
}

// current is the open socket, opened if one is wanted; nil without an error
// means that none is.
func (l *listener) current(ctx context.Context) (*net.TCPListener, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ctx.Err() != nil {
		return nil, nil
	}
	err := l.open(ctx)
	return l.ln, err
}

// open opens the socket if one is wanted and there is none.
func (l *listener) open(ctx context.Context) error {
	if l.ln != nil || l.addr.Port() == 0 {
		return nil
	}
	return l.inside(func() error {
		// The runtime asks for the largest backlog the kernel allows
		// (net.core.somaxconn, 4096), so a storm of peers is not dropped.
		lc := net.ListenConfig{KeepAlive: -1, Control: onSocket(l.prepare)}
		lc.SetMultipathTCP(false) // the runtime's default for listeners, which knows no MD5 keys
		ln, err := lc.Listen(ctx, "tcp4", l.addr.String())
		if err == nil {
			l.ln = ln.(*net.TCPListener)
		}
		return err
	})
}

// prepare sets the keys before the socket can take a first connection.
func (l *listener) prepare(fd int) error {
	setPriority(fd)
	for addr, key := range l.keys {
		if err := setMD5(fd, addr, key); err != nil {
			l.log.Warn("listening socket refuses MD5 key", "peer", addr, "err", err)
		}
	}
	return nil
}

// serve hands over connections until the socket closes.
func (l *listener) serve(ctx context.Context, ln *net.TCPListener) {
	for ctx.Err() == nil {
		c, err := ln.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of file descriptors or memory: others need time to free some
			l.log.Warn("cannot accept a BGP connection", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		from := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		if err := l.accept(c, from); err != nil {
			_ = c.Close()
			if count, pass := l.refused.pass(time.Now()); pass {
				l.log.Warn("refused a BGP connection", "from", from, "err", err, "alike", count)
			}
		}
	}
}

// sieve lets one log line through in a while and counts the others.
type sieve struct {
	every time.Duration
	last  time.Time
	count int // since the last line
}

// pass says whether to log now, and how many were held back since last time.
func (s *sieve) pass(now time.Time) (held int, pass bool) {
	if !s.last.IsZero() && now.Sub(s.last) < s.every {
		s.count++
		return 0, false
	}
	held, s.count, s.last = s.count, 0, now
	return held, true
}
