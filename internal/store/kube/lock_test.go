// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
	"github.com/ocicat-net/ocicat/internal/store"
)

// informed is an API server with a ClusterInformation of one group, which
// changes as told; all else it has not.
func informed(t *testing.T, group, first string, changes <-chan string) *Store {
	t.Helper()
	object := func(spec string, rev int) json.RawMessage {
		return json.RawMessage(fmt.Sprintf(`{"metadata":{"name":"default","resourceVersion":"%d"},"spec":%s}`, rev, spec))
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/apis/"+group+"/clusterinformations":
			w.WriteHeader(http.StatusNotFound)
		case r.URL.Query().Get("watch") == "":
			items := []json.RawMessage{}
			if first != "" {
				items = append(items, object(first, 1))
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"metadata": map[string]any{"resourceVersion": "1"}, "items": items})
		default:
			w.(http.Flusher).Flush()
			for rev := 2; ; rev++ {
				select {
				case spec := <-changes:
					kind := "MODIFIED"
					if spec == "" {
						kind, spec = "DELETED", "{}"
					}
					_ = json.NewEncoder(w).Encode(map[string]any{"type": kind, "object": object(spec, rev)})
					w.(http.Flusher).Flush()
				case <-r.Context().Done():
					return
				}
			}
		}
	}))
	t.Cleanup(server.Close)
	client, err := kubeapi.New(kubeapi.Config{Server: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(client, Config{Group: group})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// TestLock: in both groups the lock is seen at once, and while it is there
// addresses are not written, other kinds are tried.
func TestLock(t *testing.T) {
	for _, group := range []string{"projectcalico.org/v3", "crd.projectcalico.org/v1"} {
		changes, heard := make(chan string), make(chan bool)
		s := informed(t, group, `{"datastoreReady":true}`, changes)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			s.FollowLock(ctx, func(locked bool) {
				select {
				case heard <- locked:
				case <-ctx.Done():
				}
			})
		})
		next := func(want bool) {
			t.Helper()
			select {
			case got := <-heard:
				if got != want {
					t.Errorf("%s: locked is %v, want %v", group, got, want)
				}
			case <-time.After(5 * time.Second):
				t.Fatalf("%s: nothing heard", group)
			}
		}
		block := store.Key{Kind: store.Block, Name: "10.0.0.0-26"}
		refused := func() bool {
			_, err := s.Put(t.Context(), block, []byte(`{}`), 0)
			deleted := s.Delete(t.Context(), block, store.AnyRevision)
			if errors.Is(err, ErrLocked) != errors.Is(deleted, ErrLocked) {
				t.Errorf("%s: put says %v, delete %v", group, err, deleted)
			}
			return errors.Is(err, ErrLocked) && fault.Is(err, fault.Unavailable) && fault.HintOf(err) != ""
		}
		next(false)
		if refused() {
			t.Errorf("%s: refused while ready", group)
		}
		changes <- `{"datastoreReady":false}`
		next(true)
		if !refused() {
			t.Errorf("%s: a block is written while locked", group)
		}
		if _, err := s.Put(t.Context(), store.Key{Kind: store.IPPool, Name: "p"}, []byte(`{}`), 0); errors.Is(err, ErrLocked) {
			t.Errorf("%s: a pool: %v", group, err)
		}
		changes <- `{}`
		next(false)
		changes <- `{"datastoreReady":false}`
		next(true)
		changes <- ""
		next(false)
		if refused() {
			t.Errorf("%s: refused after the lock is gone", group)
		}
		cancel()
		running.Wait()
	}
}

// TestNoLock: a server without the resource has no lock, and is not asked again
// soon.
func TestNoLock(t *testing.T) {
	s := &server{answers: map[string][]string{}}
	k := s.open(t, Config{Group: "projectcalico.org/v3"})
	ctx, cancel := context.WithCancel(t.Context())
	k.FollowLock(ctx, func(locked bool) {
		if locked {
			t.Error("locked without a lock")
		}
		cancel()
	})
	if len(s.asked) != 1 {
		t.Errorf("asked %q", s.asked)
	}
}
