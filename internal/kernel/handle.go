// SPDX-License-Identifier: Apache-2.0

// Package kernel is the edge to the kernel's network: it observes, changes and
// watches links, addresses, routes, neighbours, per-device settings and
// connections of one network namespace, by netlink and /proc/sys. It decides
// nothing: what should be is a host.State or a core.EndpointState of its
// callers, and what is not asked for is not touched.
package kernel

import (
	"context"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/netns"
)

// maxIdle is how many idle sockets a Handle keeps for its next callers.
const maxIdle = 8

// Handle reaches one network namespace. Its methods may be called from any
// goroutine, whatever namespace its thread is in.
type Handle struct {
	netns    *os.File
	settings string // where /proc/sys is written, with a slash at the end

	mu   sync.Mutex
	idle []*socket

	writing sync.Mutex // held while routes are written
	writer  *socket    // of ApplyRoutes; nil until the first
}

// Open returns a Handle of the calling thread's network namespace.
func Open() (*Handle, error) {
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, wrap("open network namespace", err)
	}
	return &Handle{netns: f, settings: procSys}, nil
}

// OpenAt returns a Handle of the network namespace netns, of which it keeps
// its own file.
func OpenAt(netns *os.File) (*Handle, error) {
	fd, err := unix.FcntlInt(netns.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, wrap("open network namespace", err)
	}
	return &Handle{netns: os.NewFile(uintptr(fd), netns.Name()), settings: procSys}, nil
}

// WriteSettingsBelow makes the Handle write settings below dir instead of
// /proc/sys, which is read-only in a container without privileges: there dir
// holds a writable mount of the host's /proc/sys/net, as "net". What is written
// are the settings of the Handle's namespace, as it is with /proc/sys. It is to
// be called before any other method.
func (h *Handle) WriteSettingsBelow(dir string) { h.settings = filepath.Clean(dir) + "/" }

// Close gives up the namespace. No other method may run or be called after.
func (h *Handle) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.idle {
		s.close()
	}
	h.idle = nil
	if h.writer != nil {
		h.writer.close()
	}
	return h.netns.Close()
}

// enter runs f on a thread in the Handle's namespace.
func (h *Handle) enter(f func() error) error { return netns.Do(h.netns, f) }

// withSocket lends f a netlink socket of the namespace. f returns an error
// only if the socket is of no more use.
func (h *Handle) withSocket(f func(*socket) error) error {
	s, err := h.takeSocket()
	if err != nil {
		return err
	}
	if err := f(s); err != nil {
		s.close()
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.idle) == maxIdle {
		s.close()
		return nil
	}
	h.idle = append(h.idle, s)
	return nil
}

func (h *Handle) takeSocket() (*socket, error) {
	h.mu.Lock()
	if n := len(h.idle); n > 0 {
		s := h.idle[n-1]
		h.idle = h.idle[:n-1]
		h.mu.Unlock()
		return s, nil
	}
	h.mu.Unlock()
	return h.openSocket(unix.NETLINK_ROUTE)
}

// openSocket opens a netlink socket in the Handle's namespace.
func (h *Handle) openSocket(protocol int) (*socket, error) {
	var s *socket
	err := h.enter(func() (err error) {
		s, err = openSocket(protocol)
		return err
	})
	return s, err
}

// send makes the kernel do the messages of b and returns one error per
// message.
func (h *Handle) send(ctx context.Context, b *batch) []error {
	var errs []error
	if err := h.withSocket(func(s *socket) (err error) {
		errs, err = s.send(ctx, b, nil)
		return err
	}); err != nil && errs == nil {
		errs = make([]error, len(b.msgs))
		fillErrors(errs, err)
	}
	return errs
}

// sendRoutes is send by the one socket whose writes MonitorOthers leaves out.
func (h *Handle) sendRoutes(ctx context.Context, b *batch) []error {
	h.writing.Lock()
	defer h.writing.Unlock()
	s, err := h.routeWriter()
	if err != nil {
		errs := make([]error, len(b.msgs))
		fillErrors(errs, err)
		return errs
	}
	errs, err := s.send(ctx, b, nil)
	if err != nil {
		s.close()
		h.writer = nil
	}
	return errs
}

// routeWriter opens the socket of ApplyRoutes unless it is open; the caller
// holds writing.
func (h *Handle) routeWriter() (*socket, error) {
	if h.writer == nil {
		s, err := h.openSocket(unix.NETLINK_ROUTE)
		if err != nil {
			return nil, err
		}
		h.writer = s
	}
	return h.writer, nil
}

// sendKeyed is send with the error of each message under its key.
func (h *Handle) sendKeyed(ctx context.Context, b *batch, keys []string) []error {
	errs := h.send(ctx, b)
	for i, err := range errs {
		errs[i] = keyed(keys[i], err)
	}
	return errs
}

// dump asks for everything the message of b describes; see socket.dump.
func (h *Handle) dump(ctx context.Context, b *batch, begin func(), each func(reply)) error {
	return h.withSocket(func(s *socket) error { return s.dump(ctx, b, begin, each) })
}
