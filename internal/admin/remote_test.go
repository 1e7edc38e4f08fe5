// SPDX-License-Identifier: Apache-2.0

package admin_test

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/trace"
)

// fakeReviewer knows tokens by the user they begin with.
type fakeReviewer struct {
	asked atomic.Int32
	away  atomic.Bool
}

func (f *fakeReviewer) Review(_ context.Context, token, audience string) (string, error) {
	f.asked.Add(1)
	user, ok := strings.CutSuffix(token, " for "+audience)
	switch {
	case f.away.Load():
		return "", fault.New(fault.Unavailable, "no answer")
	case !ok:
		return "", fault.New(fault.NotFound, "for another audience")
	}
	return user, nil
}

// freeAddr is a loopback address nobody listens on.
func freeAddr(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}

// TestNetworkDoor: tracers look and trace, admins drain too, and nobody else
// gets an answer; the API server is asked once for each token.
func TestNetworkDoor(t *testing.T) {
	addr, agent, reviewer := freeAddr(t), &fakeAgent{}, &fakeReviewer{}
	door := admin.Door{Source: agent, Drainer: agent, Tracer: &fakeSite{}}
	guests := admin.Guests{Tracers: []string{"tracer"}, Admins: []string{"admin"}}
	remote := admin.NewRemote(addr, door, reviewer, guests, slog.New(slog.DiscardHandler))
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	running.Go(func() { _ = remote.Run(ctx) })
	defer running.Wait()
	defer cancel()
	<-remote.Ready()

	as := func(token string) *admin.Client {
		connect := func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr.String())
		}
		return admin.DialBy("n1", connect, func() string { return token })
	}
	look := func(c *admin.Client) error { _, err := c.Report(ctx); return err }
	follow := func(c *admin.Client) error {
		_, err := c.Site(ctx).Sysctl(trace.Place{Node: "n1"}, "x")
		return err
	}
	drain := func(c *admin.Client) error { return c.Drain(ctx, "test") }
	for _, test := range []struct {
		token               string
		look, follow, drain bool
	}{
		{"tracer for ocicat", true, true, false},
		{"admin for ocicat", true, true, true},
		{"somebody for ocicat", false, false, false},
		{"admin for the API server", false, false, false},
		{"", false, false, false},
	} {
		c := as(test.token)
		for name, try := range map[string]struct {
			do func(*admin.Client) error
			ok bool
		}{"look": {look, test.look}, "trace": {follow, test.follow}, "drain": {drain, test.drain}} {
			agent.drained = ""
			err := try.do(c)
			if try.ok != (err == nil) || !try.ok && !fault.Is(err, fault.Invalid) || agent.drained != "" != (name == "drain" && try.ok) {
				t.Errorf("%s with token %q: %v, drained %q; may: %t", name, test.token, err, agent.drained, try.ok)
			}
		}
	}
	if asked := reviewer.asked.Load(); asked != 6 { // a valid one is remembered, a refused one is not
		t.Errorf("the API server was asked %d times, want 6", asked)
	}
	reviewer.away.Store(true)
	if err := look(as("new for ocicat")); !fault.Is(err, fault.Unavailable) {
		t.Errorf("without the API server: %v", err)
	}
	if err := look(as("tracer for ocicat")); err != nil {
		t.Errorf("a token just seen, without the API server: %v", err)
	}
}

func TestNetworkDoorIsOnLoopback(t *testing.T) {
	r := admin.NewRemote(netip.MustParseAddrPort("192.0.2.1:9098"), admin.Door{}, nil, admin.Guests{}, slog.New(slog.DiscardHandler))
	if err := r.Run(t.Context()); !fault.Is(err, fault.Invalid) {
		t.Errorf("listens elsewhere: %v", err)
	}
}
