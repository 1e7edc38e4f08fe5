// SPDX-License-Identifier: Apache-2.0

// Package cniserver is the agent's door for the CNI plugin: a unix socket
// that only root may use, one request per connection. It decides who may ask,
// how long, how many at once and in which order; what a request does is its
// Handler's matter.
package cniserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
)

// Limits of the door. A request beyond maxActive waits in the kernel's queue
// until another is done or its own deadline passes.
const (
	maxActive    = 256
	readTimeout  = 5 * time.Second // for a connected plugin to send its request
	writeTimeout = 2 * time.Second // for it to take the answer
	maxDeadline  = 5 * time.Minute // whatever the plugin says
)

// Handler serves requests that were read whole and checked. Requests of one
// attachment reach it one after the other, all others in parallel.
//
// ctx ends when the plugin is gone, its deadline passed or the server stops:
// then nobody reads the answer, and what the call itself began must be undone
// before it returns. Errors should be of a fault kind; their text goes to the
// runtime with the code of the kind or of cniwire.WithCode.
type Handler interface {
	// Add attaches. A repeated Add answers what the first one did. The server
	// closes req.NetNS when Add returns.
	Add(ctx context.Context, req cniwire.AddRequest) (cniwire.AddResult, error)
	// Del detaches; that nothing is attached is no error.
	Del(ctx context.Context, req cniwire.DelRequest) error
	// Check says how the attachment differs from what Add made of it, and
	// changes nothing. The server closes req.NetNS when Check returns.
	Check(ctx context.Context, req cniwire.CheckRequest) error
	// GC detaches what req does not list of its network. The runtime keeps
	// ADD and DEL out meanwhile (specification 1.1).
	GC(ctx context.Context, req cniwire.GCRequest) error
	// Status says why an Add would not succeed. Unless the error has a code,
	// it travels as code 50.
	Status(ctx context.Context, req cniwire.StatusRequest) error
}

// Server is the door. Make one with New.
type Server struct {
	path    string
	handler Handler
	log     *slog.Logger
	ready   chan struct{}
	turns   turns
}

// New returns a server for the socket path that passes requests to h.
func New(path string, h Handler, log *slog.Logger) *Server {
	return &Server{path: path, handler: h, log: log, ready: make(chan struct{})}
}

// String names the task in logs.
func (s *Server) String() string { return "cni server " + s.path }

// Ready is closed when the socket accepts requests.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run serves until ctx ends, then waits for the requests begun, whose own
// contexts have ended by then, and removes the socket. It returns nil, or the
// reason why the door could not open: Conflict when another agent has it.
func (s *Server) Run(ctx context.Context) error {
	door, err := open(s.path)
	if err != nil {
		return err
	}
	defer door.close()
	stop := context.AfterFunc(ctx, func() { door.listener.Close() })
	defer stop()
	close(s.ready)

	var active sync.WaitGroup
	defer active.Wait()
	slots := make(chan struct{}, maxActive)
	for {
		slots <- struct{}{}
		conn, err := door.listener.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accept on %s: %w", s.path, err)
			}
			s.log.Warn("plugin cannot connect", "socket", s.path, "error", err)
			pause(ctx, 100*time.Millisecond)
			<-slots
			continue
		}
		active.Go(func() {
			defer func() { <-slots }()
			s.serve(ctx, conn)
		})
	}
}

// pause waits for d, which lets descriptors become free, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// serve reads one request, has it handled and answers.
func (s *Server) serve(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	req, netns, err := read(conn)
	if netns != nil {
		defer netns.Close()
	}
	if err == nil {
		err = admit(req, netns)
	}
	var answer cniwire.Answer
	if err == nil {
		answer.Add, err = s.handle(ctx, conn, req)
	}
	if errors.Is(err, errGone) {
		s.log.Debug("request dropped", "verb", req.Verb(), "id", req.ID(), "reason", err)
		return
	}
	if err != nil {
		level := slog.LevelWarn
		if req.Status != nil {
			level = slog.LevelDebug // runtimes ask every few seconds
		}
		s.log.Log(ctx, level, "request refused", "verb", req.Verb(), "id", req.ID(), "error", err)
		answer = cniwire.Answer{Error: cniwire.NewError(err)}
	}
	answer.V = cniwire.Version
	if err := write(conn, answer); err != nil {
		s.log.Debug("answer not taken", "verb", req.Verb(), "id", req.ID(), "error", err)
	}
}

// admit checks what DecodeRequest cannot: the descriptor, and puts it where it
// belongs.
func admit(req cniwire.Request, netns *os.File) error {
	place, path := req.NetNS()
	switch {
	case place == nil && netns != nil:
		return fault.New(fault.Invalid, "a %s request carries a file descriptor", req.Verb())
	case place == nil:
		return nil
	case netns == nil:
		return fault.New(fault.Invalid, "the %s request carries no network namespace", req.Verb())
	}
	if err := cniwire.CheckNetNS(int(netns.Fd())); err != nil {
		return fmt.Errorf("network namespace %s %w", cniwire.Short(path), err)
	}
	*place = netns
	return nil
}

// handle waits for the request's turn and calls the handler.
func (s *Server) handle(ctx context.Context, conn *net.UnixConn, req cniwire.Request) (*cniwire.AddResult, error) {
	now := cniwire.Now()
	deadline := min(max(req.Deadline, now), now+maxDeadline.Nanoseconds())
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(deadline-now), errLate)
	defer cancel()
	ctx, gone := context.WithCancelCause(ctx)
	defer gone(nil)
	go watch(conn, gone)

	if req.Status == nil { // all GCs have one turn, that of the zero ID
		done, err := s.turns.take(ctx, req.ID())
		if err != nil {
			return nil, ended(ctx)
		}
		defer done()
	}
	if ctx.Err() != nil {
		return nil, ended(ctx)
	}
	result, err := s.call(ctx, req)
	if err != nil && ctx.Err() != nil {
		return nil, ended(ctx)
	}
	return result, err
}

// ended says why ctx ended: nobody waits any more, or the agent stops.
func ended(ctx context.Context) error {
	if cause := context.Cause(ctx); errors.Is(cause, errGone) {
		return cause
	}
	return fault.Hint(fault.New(fault.Unavailable, "the agent is stopping"), "The runtime tries again by itself.")
}

// call is the one place that enters the handler; a panic there is an answer.
func (s *Server) call(ctx context.Context, req cniwire.Request) (result *cniwire.AddResult, err error) {
	defer func() {
		if p := recover(); p != nil {
			result, err = nil, s.crashed(req, p)
		}
	}()
	switch {
	case req.Add != nil:
		r, err := s.handler.Add(ctx, *req.Add)
		return &r, err
	case req.Del != nil:
		return nil, s.handler.Del(ctx, *req.Del)
	case req.Check != nil:
		return nil, s.handler.Check(ctx, *req.Check)
	case req.GC != nil:
		return nil, s.handler.GC(ctx, *req.GC)
	}
	return nil, statusCode(s.handler.Status(ctx, *req.Status))
}

// statusCode gives err the code that STATUS has for it.
func statusCode(err error) error {
	if coded := (*cniwire.Coded)(nil); err == nil || errors.As(err, &coded) {
		return err
	}
	return cniwire.WithCode(cniwire.CodeUnavailable, err)
}
