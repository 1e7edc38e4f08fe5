// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// Audience is what a token must be made for to open an agent's network door: one
// made for the API server, as pods have them, does not.
const Audience = "ocicat"

// Reviewer knows whose a bearer token is. NotFound says that it is nobody's, or
// for another audience; Unavailable that nobody could be asked. A service
// account is "system:serviceaccount:NAMESPACE:NAME".
type Reviewer interface {
	// Review asks whose token it is, made for audience.
	Review(ctx context.Context, token, audience string) (user string, err error)
}

// Guests are the users that may come in by the network door: tracers look and
// trace, admins also drain.
type Guests struct{ Tracers, Admins []string }

// Remote is the door on a loopback address, for people who come by port-forward
// and show a short-lived token. What it lets nobody do is as on the unix socket.
type Remote struct {
	addr  netip.AddrPort
	http  *http.Server
	log   *slog.Logger
	ready chan struct{}
	once  sync.Once
}

// NewRemote returns the door at addr, which must be a loopback address.
func NewRemote(addr netip.AddrPort, door Door, reviewer Reviewer, guests Guests, log *slog.Logger) *Remote {
	g := &guard{reviewer: reviewer, guests: guests, next: door.routes(), known: map[[sha256.Size]byte]known{}, now: time.Now}
	return &Remote{addr: addr, http: newHTTP(g, log), log: log, ready: make(chan struct{})}
}

// String names the task.
func (r *Remote) String() string { return "admin " + r.addr.String() }

// Ready is closed once the address is listened on.
func (r *Remote) Ready() <-chan struct{} { return r.ready }

// listenRetry is the time between two tries to listen.
const listenRetry = 5 * time.Second

// Run serves until ctx ends. An address somebody else listens on is tried
// again: the door on the unix socket is open meanwhile.
func (r *Remote) Run(ctx context.Context) error {
	if !r.addr.Addr().IsLoopback() {
		return fault.New(fault.Invalid, "listen on %s: not a loopback address", r.addr)
	}
	stop := context.AfterFunc(ctx, func() { _ = r.http.Close() })
	defer stop()
	for warned := false; ; warned = true {
		var config net.ListenConfig
		listener, err := config.Listen(ctx, "tcp", r.addr.String())
		if err == nil {
			r.once.Do(func() { close(r.ready) })
			if err = r.http.Serve(listener); errors.Is(err, http.ErrServerClosed) {
				return nil
			}
		}
		if !warned && ctx.Err() == nil {
			r.log.Warn("people cannot reach this agent by the network, trying again", "address", r.addr, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(listenRetry):
		}
	}
}

// Limits of what a guard remembers. A review is a request to the API server,
// and a trace asks some twenty questions.
const (
	knownFor  = 30 * time.Second
	mostKnown = 256
)

// guard lets guests in.
type guard struct {
	reviewer Reviewer
	guests   Guests
	next     http.Handler
	now      func() time.Time

	mu    sync.Mutex
	known map[[sha256.Size]byte]known // by the token's hash
}

type known struct {
	user  string
	until time.Time
}

// ServeHTTP answers guests, and others that they may not.
func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || token == "" {
		answer(w, nil, fault.Hint(fault.New(fault.Invalid, "no bearer token"), "kubectl ocicat makes one; on the node itself, ocicat uses the unix socket."))
		return
	}
	user, err := g.user(r.Context(), token)
	if err == nil {
		err = g.guests.admit(user, r)
	}
	if err != nil {
		answer(w, nil, err)
		return
	}
	g.next.ServeHTTP(w, r)
}

// admit says why a user may not do what it asks for.
func (g Guests) admit(user string, r *http.Request) error {
	changes := r.Method != http.MethodGet && !strings.HasPrefix(r.URL.Path, "/v1/trace/")
	switch {
	case slices.Contains(g.Admins, user):
		return nil
	case !slices.Contains(g.Tracers, user):
		return fault.Hint(fault.New(fault.Invalid, "%s may not ask this agent", user), "Use a token of one of %s.", strings.Join(slices.Concat(g.Tracers, g.Admins), ", "))
	case changes:
		return fault.Hint(fault.New(fault.Invalid, "%s may look and trace, not change", user), "Use a token of %s.", strings.Join(g.Admins, ", "))
	}
	return nil
}

// user is whose token it is.
func (g *guard) user(ctx context.Context, token string) (string, error) {
	key := sha256.Sum256([]byte(token))
	g.mu.Lock()
	k := g.known[key]
	g.mu.Unlock()
	if g.now().Before(k.until) {
		return k.user, nil
	}
	user, err := g.reviewer.Review(ctx, token, Audience)
	if fault.Is(err, fault.NotFound) {
		return "", fault.Hint(fault.New(fault.Invalid, "the token is not valid: %w", err), "Make another: it must be for audience %s and not be over.", Audience)
	}
	if err != nil {
		return "", fault.Hint(fault.New(fault.KindOf(err), "review token: %w", err), "On the node itself, ocicat needs no API server.")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.known) >= mostKnown {
		clear(g.known)
	}
	g.known[key] = known{user, g.now().Add(knownFor)}
	return user, nil
}
