// SPDX-License-Identifier: Apache-2.0

package metrics

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
	maxScrapes    = 4 // at once; more are told to come later
	maxHeader     = 8 << 10
	scrapeTimeout = 10 * time.Second
	listenRetry   = 5 * time.Second
)

// Server answers GET /metrics at an address. Make one with NewServer.
type Server struct {
	addr    netip.AddrPort
	sources []Source
	log     *slog.Logger
	slots   chan struct{}
	trouble atomic.Pointer[problem.Problem]
	changed func()
}

// NewServer returns a server for addr. changed is called when Problems may
// say something else.
func NewServer(addr netip.AddrPort, log *slog.Logger, changed func(), sources ...Source) *Server {
	return &Server{addr: addr, sources: sources, log: log, slots: make(chan struct{}, maxScrapes), changed: changed}
}

// String names the task in logs.
func (s *Server) String() string { return "metrics server " + s.addr.String() }

// Problems say why metrics are not served, if they are not.
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
// problem and tried again: the agent's work does not depend on it.
func (s *Server) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := s.serve(ctx)
		if ctx.Err() != nil {
			return nil
		}
		s.tell(err)
		pause(ctx, listenRetry)
	}
	return nil
}

// tell makes err the problem, nil for none. It logs what is news.
func (s *Server) tell(err error) {
	var found *problem.Problem
	if err != nil {
		p := problem.New(problem.MetricsAway, s.addr.String(), s.addr, err)
		found = &p
	}
	before := s.trouble.Swap(found)
	if found == nil && before == nil || found != nil && before != nil && *before == *found {
		return
	}
	if err != nil {
		s.log.Warn("metrics not served, trying on", "address", s.addr, "error", err)
	}
	s.changed()
}

func (s *Server) serve(ctx context.Context) error {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", s.addr.String())
	if err != nil {
		return reason(err)
	}
	s.tell(nil)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", s.answer)
	server := &http.Server{
		Handler: mux, MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ReadTimeout: scrapeTimeout, WriteTimeout: scrapeTimeout, IdleTimeout: 2 * time.Minute,
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fault.New(fault.Internal, "serve: %w", err)
	}
	return nil
}

// reason is what the system says of a listen, without the address, which
// stands beside it.
func reason(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// answer writes one page.
func (s *Server) answer(w http.ResponseWriter, _ *http.Request) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		http.Error(w, "too many scrapes at once", http.StatusServiceUnavailable)
		return
	}
	var p Page
	for _, source := range s.sources {
		source.Collect(&p)
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	if _, err := p.WriteTo(w); err != nil {
		s.log.Debug("page of metrics not whole", "error", err)
	}
}

// pause waits for d or for the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
