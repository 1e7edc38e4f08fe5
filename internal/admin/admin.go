// SPDX-License-Identifier: Apache-2.0

// Package admin is the agent's door for people: JSON over HTTP on a root-only
// unix socket, and the client the command line uses. It shows and it drains;
// it decides nothing.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"syscall"
	"time"

	v1 "github.com/ocicat-net/ocicat/api/v1"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// Route is one learned prefix: what was learned, what should be in the kernel
// and what is.
type Route struct {
	Prefix netip.Prefix `json:"prefix"`
	From   string       `json:"from"`             // peer it was learned from
	Want   string       `json:"want,omitempty"`   // the route as iproute2 prints it; "" when refused
	Kernel string       `json:"kernel,omitempty"` // what the kernel has for the prefix
	State  string       `json:"state"`            // installed, missing, differs, refused, own
	Reason string       `json:"reason,omitempty"`
}

// Endpoint is one attached pod as the agent knows it.
type Endpoint struct {
	cluster.Endpoint
	NetnsPath string `json:"netnsPath"`
}

// Source is the agent behind the door.
type Source interface {
	Ready() error                                // nil once the agent serves pods and its routes were verified
	Report() *v1.NodeStatus                      // what it also publishes to the datastore
	Sessions() []speaker.Session                 // with every configured peer
	Paths() []speaker.Path                       // all the speaker knows
	Routes(ctx context.Context) ([]Route, error) // what was learned beside what the kernel holds
	Endpoints() []Endpoint                       // attached pods
}

// Drainer ends the agent's sessions with a Cease: what must move moves first.
type Drainer interface {
	// Drain returns when the peers were told, or with why they were not.
	Drain(ctx context.Context, reason string) error
}

// Door is what an agent lets people do.
type Door struct {
	Source  Source
	Drainer Drainer
	Tracer  Tracer
}

// Server answers on a unix socket.
type Server struct {
	path  string
	http  *http.Server
	ready chan struct{}
}

// New returns a server for door on the socket path, which only root may open.
func New(path string, door Door, log *slog.Logger) *Server {
	return &Server{path: path, ready: make(chan struct{}), http: newHTTP(door.routes(), log)}
}

// newHTTP bounds what a client can cost.
func newHTTP(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      60 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// String names the task.
func (s *Server) String() string { return "admin " + s.path }

// Ready is closed once the socket is open.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	listener, err := listen(s.path)
	if err != nil {
		return err
	}
	close(s.ready)
	stop := context.AfterFunc(ctx, func() { _ = s.http.Close() })
	defer stop()
	if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fault.New(fault.Internal, "serve %s: %w", s.path, err)
	}
	return nil
}

// listen opens the socket under a temporary name and moves it into place, so
// that nobody ever finds it with wrong permissions. The agent's lock, taken
// before, makes sure that nobody serves the old one.
func listen(path string) (net.Listener, error) {
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fault.New(fault.Internal, "remove stale socket %s: %w", fresh, err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if errors.Is(err, syscall.ENOSPC) && os.Remove(path) == nil { // what the last agent left makes room
		listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	}
	if err != nil {
		return nil, fault.New(fault.Internal, "listen on %s: %w", path, err)
	}
	listener.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(fresh, 0o600), os.Rename(fresh, path)); err != nil {
		_ = listener.Close()
		return nil, fault.New(fault.Internal, "listen on %s: %w", path, err)
	}
	return listener, nil
}

func (d Door) routes() *http.ServeMux {
	src, mux := d.Source, http.NewServeMux()
	traceRoutes(mux, d.Tracer)
	mux.HandleFunc("GET /v1/ready", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, struct{}{}, src.Ready())
	})
	mux.HandleFunc("GET /v1/report", func(w http.ResponseWriter, _ *http.Request) { answer(w, src.Report(), nil) })
	mux.HandleFunc("GET /v1/sessions", func(w http.ResponseWriter, _ *http.Request) { answer(w, src.Sessions(), nil) })
	mux.HandleFunc("GET /v1/paths", func(w http.ResponseWriter, _ *http.Request) { answer(w, src.Paths(), nil) })
	mux.HandleFunc("GET /v1/endpoints", func(w http.ResponseWriter, _ *http.Request) { answer(w, src.Endpoints(), nil) })
	mux.HandleFunc("GET /v1/routes", func(w http.ResponseWriter, r *http.Request) {
		list, err := src.Routes(r.Context())
		answer(w, list, err)
	})
	mux.HandleFunc("POST /v1/drain", func(w http.ResponseWriter, r *http.Request) {
		answer(w, struct{}{}, d.Drainer.Drain(r.Context(), r.URL.Query().Get("reason")))
	})
	return mux
}

// failure is the body of an answer that is not 200.
type failure struct {
	Kind string `json:"kind"`
	Text string `json:"error"`
	Hint string `json:"hint,omitempty"`
}

func failureOf(err error) *failure {
	return &failure{Kind: fault.KindOf(err).String(), Text: err.Error(), Hint: fault.HintOf(err)}
}

func (f failure) err() error {
	return &fault.Error{Kind: fault.ParseKind(f.Kind), Text: f.Text, Hint: f.Hint}
}

func answer(w http.ResponseWriter, body any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(fault.KindOf(err).HTTPStatus())
		body = failureOf(err)
	}
	_ = json.NewEncoder(w).Encode(body) // the client is gone: nobody to tell
}
