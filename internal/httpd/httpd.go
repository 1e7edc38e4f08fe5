// SPDX-License-Identifier: Apache-2.0

// Package httpd answers HTTP at an address of the node for programs whose work
// does not depend on it: an address that cannot be listened on is a problem,
// which is told, and tried again.
package httpd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/problem"
)

// Limits of the door: it may be asked by anybody who reaches its address.
const (
	maxHeader     = 8 << 10
	answerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	listenRetry   = 5 * time.Second
)

// Config says what is answered where.
type Config struct {
	Name    string // of the task, in logs
	Addr    netip.AddrPort
	Handler http.Handler
	Code    problem.Code // of the problem that nothing is answered; it takes the address and the reason
	Log     *slog.Logger
	Changed func() // called when Problems may say something else
}

// Server answers at one address. Make one with New.
type Server struct {
	Config
	trouble atomic.Pointer[problem.Problem]
}

// New returns a server, which listens while it runs.
func New(config Config) *Server { return &Server{Config: config} }

// String names the task.
func (s *Server) String() string { return s.Name + " " + s.Addr.String() }

// Problems say why nothing is answered, if it is not. A nil server has none.
func (s *Server) Problems() []problem.Problem {
	if s == nil {
		return nil
	}
	if found := s.trouble.Load(); found != nil {
		return []problem.Problem{*found}
	}
	return nil
}

// Run serves until ctx ends. Its error is always nil.
func (s *Server) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := s.serve(ctx)
		if ctx.Err() != nil {
			return nil
		}
		s.tell(err)
		timer := time.NewTimer(listenRetry)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// tell makes err the problem, nil for none. It logs what is news.
func (s *Server) tell(err error) {
	var found *problem.Problem
	if err != nil {
		p := problem.New(s.Code, s.Addr.String(), s.Addr, err)
		found = &p
	}
	before := s.trouble.Swap(found)
	if found == nil && before == nil || found != nil && before != nil && *before == *found {
		return
	}
	if err != nil {
		s.Log.Warn("nothing is answered, trying on", "task", s.Name, "address", s.Addr, "error", err)
	}
	s.Changed()
}

func (s *Server) serve(ctx context.Context) error {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", s.Addr.String())
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			return op.Err // the address stands beside it
		}
		return err
	}
	s.tell(nil)
	server := &http.Server{
		Handler: s.Handler, MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
		ReadTimeout: answerTimeout, WriteTimeout: answerTimeout, IdleTimeout: idleTimeout,
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fault.New(fault.Internal, "serve: %w", err)
	}
	return nil
}
