// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/test/kubernetes/apiserver"
)

// meter stands before an API server and counts what one client costs it.
type meter struct {
	*httptest.Server
	requests, reads, bytes atomic.Int64 // reads are among the requests; bytes are those of answers
}

func newMeter(t *testing.T, server *apiserver.Server) *meter {
	t.Helper()
	target, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	m := &meter{}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	proxy.FlushInterval = -1
	proxy.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	proxy.ModifyResponse = func(r *http.Response) error {
		m.requests.Add(1)
		if r.Request.Method == http.MethodGet {
			m.reads.Add(1)
		}
		r.Body = &countedBody{r.Body, &m.bytes}
		return nil
	}
	m.Server = httptest.NewUnstartedServer(proxy)
	m.EnableHTTP2 = true
	m.StartTLS()
	t.Cleanup(func() {
		m.CloseClientConnections()
		m.Close()
	})
	return m
}

type countedBody struct {
	io.ReadCloser
	bytes *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.bytes.Add(int64(n))
	return n, err
}

// config is the agents' way to the server, through the meter.
func (m *meter) config(server *apiserver.Server) kubeapi.Config {
	cfg := server.Config()
	cfg.Server, cfg.CAFile = m.URL, ""
	cfg.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.Certificate().Raw})
	return cfg
}

// agentKinds are what an agent follows; what concerns addresses its reserve does.
var agentKinds = []store.Kind{store.IPPool, store.IPReservation, store.Node, store.BGPConfiguration, store.BGPPeer, store.OcicatConfiguration}

const manyNodes = 1000

// TestLoad measures what one agent's following costs an API server with a
// thousand Nodes: at its start, while nothing happens, and for each status that
// a kubelet writes.
func TestLoad(t *testing.T) {
	for profile, dirs := range map[string][]string{
		"v3": {definitions},
		"v1": {"testdata/v1", ourDefinitions(t)}, // its server cannot select by a claim's node
	} {
		t.Run(profile, func(t *testing.T) {
			server := apiserver.Start(t)
			for _, dir := range dirs {
				server.InstallCRDs(dir)
			}
			size := createNodes(t, server)
			m := newMeter(t, server)
			measureLoad(t, server, m, size)
		})
	}
}

// measureLoad measures at a server with Nodes of a size in bytes.
func measureLoad(t *testing.T, server *apiserver.Server, m *meter, size int) {
	t.Helper()
	s := openWith(t, m.config(server))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	nodes := followAll(ctx, t, s)
	const expected = 2 + 7 + 6 // to find the group; lists, of Nodes in two pages; watches
	for end := time.Now().Add(10 * time.Second); m.requests.Load() < expected && time.Now().Before(end); {
		runtime.Gosched()
	}
	requests, bytes := m.requests.Load(), m.bytes.Load()
	t.Logf("start with %d Nodes of %d bytes: %d requests, %d bytes on the wire", manyNodes, size, requests, bytes)
	if requests != expected || bytes > manyNodes*2000 {
		t.Errorf("the start takes %d requests and %d bytes", requests, bytes)
	}

	stop := startReserve(t, s)
	t.Logf("start of its addresses: %d requests, %d bytes", m.requests.Load()-requests, m.bytes.Load()-bytes)
	if n := m.bytes.Load() - bytes; n > manyNodes*1000 {
		t.Errorf("the start of its addresses takes %d bytes", n)
	}
	quiet(t, m)
	stop()

	const updates = 200
	requests, bytes = m.requests.Load(), m.bytes.Load()
	admin := server.Admin()
	for n := range updates {
		patch := fmt.Appendf(nil, `{"status": {"nodeInfo": {"bootID": "%d"}}}`, n)
		admin.Must(http.MethodPatch, fmt.Sprintf("/api/v1/nodes/node-%d/status", n), "application/merge-patch+json", patch)
	}
	for range updates {
		<-nodes
	}
	each := (m.bytes.Load() - bytes) / updates
	t.Logf("each status of another Node: %d bytes", each)
	if each > 2000 || m.requests.Load() > requests {
		t.Errorf("a status of another Node costs %d bytes, %d requests", each, m.requests.Load()-requests)
	}
}

// startReserve runs the addresses of node-1, which looks at them and writes
// its heartbeat several times a second, and returns once it holds some ready.
func startReserve(t *testing.T, s store.Store) (stop func()) {
	t.Helper()
	pool := cluster.Pool{Name: "p", CIDR: netip.MustParsePrefix("10.96.0.0/11"), BlockSize: 26}
	r := ipam.NewReserve(ipam.ReserveConfig{
		Client: ipam.NewClient(ipam.ClientConfig{
			Store:      s,
			Pools:      func(context.Context) ([]cluster.Pool, error) { return []cluster.Pool{pool}, nil },
			NodeLabels: func(context.Context, string) (map[string]string, error) { return nil, nil },
		}),
		Node: "node-1", InstanceUID: "uid", BootID: "boot", Size: ipam.DefaultReserve,
		Times: ipam.Times{Lease: 20 * time.Second, Reclaim: 40 * time.Second, Beat: 300 * time.Millisecond, Takeover: time.Second},
		Log:   slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(stop)
	for end := time.Now().Add(time.Minute); r.State().Held < ipam.DefaultReserve; {
		if time.Now().After(end) {
			t.Fatalf("no addresses are held ready: %+v", r.State())
		}
		runtime.Gosched()
	}
	return stop
}

// quiet wants nothing to be read while nothing happens.
func quiet(t *testing.T, m *meter) {
	t.Helper()
	for before := int64(-1); before != m.reads.Load(); {
		before = m.reads.Load()
		<-time.After(time.Second) // the last watches of the start
	}
	reads, requests := m.reads.Load(), m.requests.Load()
	wait := time.NewTimer(5 * time.Second) // long against every retry, short against every relist
	defer wait.Stop()
	<-wait.C
	if n := m.reads.Load() - reads; n != 0 {
		t.Errorf("%d reads in 5 s without any change", n)
	}
	if m.requests.Load() == requests {
		t.Error("no heartbeat was counted")
	}
}

// followAll follows what an agent does, and returns each change of a Node after
// the first sets are complete.
func followAll(ctx context.Context, t *testing.T, s store.Store) <-chan string {
	t.Helper()
	changes := make(chan string, manyNodes)
	full := make(chan store.Kind, len(agentKinds))
	follow := func(kind store.Kind, prefix string) {
		store.Follow(ctx, s, kind, prefix, store.FollowOptions{Relist: kubeapi.Relist}, func(u store.Update) {
			if u.Full {
				full <- kind
				return
			}
			for _, e := range u.Entries {
				changes <- e.Key.Name
			}
		})
	}
	for _, kind := range agentKinds {
		go follow(kind, "")
	}
	for range agentKinds {
		select {
		case <-full:
		case <-time.After(time.Minute):
			t.Fatal("a set is not complete after a minute")
		}
	}
	return changes
}

// createNodes creates Nodes as large as those of real clusters, with an affinity
// and a heartbeat each, and returns the size of one.
func createNodes(t *testing.T, server *apiserver.Server) int {
	t.Helper()
	admin := server.Admin()
	var images []string
	for n := range 50 {
		images = append(images, fmt.Sprintf(`{"names": ["registry.example.org/team/image-%d@sha256:%064d", "registry.example.org/team/image-%d:v1"], "sizeBytes": 100000000}`, n, n, n))
	}
	status := []byte(`{"status": {"images": [` + strings.Join(images, ",") + `], "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status"}]}}`)
	s := open(t, server)
	var wg sync.WaitGroup
	for part := range 8 {
		wg.Go(func() {
			for n := part; n < manyNodes; n += 8 {
				name := fmt.Sprintf("node-%d", n)
				admin.Must(http.MethodPost, "/api/v1/nodes", "", fmt.Appendf(nil, `{"metadata": {"name": %q, "labels": {"kubernetes.io/hostname": %q, "kubernetes.io/os": "linux"}, "annotations": {"projectcalico.org/IPv4Address": "10.1.%d.%d/16", "node.alpha.kubernetes.io/ttl": "0"}}}`, name, name, n/256, n%256))
				admin.Must(http.MethodPatch, "/api/v1/nodes/"+name+"/status", "application/merge-patch+json", status)
				key := store.Key{Kind: store.Affinity, Name: fmt.Sprintf("%s/10.%d.%d.0-26", name, 100+n/256, n%256)}
				if _, err := s.Put(t.Context(), key, []byte(`{"state":"confirmed","deleted":false}`), 0); err != nil {
					t.Error(err)
				}
				if _, err := s.Put(t.Context(), store.Key{Kind: store.Heartbeat, Name: name}, []byte(`{"counter":1}`), 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	return len(admin.Must(http.MethodGet, "/api/v1/nodes/node-1", "", nil).Body)
}
