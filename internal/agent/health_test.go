// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/api/meta"
	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/agent"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/install"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/resource"
	"github.com/ocicat-net/ocicat/internal/store"
)

// probe asks a probe of an agent; an answer that is none is code 0.
func probe(t *testing.T, path string) (code int, text string) {
	t.Helper()
	client := http.Client{Timeout: 5 * time.Second}
	answer, err := client.Get("http://127.0.0.1:9099" + path)
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Error(err)
	}
	return answer.StatusCode, string(body)
}

// onHost has the node's agent install itself into directories of the test and
// answer probes.
func (n *node) onHost() (bin, conf string) {
	source := n.t.TempDir()
	for _, name := range []string{"ocicat-cni", "portmap", "bandwidth", "loopback"} {
		if err := os.WriteFile(filepath.Join(source, name), []byte(name), 0o755); err != nil {
			n.t.Fatal(err)
		}
	}
	bin, conf = n.t.TempDir(), n.t.TempDir()
	n.cfg.Install = &install.Config{Source: source, BinDir: bin, NetDir: conf, Conflist: install.Conflist{File: install.DefaultFile, Network: install.DefaultNetwork}}
	n.cfg.Health = netip.MustParseAddrPort("127.0.0.1:9099")
	return bin, conf
}

// TestReadyWhenInstalled: an agent without peers is ready when pods can be
// served, and not before its plugin is in place.
func TestReadyWhenInstalled(t *testing.T) {
	n := newNode(t)
	_, conf := n.onHost()
	blocked := filepath.Join(conf, install.DefaultFile)
	if err := os.Mkdir(blocked, 0o700); err != nil { // nothing can be moved there
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(blocked, "full"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n.start()
	nstest.Eventually(t, 10*time.Second, func() bool {
		code, text := probe(t, "/readiness")
		return code == 503 && strings.Contains(text, "not installed yet")
	}, "the reason it is not ready")
	nstest.Eventually(t, 10*time.Second, func() bool { return n.hasProblem("OC3004") }, "OC3004")
	if code, text := probe(t, "/liveness"); code != 200 {
		t.Errorf("liveness %d %s: what cannot be installed is no reason for a restart", code, text)
	}
	if err := os.RemoveAll(blocked); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, 10*time.Second, func() bool { code, _ := probe(t, "/readiness"); return code == 200 }, "ready")
	if _, err := os.Stat(blocked); err != nil {
		t.Error(err)
	}
}

// TestReadyWithDeadPeer: a peer that is away holds an agent up only as long
// as its start may take.
func TestReadyWithDeadPeer(t *testing.T) {
	gate := new(agent.StartGate)
	waits := func() error { return io.ErrNoProgress }
	if err := gate.Pass(time.Second, waits); err == nil {
		t.Error("ready although BGP has not converged")
	}
	if err := gate.Pass(agent.StartWindow, waits); err != nil {
		t.Errorf("after the window: %v", err)
	}
	if err := gate.Pass(agent.StartWindow+time.Hour, waits); err != nil {
		t.Errorf("long after: %v", err)
	}
	gate = new(agent.StartGate)
	if err := gate.Pass(time.Second, func() error { return nil }); err != nil {
		t.Errorf("converged: %v", err)
	}
	if err := gate.Pass(2*time.Second, waits); err != nil {
		t.Errorf("once converged, a peer that goes away: %v", err)
	}
}

// TestWaitsForPeers: the start's readiness names the sessions that are missing.
func TestWaitsForPeers(t *testing.T) {
	n := newNode(t)
	n.onHost()
	n.put(&v3.BGPPeer{Type: meta.Type{APIVersion: v3.APIVersion, Kind: v3.KindBGPPeer}, Metadata: meta.Object{Name: "tor"}, Spec: v3.BGPPeerSpec{PeerIP: "192.168.0.250", ASNumber: 64512}})
	n.start()
	nstest.Eventually(t, 10*time.Second, func() bool {
		code, text := probe(t, "/readiness")
		return code == 503 && strings.Contains(text, "0 of 1 BGP sessions established")
	}, "the session is named")
	if err := n.agent.Ready(); err != nil {
		t.Errorf("pods can be served, but: %v", err)
	}
}

// hanging is an edge that hangs from the second write on, until it is let go.
type hanging struct {
	agent.Nftables
	calls *atomic.Int32
	let   chan struct{}
}

func (h hanging) Apply(want host.Table) (bool, error) {
	if h.calls.Add(1) > 1 {
		<-h.let
	}
	return h.Nftables.Apply(want)
}

// TestStuckLoop: a section that hangs fails the probe of life, with its name,
// and nothing else does; the probe recovers with it.
func TestStuckLoop(t *testing.T) {
	n := newNode(t)
	n.onHost()
	let := make(chan struct{})
	n.prepare = func(a *agent.Agent) {
		a.ReplaceFilter(func(real agent.Nftables) agent.Nftables { return hanging{real, new(atomic.Int32), let} })
		a.StuckAfter(4 * time.Second)
	}
	n.start()
	if code, text := probe(t, "/liveness"); code != 200 {
		t.Errorf("at first %d %s", code, text)
	}
	n.agent.HintFilter()
	nstest.Eventually(t, 20*time.Second, func() bool {
		code, text := probe(t, "/liveness")
		return code == 503 && strings.HasPrefix(text, "stuck: reconciling the filter for ") && !strings.Contains(text, ",")
	}, "the stuck section is named")
	close(let)
	nstest.Eventually(t, 20*time.Second, func() bool { code, _ := probe(t, "/liveness"); return code == 200 }, "alive again")
}

// silent is a datastore that stops answering: calls hang until their callers
// give up.
type silent struct {
	store.Store
	on *atomic.Bool
}

func (s silent) wait(ctx context.Context) error {
	if s.on.Load() {
		<-ctx.Done()
		return fault.New(fault.Unavailable, "no answer: %w", ctx.Err())
	}
	return nil
}

func (s silent) Get(ctx context.Context, key store.Key) (store.Entry, error) {
	if err := s.wait(ctx); err != nil {
		return store.Entry{}, err
	}
	return s.Store.Get(ctx, key)
}

func (s silent) List(ctx context.Context, kind store.Kind, prefix string) ([]store.Entry, store.Revision, error) {
	if err := s.wait(ctx); err != nil {
		return nil, 0, err
	}
	return s.Store.List(ctx, kind, prefix)
}

func (s silent) Put(ctx context.Context, key store.Key, value []byte, prev store.Revision) (store.Revision, error) {
	if err := s.wait(ctx); err != nil {
		return 0, err
	}
	return s.Store.Put(ctx, key, value, prev)
}

func (s silent) Delete(ctx context.Context, key store.Key, prev store.Revision) error {
	if err := s.wait(ctx); err != nil {
		return err
	}
	return s.Store.Delete(ctx, key, prev)
}

// TestSilentDatastore: while the datastore hangs, pods come and go, and no
// probe fails: a kubelet that restarted the agents would make it worse.
func TestSilentDatastore(t *testing.T) {
	n := newNode(t)
	n.onHost()
	on := new(atomic.Bool)
	n.cfg.Store = silent{n.cfg.Store, on}
	const patience = 4 * time.Second
	n.prepare = func(a *agent.Agent) { a.StuckAfter(patience) }
	n.start()
	nstest.Eventually(t, 10*time.Second, func() bool { code, _ := probe(t, "/readiness"); return code == 200 }, "ready")
	n.add(n.pod("first", "first"))
	on.Store(true)
	p := n.pod("second", "second")
	n.add(p)
	n.del(p)
	for end := time.Now().Add(2 * patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		for _, path := range []string{"/liveness", "/readiness"} {
			if code, text := probe(t, path); code != 200 {
				t.Fatalf("%s: %d %s", path, code, text)
			}
		}
	}
}

// put writes a resource into the datastore.
func (n *node) put(object resource.Object) {
	n.t.Helper()
	resource.Create(object, resource.NewUID(), time.Now())
	value, err := resource.Encode(object, nil)
	if err == nil {
		_, err = n.cfg.Store.Put(n.t.Context(), resource.Key(object), value, 0)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}
