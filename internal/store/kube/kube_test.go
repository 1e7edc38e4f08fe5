// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
	"github.com/ocicat-net/ocicat/internal/store"
)

// server answers each path of a request with the next of its answers.
type server struct {
	mu      sync.Mutex
	asked   []string
	answers map[string][]string // "STATUS body", or "hang"
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.Method + " " + r.URL.Path
	if selector := r.URL.Query().Get("fieldSelector"); selector != "" {
		path += "?" + selector
	}
	s.mu.Lock()
	s.asked = append(s.asked, path)
	answers := s.answers[path]
	if len(answers) > 1 {
		s.answers[path] = answers[1:]
	}
	s.mu.Unlock()
	if len(answers) == 0 {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	status, body, _ := strings.Cut(answers[0], " ")
	if status == "hang" {
		<-r.Context().Done()
		return
	}
	var code int
	if _, err := fmt.Sscan(status, &code); err != nil {
		code = http.StatusInternalServerError
	}
	w.WriteHeader(code)
	fmt.Fprint(w, body)
}

const groupV3 = `200 {"resources":[{"name":"ippools"},{"name":"ipamblocks"},{"name":"blockaffinities"},{"name":"ipamhandles"}]}`

func (s *server) open(t *testing.T, cfg Config) *Store {
	t.Helper()
	h := httptest.NewUnstartedServer(s)
	h.EnableHTTP2 = true
	h.StartTLS()
	t.Cleanup(h.Close)
	client, err := kubeapi.New(kubeapi.Config{Server: h.URL, CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw})})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Log = slog.New(slog.DiscardHandler)
	k, err := New(client, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	return k
}

func TestGroups(t *testing.T) {
	if _, err := New(nil, Config{Group: "calico"}); !fault.Is(err, fault.Invalid) {
		t.Errorf("unknown group: %v", err)
	}
	// Calico's own API server has pools in v3, and keeps IPAM's objects in v1.
	s := &server{answers: map[string][]string{
		"GET /apis/projectcalico.org/v3":             {`200 {"resources":[{"name":"ippools"}]}`},
		"GET /apis/crd.projectcalico.org/v1":         {groupV3},
		"GET /apis/crd.projectcalico.org/v1/ippools": {`200 {"metadata":{"resourceVersion":"4"},"items":[]}`},
	}}
	k := s.open(t, Config{})
	for range 2 {
		if _, rev, err := k.List(t.Context(), store.IPPool, ""); err != nil || rev != 4 {
			t.Errorf("listed at %d, %v", rev, err)
		}
	}
	if len(s.asked) != 4 {
		t.Errorf("asked for %v, want the groups once", s.asked)
	}
}

// TestOneLooksForTheGroup: a server that hangs holds nobody up beyond the end of
// the own context.
func TestOneLooksForTheGroup(t *testing.T) {
	s := &server{answers: map[string][]string{"GET /apis/projectcalico.org/v3": {"hang"}}}
	k := s.open(t, Config{})
	first, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = k.Get(first, store.Key{Kind: store.IPPool, Name: "a"})
	}()
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	start := time.Now()
	_, err := k.Get(ctx, store.Key{Kind: store.IPPool, Name: "a"})
	if !fault.Is(err, fault.Unavailable) || time.Since(start) > 5*time.Second {
		t.Errorf("after %v: %v, want unavailable at once", time.Since(start), err)
	}
	cancel()
	<-done
}

// TestWithoutSelectors: a server that cannot select by field is asked for
// everything, once and for all.
func TestWithoutSelectors(t *testing.T) {
	const path = "GET /apis/projectcalico.org/v3/blockaffinities"
	affinity := func(node string) string {
		return fmt.Sprintf(`{"metadata":{"name":"%s-10-0-0-0-26","resourceVersion":"3"},"spec":{"node":%q,"cidr":"10.0.0.0/26","state":"confirmed"}}`, node, node)
	}
	s := &server{answers: map[string][]string{
		path + "?spec.node=n1": {`400 {"kind":"Status","message":"field label not supported: spec.node"}`},
		path:                   {`200 {"metadata":{"resourceVersion":"4"},"items":[` + affinity("n2") + "," + affinity("n1") + `]}`},
	}}
	k := s.open(t, Config{Group: "projectcalico.org/v3"})
	for range 2 {
		entries, _, err := k.List(t.Context(), store.Affinity, "n1/")
		if err != nil || len(entries) != 1 || entries[0].Key.Name != "n1/10.0.0.0-26" {
			t.Errorf("listed %v, %v", entries, err)
		}
	}
	if len(s.asked) != 3 {
		t.Errorf("asked for %v", s.asked)
	}
}

// TestOverwrite: whatever is stored is replaced in one request; what does not
// exist is created, and who is faster is overwritten after all.
func TestOverwrite(t *testing.T) {
	const object, all = "PATCH /apis/ocicat.net/v1/heartbeats/n", "POST /apis/ocicat.net/v1/heartbeats"
	const missing = `404 {"kind":"Status","message":"not found","details":{"name":"n"}}`
	const written = `200 {"metadata":{"name":"n","resourceVersion":"9"}}`
	for what, test := range map[string]struct {
		answers map[string][]string
		asked   int
	}{
		"it exists":         {map[string][]string{object: {written}}, 1},
		"it does not exist": {map[string][]string{object: {missing}, all: {written}}, 2},
		"somebody is faster": {map[string][]string{
			object: {missing, written}, all: {`409 {"kind":"Status","reason":"AlreadyExists","message":"exists","details":{"name":"n"}}`},
		}, 3},
	} {
		s := &server{answers: test.answers}
		k := s.open(t, Config{Group: "projectcalico.org/v3"})
		rev, err := k.Put(t.Context(), store.Key{Kind: store.Heartbeat, Name: "n"}, []byte(`{"counter":1}`), store.AnyRevision)
		if err != nil || rev != 9 || len(s.asked) != test.asked {
			t.Errorf("%s: revision %d, %v, asked for %v", what, rev, err, s.asked)
		}
	}
}
