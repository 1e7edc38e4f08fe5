// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/spdystream"

	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/mem"
	"github.com/ocicat-net/ocicat/internal/storeopen"
)

// kubeScene is a cluster behind an API server that knows what kubectl ocicat
// asks of one. Its agents are real doors.
type kubeScene struct {
	t      *testing.T
	server *httptest.Server
	dir    string
	store  store.Store

	mu     sync.Mutex
	pods   []map[string]any
	agents map[string]netip.AddrPort // by pod
	logs   map[string]string         // by pod, and "POD previous"
	events map[string]string         // an Event by path
	denied string                    // what nobody may: a part of a path
	asked  []string                  // paths of requests that were not GET
	as     string                    // whom the last request acted as: user, a colon, groups
}

func newKubeScene(t *testing.T) *kubeScene {
	t.Helper()
	s := &kubeScene{t: t, dir: t.TempDir(), store: mem.New(), agents: map[string]netip.AddrPort{}}
	var running sync.WaitGroup
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/pods", s.listPods)
	mux.HandleFunc("GET /api/v1/events", s.listEvents)
	mux.HandleFunc("GET /api/v1/namespaces/{namespace}/events", s.listEvents)
	mux.HandleFunc("GET /api/v1/namespaces/kube-system/pods/{name}/log", s.readLog)
	mux.HandleFunc("POST /api/v1/namespaces/kube-system/serviceaccounts/{name}/token", makeToken)
	mux.HandleFunc("POST /api/v1/namespaces/kube-system/pods/{name}/portforward", func(w http.ResponseWriter, r *http.Request) {
		s.forward(w, r, &running)
	})
	s.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		denied := s.denied != "" && strings.Contains(r.URL.Path, s.denied)
		s.as = r.Header.Get("Impersonate-User") + ":" + strings.Join(r.Header.Values("Impersonate-Group"), ",")
		if r.Method != http.MethodGet {
			s.asked = append(s.asked, r.URL.Path)
		}
		s.mu.Unlock()
		switch {
		case r.Header.Get("Authorization") != "Bearer mine":
			deny(w, http.StatusUnauthorized, "Unauthorized")
		case denied:
			deny(w, http.StatusForbidden, `User "me" cannot do that`)
		default:
			mux.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() { s.server.CloseClientConnections(); s.server.Close(); running.Wait() })
	config := fmt.Sprintf("current-context: x\ncontexts: [{name: x, context: {cluster: x, user: x}}]\nclusters: [{name: x, cluster: {server: %q}}]\nusers: [{name: x, user: {token: mine}}]\n", s.server.URL)
	if err := os.WriteFile(filepath.Join(s.dir, "kubeconfig"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

func deny(w http.ResponseWriter, code int, message string) {
	w.WriteHeader(code)
	fmt.Fprintf(w, `{"kind":"Status","message":%q}`, message)
}

// pod adds an agent's pod in a phase.
func (s *kubeScene) pod(node, phase, address string, port uint16) {
	name := "ocicat-node-" + node
	s.pods = append(s.pods, map[string]any{
		"metadata": map[string]any{"name": name, "namespace": "kube-system", "resourceVersion": "1"},
		"spec": map[string]any{"nodeName": node, "containers": []any{map[string]any{
			"env": []any{map[string]any{"name": agentPortVar, "value": fmt.Sprint(port)}},
		}}},
		"status": map[string]any{"phase": phase, "hostIP": address, "containerStatuses": []any{map[string]any{"name": "agent", "restartCount": 0}}},
	})
}

// restarted says that the containers of a node's agent have a life before.
func (s *kubeScene) restarted(node string) {
	for _, pod := range s.pods {
		if pod["metadata"].(map[string]any)["name"] == "ocicat-node-"+node {
			pod["status"].(map[string]any)["containerStatuses"] = []any{map[string]any{"name": "agent", "restartCount": 2}}
		}
	}
}

// readLog is the kubelet: of a pod without one it cannot be asked.
func (s *kubeScene) readLog(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Get("container") != "agent" || q.Get("limitBytes") == "" || q.Get("tailLines") == "" || r.Header.Get("Accept") != "*/*" {
		deny(w, http.StatusBadRequest, "log")
		return
	}
	name := r.PathValue("name")
	if q.Get("previous") == "true" {
		name += " previous"
	}
	text, ok := s.logs[name]
	if !ok {
		deny(w, http.StatusInternalServerError, "dial tcp: no route to host")
		return
	}
	fmt.Fprint(w, text)
}

func (s *kubeScene) listEvents(w http.ResponseWriter, r *http.Request) {
	items := []json.RawMessage{}
	if text := s.events[r.URL.Path]; text != "" {
		items = append(items, json.RawMessage(text))
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"metadata": map[string]any{"resourceVersion": "1"}, "items": items})
}

// agent runs a node's agent, which is reached by port-forward alone.
func (s *kubeScene) agent(node, address string, door admin.Door) {
	s.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.Addr().String())
	_ = l.Close()
	guests := admin.Guests{Tracers: []string{"system:serviceaccount:kube-system:ocicat-tracer"}, Admins: []string{"system:serviceaccount:kube-system:ocicat-admin"}}
	remote := admin.NewRemote(at, door, reviewer{}, guests, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := remote.Run(ctx); err != nil {
			s.t.Error(err)
		}
	})
	s.t.Cleanup(func() { cancel(); running.Wait() })
	<-remote.Ready()
	s.pod(node, "Running", address, at.Port())
	s.agents["ocicat-node-"+node] = at
}

// dead adds a node of which nobody answers: the API server waits for it.
func (s *kubeScene) dead(node, address string) { s.pod(node, "Running", address, agentPort) }

func (s *kubeScene) listPods(w http.ResponseWriter, r *http.Request) {
	if selector := r.URL.Query().Get("labelSelector"); selector != agentSelector && selector != ourPods {
		deny(w, http.StatusBadRequest, "labelSelector")
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"metadata": map[string]any{"resourceVersion": "1"}, "items": s.pods})
}

// makeToken makes tokens that say whose they are.
func makeToken(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Spec struct {
			Audiences []string `json:"audiences"`
			Seconds   int      `json:"expirationSeconds"`
		} `json:"spec"`
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil || len(q.Spec.Audiences) != 1 || q.Spec.Seconds != 600 {
		deny(w, http.StatusUnprocessableEntity, "TokenRequest")
		return
	}
	fmt.Fprintf(w, `{"status":{"token":"system:serviceaccount:kube-system:%s for %s"}}`, r.PathValue("name"), q.Spec.Audiences[0])
}

// reviewer knows the tokens of makeToken.
type reviewer struct{}

func (reviewer) Review(_ context.Context, token, audience string) (string, error) {
	user, ok := strings.CutSuffix(token, " for "+audience)
	if !ok {
		return "", fault.New(fault.NotFound, "for another audience")
	}
	return user, nil
}

// forward is the API server and the kubelet: it connects to an agent, or waits
// where there is none.
func (s *kubeScene) forward(w http.ResponseWriter, r *http.Request, running *sync.WaitGroup) {
	if r.Header.Get("Accept") != "*/*" { // as the API server does
		deny(w, http.StatusNotAcceptable, "406: Not Acceptable")
		return
	}
	at, ok := s.agents[r.PathValue("name")]
	if !ok {
		<-r.Context().Done()
		return
	}
	w.Header().Set("Connection", "Upgrade")
	w.Header().Set("Upgrade", "SPDY/3.1")
	w.WriteHeader(http.StatusSwitchingProtocols)
	conn, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		s.t.Error(err)
		return
	}
	session, err := spdystream.NewConnection(readAhead{conn, buffered.Reader}, true)
	if err != nil {
		s.t.Error(err)
		return
	}
	running.Go(func() {
		session.Serve(func(stream *spdystream.Stream) {
			_ = stream.SendReply(http.Header{}, false)
			if stream.Headers().Get("StreamType") == "data" {
				running.Go(func() { join(stream, at) })
			}
		})
	})
}

// join copies between a stream and an agent until one of them ends.
func join(stream *spdystream.Stream, at netip.AddrPort) {
	conn, err := net.Dial("tcp", at.String())
	if err != nil {
		_ = stream.Reset()
		return
	}
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(conn, stream)
		_ = conn.Close()
	})
	_, _ = io.Copy(stream, conn)
	_ = stream.Close()
	_ = conn.Close()
	_ = stream.Reset()
	both.Wait()
}

// readAhead is a connection of which some bytes were read already.
type readAhead struct {
	net.Conn
	r io.Reader
}

func (c readAhead) Read(b []byte) (int, error) { return c.r.Read(b) }

// outcome is what a command line did.
type outcome struct {
	code           int
	stdout, stderr string
}

// run is a command line of the cluster's user.
func (s *kubeScene) run(args ...string) outcome {
	s.t.Helper()
	return s.runOn(filepath.Join(s.dir, "none"), append([]string{"--kubeconfig", filepath.Join(s.dir, "kubeconfig")}, args...)...)
}

// runOn is one on a machine that may have an agent's socket.
func (s *kubeScene) runOn(socket string, args ...string) outcome {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	code := Run(ctx, Config{
		Program: KubectlPlugin,
		Stdin:   strings.NewReader(""), Stdout: &stdout, Stderr: &stderr,
		Getenv: func(string) string { return "" }, Now: func() time.Time { return now },
		ConfigFile: filepath.Join(s.dir, "none"), LabDir: filepath.Join(s.dir, "labs"), AdminSocket: socket,
		OpenStore: func(ctx context.Context, choice storeopen.Choice) (store.Store, error) {
			if !choice.Kubernetes || choice.Client == nil {
				s.t.Errorf("store opened with %+v", choice)
			}
			choice.Client.Close()
			return shared{s.store}, nil
		},
	}, args)
	return outcome{code, stdout.String(), strings.ReplaceAll(stderr.String(), s.server.URL, "SERVER")}
}
