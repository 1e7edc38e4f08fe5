// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/problem"
)

// Limits of the door.
const (
	maxHeader    = 8 << 10
	probeTimeout = 10 * time.Second
	listenRetry  = 5 * time.Second
)

// Probes are the questions.
type Probes struct {
	Alive func() error // nil, or why the process must be restarted
	Ready func() error // nil, or what it waits for
}

// Server answers `GET /liveness` and `GET /readiness` at an address: 200, or
// 503 and the reason. Make one with NewServer.
type Server struct {
	addr    netip.AddrPort
	probes  Probes
	log     *slog.Logger
	changed func()
	trouble atomic.Pointer[problem.Problem]
}

// NewServer returns a server for addr. changed is called when Problems may say
// something else.
func NewServer(addr netip.AddrPort, probes Probes, log *slog.Logger, changed func()) *Server {
	return &Server{addr: addr, probes: probes, log: log, changed: changed}
}

// String names the task.
func (s *Server) String() string { return "health server " + s.addr.String() }

// Problems say why probes are not answered, if they are not.
func (s *Server) Problems() []problem.Problem {
	if s == nil {
		return nil
	}
	if found := s.trouble.Load(); found != nil {
		return []problem.Problem{*found}
	}
	return nil
}

// Run serves until ctx ends. An address that cannot be listened on is a
// problem and tried again.
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

// tell makes err the problem, nil for none.
func (s *Server) tell(err error) {
	var found *problem.Problem
	if err != nil {
		p := problem.New(problem.HealthAway, s.addr.String(), s.addr, err)
		found = &p
	}
	before := s.trouble.Swap(found)
	if found == nil && before == nil || found != nil && before != nil && *before == *found {
		return
	}
	if err != nil {
		s.log.Warn("probes not answered, trying on", "address", s.addr, "error", err)
	}
	s.changed()
}

func (s *Server) serve(ctx context.Context) error {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", s.addr.String())
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			return op.Err // the address stands beside it
		}
		return err
	}
	s.tell(nil)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /liveness", answer(s.probes.Alive))
	mux.HandleFunc("GET /readiness", answer(s.probes.Ready))
	server := &http.Server{
		Handler: mux, MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ReadTimeout: probeTimeout, WriteTimeout: probeTimeout, IdleTimeout: 2 * time.Minute,
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fault.New(fault.Internal, "serve: %w", err)
	}
	return nil
}

func answer(question func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if err := question(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, err)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}
