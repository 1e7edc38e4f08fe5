// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/api/meta"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/mem"
)

// oldServer is an API server without ServiceCIDRs, whose pools have no status:
// one before 1.33 with Calico's older kinds. It can be told to fail.
type oldServer struct {
	*testing.T
	store store.Store

	mu      sync.Mutex
	busy    int // how many writes it still answers with 503
	patches int
	events  map[string]string // messages by name
}

func (s *oldServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	if r.Method != http.MethodGet && s.busy > 0 {
		s.busy--
		refuse(w, http.StatusServiceUnavailable, "shutting down")
		return
	}
	switch {
	case r.Method == http.MethodGet && r.URL.Path == "/api/v1/namespaces/default/services/kubernetes":
		fmt.Fprint(w, `{"spec": {"clusterIP": "10.96.0.1"}}`)
	case r.Method == http.MethodPost && r.URL.Path == "/api/v1/namespaces/default/events":
		var e struct {
			Metadata       struct{ Name string }
			InvolvedObject struct{ Kind, APIVersion, Name string }
			Reason         string
			Message        string
		}
		if err := json.Unmarshal(body, &e); err != nil || e.InvolvedObject.Kind != "IPPool" || e.InvolvedObject.Name != "p" || e.InvolvedObject.APIVersion != "projectcalico.org/v3" {
			s.Errorf("event %s: %v", body, err)
		}
		if _, exists := s.events[e.Metadata.Name]; exists {
			refuse(w, http.StatusConflict, "exists")
			return
		}
		s.events[e.Metadata.Name] = e.Reason + " " + e.Message
		fmt.Fprint(w, `{}`)
	case r.Method == http.MethodPatch:
		s.patches++
		s.checkPatch(r.URL.Path, body)
		fallthrough
	default:
		refuse(w, http.StatusNotFound, "the server could not find the requested resource")
	}
}

// checkPatch: a status is written only over the pool that was judged.
func (s *oldServer) checkPatch(path string, body []byte) {
	var patch struct {
		Metadata struct{ ResourceVersion string }
		Status   struct{ Conditions []meta.Condition }
	}
	err := json.Unmarshal(body, &patch)
	now, getErr := s.store.Get(s.Context(), store.Key{Kind: store.IPPool, Name: "p"})
	if err != nil || getErr != nil || patch.Metadata.ResourceVersion != kubeapi.FormatRevision(now.Revision) || len(patch.Status.Conditions) != 1 || path != "/apis/projectcalico.org/v3/ippools/p/status" {
		s.Errorf("patch %s: %s, with the pool at %d: %v, %v", path, body, now.Revision, err, getErr)
	}
}

func refuse(w http.ResponseWriter, code int, message string) {
	w.WriteHeader(code)
	fmt.Fprintf(w, `{"kind": "Status", "code": %d, "message": %q}`, code, message)
}

func (s *oldServer) put(kind store.Kind, name, object string) {
	s.Helper()
	key := store.Key{Kind: kind, Name: name}
	at := store.Revision(0)
	if old, err := s.store.Get(s.Context(), key); err == nil {
		at = old.Revision
	}
	if _, err := s.store.Put(s.Context(), key, []byte(object), at); err != nil {
		s.Fatal(err)
	}
}

func (s *oldServer) pool(generation int, cidr string) {
	s.Helper()
	s.put(store.IPPool, "p", fmt.Sprintf(`{"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "p", "uid": "u", "generation": %d}, "spec": {"cidr": %q}}`, generation, cidr))
}

func (s *oldServer) seen() (patches int, events []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, message := range s.events {
		events = append(events, message)
	}
	return s.patches, events
}

// TestOldServer: with no ServiceCIDRs the address of the Service kubernetes
// counts; where pools have no status an Event tells all the same, once however
// many controllers there are, and a status that cannot be is not tried for ever.
func TestOldServer(t *testing.T) {
	s := &oldServer{T: t, store: mem.New(), busy: 1, events: map[string]string{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	client, err := kubeapi.New(kubeapi.Config{Server: server.URL, Token: "x"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for range 2 {
		running.Go(func() { newPoolStatus(client, s.store, slog.New(slog.DiscardHandler)).run(ctx) })
	}
	await := func(what string, holds func(patches int, events []string) bool) {
		t.Helper()
		nstest.Eventually(t, 20*time.Second, func() bool { return holds(s.seen()) }, what)
	}
	has := func(events []string, words string) bool { return strings.Contains(strings.Join(events, "\n"), words) }

	s.pool(1, "10.96.0.0/24")
	await("an event of the service range", func(patches int, events []string) bool {
		return patches == 2 && len(events) == 1 && has(events, "OC2008 OC2008: pool p 10.96.0.0/24 overlaps the service range 10.96.0.1/32")
	})
	s.pool(2, "10.96.1.0/24")
	await("a status of the pool that is mended", func(patches int, _ []string) bool { return patches == 4 })
	for i, network := range []string{"10.0.1.0/24", "10.0.2.0/24", "10.96.1.0/24"} {
		s.put(store.Node, "n1", fmt.Sprintf(`{"apiVersion": "projectcalico.org/v3", "kind": "Node", "metadata": {"name": "n1", "generation": %d}, "spec": {"bgp": {"ipv4Address": %q}}}`, i, network))
	}
	await("an event of the node's network", func(_ int, events []string) bool {
		return len(events) == 2 && has(events, "OC2001 OC2001: pool p 10.96.1.0/24 overlaps network 10.96.1.0/24 of node n1")
	})
	await("a status of it", func(patches int, _ []string) bool { return patches == 6 })
	s.put(store.Node, "n2", `{"apiVersion": "projectcalico.org/v3", "kind": "Node", "metadata": {"name": "n2"}, "spec": {"bgp": {"ipv4Address": "10.0.1.2/24"}}}`)
	s.pool(3, "10.97.0.0/16")
	await("a status of the pool that is mended again", func(patches int, _ []string) bool { return patches == 8 })
	if _, events := s.seen(); len(events) != 2 {
		t.Errorf("%d events, want 2: %q", len(events), events)
	}
}
