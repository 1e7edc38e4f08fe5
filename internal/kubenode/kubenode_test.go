// SPDX-License-Identifier: Apache-2.0

package kubenode_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
	"github.com/ocicat-net/ocicat/internal/kubenode"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/problem"
)

// apiServer answers lists with what it holds, watches with silence, and keeps
// the writes.
type apiServer struct {
	*httptest.Server
	mu     sync.Mutex
	lists  map[string][]string // path: objects
	gets   map[string]string
	writes []string      // "METHOD path body"
	away   bool          // nothing is answered
	end    chan struct{} // closed at the end of the test
}

func newAPIServer(t *testing.T) *apiServer {
	s := &apiServer{lists: map[string][]string{}, gets: map[string]string{}, end: make(chan struct{})}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(func() { close(s.end); s.Server.Close() })
	return s
}

func (s *apiServer) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	away, objects, listed := s.away, s.lists[r.URL.Path], false
	one, found := s.gets[r.URL.Path]
	_, listed = s.lists[r.URL.Path]
	if r.Method != http.MethodGet && !away {
		body, _ := io.ReadAll(r.Body)
		s.writes = append(s.writes, r.Method+" "+r.URL.Path+" "+string(body))
	}
	s.mu.Unlock()
	switch {
	case away:
		http.Error(w, `{"kind":"Status","message":"away"}`, http.StatusServiceUnavailable)
	case strings.HasSuffix(r.URL.Path, "/tokenreviews"):
		answerReview(w, r, s.lastWrite())
	case r.Method != http.MethodGet:
		fmt.Fprint(w, `{"metadata":{"resourceVersion":"9"}}`)
	case r.URL.Query().Get("watch") != "":
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
		case <-s.end:
		}
	case listed:
		fmt.Fprintf(w, `{"metadata":{"resourceVersion":"5"},"items":[%s]}`, strings.Join(objects, ","))
	case found:
		fmt.Fprint(w, one)
	default:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"kind":"Status","code":404,"reason":"NotFound","message":"not found","details":{"name":"gone","kind":"pods"}}`)
	}
}

func (s *apiServer) lastWrite() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes[len(s.writes)-1]
}

// answerReview knows one token.
func answerReview(w http.ResponseWriter, _ *http.Request, write string) {
	known := strings.Contains(write, `"good"`) && strings.Contains(write, `"ocicat"`)
	fmt.Fprintf(w, `{"status":{"authenticated":%t,"audiences":["ocicat"],"user":{"username":"system:serviceaccount:kube-system:ocicat-tracer"}}}`, known)
}

func (s *apiServer) set(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

// written are the writes that contain all words.
func (s *apiServer) written(words ...string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.writes), func(w string) bool {
		return slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(w, word) })
	})
}

func object(namespace, name string, annotations map[string]string) string {
	data, _ := json.Marshal(map[string]any{"metadata": map[string]any{"namespace": namespace, "name": name, "resourceVersion": "3", "annotations": annotations}}) // strings cannot fail
	return string(data)
}

// start runs a Node until the test or stop ends it.
func (s *apiServer) start(t *testing.T, file string) (n *kubenode.Node, stop func()) {
	t.Helper()
	client, err := kubeapi.New(kubeapi.Config{Server: s.URL, Token: "x"})
	if err != nil {
		t.Fatal(err)
	}
	n = kubenode.New(kubenode.Config{Client: client, Node: "n1", File: file, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = n.Run(ctx) })
	stop = sync.OnceFunc(func() { cancel(); running.Wait(); client.Close() })
	t.Cleanup(stop)
	return n, stop
}

const podsPath, namespacesPath, policiesPath = "/api/v1/pods", "/api/v1/namespaces", "/apis/networking.k8s.io/v1/networkpolicies"

// TestAnnotations: from what is watched, else by asking, and never taken for
// none while nobody can be asked.
func TestAnnotations(t *testing.T) {
	s := newAPIServer(t)
	pools := map[string]string{kubenode.Prefix + "ipv4pools": `["a"]`, "other": "x"}
	s.lists[podsPath] = []string{object("devops", "watched", pools)}
	s.lists[namespacesPath] = []string{object("", "devops", pools), object("", "plain", nil)}
	s.lists[policiesPath] = []string{}
	s.gets["/api/v1/namespaces/new"] = `{"metadata":{"name":"new","labels":{"team":"x"}}}`
	s.lists[namespacesPath] = append(s.lists[namespacesPath], `{"metadata":{"name":"labelled","resourceVersion":"3","labels":{"team":"x"}}}`)
	s.gets["/api/v1/namespaces/devops/pods/asked"] = object("devops", "asked", map[string]string{kubenode.Prefix + "hwAddr": "02:00:00:00:00:01"})
	file := filepath.Join(t.TempDir(), "namespaces.json")
	n, stop := s.start(t, file)
	ctx := t.Context()
	if notes, err := n.PodAnnotations(ctx, "devops", "asked"); err != nil || notes[kubenode.Prefix+"hwAddr"] == "" {
		t.Errorf("a pod that is asked for: %v, %v", notes, err)
	}
	if _, err := n.PodAnnotations(ctx, "devops", "gone"); !fault.Is(err, fault.NotFound) {
		t.Errorf("a pod that is gone: %v", err)
	}
	nstest.Eventually(t, 10*time.Second, func() bool {
		notes, err := n.NamespaceAnnotations(ctx, "devops")
		return err == nil && len(notes) == 1 && notes[kubenode.Prefix+"ipv4pools"] == `["a"]`
	}, "the namespace's annotations")
	nstest.Eventually(t, 10*time.Second, func() bool { _, err := n.PodAnnotations(ctx, "devops", "watched"); return err == nil }, "the watched pod's")
	for _, name := range []string{"labelled", "new"} {
		if labels, err := n.NamespaceLabels(ctx, name); err != nil || labels["team"] != "x" {
			t.Errorf("labels of namespace %s: %v, %v", name, labels, err)
		}
	}
	s.set(true)
	if _, err := n.NamespaceLabels(ctx, "new"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("labels that are not known with the API server away: %v", err)
	}
	if notes, err := n.PodAnnotations(ctx, "devops", "watched"); err != nil || len(notes) != 1 {
		t.Errorf("a watched pod with the API server away: %v, %v", notes, err)
	}
	if _, err := n.PodAnnotations(ctx, "devops", "asked"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("an unknown pod with the API server away: %v", err)
	}

	stop()
	again, _ := s.start(t, file)
	if notes, err := again.NamespaceAnnotations(ctx, "devops"); err != nil || len(notes) != 1 {
		t.Errorf("after a restart with the API server away: %v, %v", notes, err)
	}
	if labels, err := again.NamespaceLabels(ctx, "labelled"); err != nil || labels["team"] != "x" {
		t.Errorf("labels after a restart with the API server away: %v, %v", labels, err)
	}
	if notes, err := again.NamespaceAnnotations(ctx, "plain"); err != nil || len(notes) != 0 {
		t.Errorf("one without annotations, after a restart: %v, %v", notes, err)
	}
	fresh, _ := s.start(t, filepath.Join(t.TempDir(), "none"))
	if _, err := fresh.NamespaceAnnotations(ctx, "devops"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a first start with the API server away: %v", err)
	}
}

// TestTold: the condition, addresses and events are written, also what could
// not be while the API server was away.
func TestTold(t *testing.T) {
	s := newAPIServer(t)
	s.set(true)
	n, _ := s.start(t, "")
	pod := kubenode.Pod{Namespace: "devops", Name: "web", UID: "u1", ContainerID: "c1"}
	n.Serving()
	n.Attached(pod, netip.MustParseAddr("172.16.196.1"))
	n.Tell([]problem.Problem{problem.New(problem.NoPool, "")})
	s.set(false)
	nstest.Eventually(t, 20*time.Second, func() bool {
		return len(s.written("/nodes/n1/status", "NetworkUnavailable", "False")) == 1 &&
			len(s.written("/namespaces/devops/pods/web/status", `"uid":"u1"`, `podIP":"172.16.196.1/32"`, `containerID":"c1"`)) == 1 &&
			len(s.written("/namespaces/default/events", string(problem.NoPool), `"type":"Warning"`)) == 1
	}, "all is told once")
	n.Tell([]problem.Problem{problem.New(problem.NoPool, "")}) // still there: no event
	n.Detached(pod)
	nstest.Eventually(t, 10*time.Second, func() bool { return len(s.written("/pods/web/status", `podIP":""`)) == 1 }, "the address is taken back")
	if events := s.written("/events"); len(events) != 1 {
		t.Errorf("%d events for one problem", len(events))
	}
}

func TestReview(t *testing.T) {
	s := newAPIServer(t)
	n, _ := s.start(t, "")
	if user, err := n.Review(t.Context(), "good", "ocicat"); err != nil || user != "system:serviceaccount:kube-system:ocicat-tracer" {
		t.Errorf("a good token: %q, %v", user, err)
	}
	if _, err := n.Review(t.Context(), "bad", "ocicat"); !fault.Is(err, fault.NotFound) {
		t.Errorf("a bad token: %v", err)
	}
	s.set(true)
	if _, err := n.Review(t.Context(), "good", "ocicat"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("nobody to ask: %v", err)
	}
}

// TestPoliciesAreNotEnforced: that they exist is a problem.
func TestPoliciesAreNotEnforced(t *testing.T) {
	s := newAPIServer(t)
	s.lists[policiesPath] = []string{object("devops", "deny", nil)}
	n, _ := s.start(t, "")
	nstest.Eventually(t, 10*time.Second, func() bool {
		problems := n.Problems()
		return len(problems) == 1 && problems[0].Code == problem.PolicyIgnored
	}, "the problem")
}
