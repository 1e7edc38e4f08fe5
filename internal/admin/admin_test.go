// SPDX-License-Identifier: Apache-2.0

package admin_test

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/api/meta"
	v1 "github.com/ocicat-net/ocicat/api/v1"
	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/probe"
	"github.com/ocicat-net/ocicat/internal/speaker"
	"github.com/ocicat-net/ocicat/internal/trace"
)

type fakeAgent struct{ drained string }

func (*fakeAgent) Ready() error { return nil }
func (*fakeAgent) Report() *v1.NodeStatus {
	return &v1.NodeStatus{Metadata: meta.Object{Name: "n1"}, Status: v1.NodeReport{Counts: v1.Counts{Drift: 3}}}
}
func (*fakeAgent) Sessions() []speaker.Session { return []speaker.Session{{Name: "n2"}} }
func (*fakeAgent) Paths() []speaker.Path       { return nil }
func (*fakeAgent) Endpoints() []admin.Endpoint { return nil }
func (*fakeAgent) Routes(context.Context) ([]admin.Route, error) {
	return nil, fault.Hint(fault.New(fault.Unavailable, "read routes: interrupted"), "try again")
}

func (f *fakeAgent) Drain(_ context.Context, reason string) error {
	f.drained = reason
	return nil
}

func TestClientSeesWhatTheAgentSays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	agent := &fakeAgent{}
	server := admin.New(path, admin.Door{Source: agent, Drainer: agent}, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	<-server.Ready()

	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket mode %v, %v: want 0600", info.Mode(), err)
	}
	client := admin.Dial(path)
	if r, err := client.Report(ctx); err != nil || r.Metadata.Name != "n1" || r.Status.Counts.Drift != 3 {
		t.Errorf("report %+v, %v", r, err)
	}
	if list, err := client.Sessions(ctx); err != nil || len(list) != 1 || list[0].Name != "n2" {
		t.Errorf("sessions %+v, %v", list, err)
	}
	if _, err := client.Routes(ctx); !fault.Is(err, fault.Unavailable) || fault.HintOf(err) != "try again" {
		t.Errorf("routes: kind and hint are lost: %v", err)
	}
	if err := client.Drain(ctx, "upgrade & more"); err != nil || agent.drained != "upgrade & more" {
		t.Errorf("drain %q, %v", agent.drained, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("end of context: %v", err)
	}
	if err := client.Ready(t.Context()); !fault.Is(err, fault.Unavailable) || fault.HintOf(err) == "" {
		t.Errorf("agent gone: %v", err)
	}
}

// fakeSite has one device, hears what it sends, and fails where it is told to.
type fakeSite struct{ broken bool }

func (f *fakeSite) Site(_ context.Context, places []trace.Place) (probe.Site, func(), error) {
	if len(places) != 1 || places[0].Node != "n1" {
		return nil, nil, fault.New(fault.Internal, "places %v", places)
	}
	return f, func() {}, nil
}

func (*fakeSite) Route(_ trace.Place, q trace.Query) (host.Route, bool, error) {
	return host.Route{Dst: netip.PrefixFrom(q.Dst, 32), Dev: "eth0"}, true, nil
}

func (*fakeSite) Neigh(_ trace.Place, dev string, ip netip.Addr) (host.Neigh, bool, error) {
	return host.Neigh{Dev: dev, IP: ip, MAC: host.MAC{2}}, true, nil
}

func (*fakeSite) Link(_ trace.Place, dev string) (host.Link, bool, error) {
	return host.Link{Name: dev}, dev == "eth0", nil
}

func (*fakeSite) Masquerades(_ trace.Place, src, dst netip.Addr) (bool, error) {
	return src.Less(dst), nil
}

func (f *fakeSite) Sysctl(trace.Place, string) (string, error) {
	if f.broken {
		return "", fault.Hint(fault.New(fault.Unavailable, "read: broken"), "mend it")
	}
	return "1", nil
}

func (f *fakeSite) Send(context.Context, probe.Sender, netip.Addr, probe.Tag) (time.Time, error) {
	return time.Now(), nil
}

func (f *fakeSite) Listen(ctx context.Context, tag probe.Tag, taps []probe.Tap, ready func(), each func(probe.Capture)) error {
	ready()
	if f.broken {
		return fault.New(fault.Internal, "no packet socket")
	}
	for i := range 2 {
		each(probe.Capture{Frame: trace.Frame{At: taps[0].At, Dev: taps[0].Dev, TTL: 64 - i, Reply: i == 1}, Time: time.Now(), Raw: tag[:]})
	}
	<-ctx.Done()
	return nil
}

// TestTraceThroughTheDoor: what an agent's kernels answer arrives as it was
// given, frames while they come, and failures with kind and hint.
func TestTraceThroughTheDoor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	agent, kernels := &fakeAgent{}, &fakeSite{}
	server := admin.New(path, admin.Door{Source: agent, Drainer: agent, Tracer: kernels}, slog.New(slog.DiscardHandler))
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	running.Go(func() { _ = server.Run(ctx) })
	defer running.Wait()
	defer cancel()
	<-server.Ready()

	at, pod := trace.Place{Node: "n1"}, netip.MustParseAddr("172.16.196.1")
	site := probe.Sites{"n1": admin.Dial(path).Site(ctx)}
	if r, ok, err := site.Route(at, trace.Query{Dst: pod}); !ok || err != nil || r.Dst.Addr() != pod || r.Dev != "eth0" {
		t.Errorf("route %v, %t, %v", r, ok, err)
	}
	if n, ok, err := site.Neigh(at, "eth0", pod); !ok || err != nil || n.IP != pod || n.MAC != (host.MAC{2}) {
		t.Errorf("neighbour %v, %t, %v", n, ok, err)
	}
	if l, ok, err := site.Link(at, "eth0"); !ok || err != nil || l.Name != "eth0" {
		t.Errorf("link %v, %t, %v", l, ok, err)
	}
	if _, ok, err := site.Link(at, "eth7"); ok || err != nil {
		t.Errorf("a link that is not there: %t, %v", ok, err)
	}
	result, err := probe.Run(ctx, site, probe.Sender{At: at, Addr: pod}, pod, []probe.Tap{{At: at, Dev: "eth0"}}, 2)
	if err != nil || len(result.Captures) != 2 || result.ReplyTTL != 63 || len(result.Captures[0].Raw) != 16 {
		t.Errorf("probe: %+v, %v", result, err)
	}
	kernels.broken = true
	if _, err := site.Sysctl(at, "net/ipv4/ip_forward"); !fault.Is(err, fault.Unavailable) || fault.HintOf(err) != "mend it" {
		t.Errorf("a broken kernel: %v", err)
	}
	if _, err := probe.Run(ctx, site, probe.Sender{At: at, Addr: pod}, pod, []probe.Tap{{At: at, Dev: "eth0"}}, 2); err == nil {
		t.Error("a tap that breaks is no error")
	}
	if _, err := site.Sysctl(trace.Place{Node: "n2"}, "x"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a node out of reach: %v", err)
	}
}
