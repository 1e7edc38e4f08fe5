// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/kube"
	"github.com/ocicat-net/ocicat/test/kubernetes/apiserver"
)

// noticed is how long a silent server may go unnoticed.
const noticed = 10 * time.Second

func beat(n int) (store.Key, []byte) {
	return store.Key{Kind: store.Heartbeat, Name: fmt.Sprintf("n%d", n%5)}, fmt.Appendf(nil, `{"counter":%d}`, n)
}

// closed waits until a watch has ended and says how long that took.
func closed(t *testing.T, events <-chan store.Event) time.Duration {
	t.Helper()
	start := time.Now()
	deadline := time.After(2 * noticed)
	for {
		select {
		case _, open := <-events:
			if !open {
				return time.Since(start)
			}
		case <-deadline:
			t.Fatal("the watch stays open")
		}
	}
}

// answers waits until the store answers again.
func answers(t *testing.T, s *kube.Store) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		_, _, err := s.List(t.Context(), store.Heartbeat, "")
		if err == nil {
			return
		}
		if !fault.Is(err, fault.Unavailable) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// TestServerKilled: whoever watches and asks sees it at once, and the same store
// works when the server is back.
func TestServerKilled(t *testing.T) {
	server := apiserver.Start(t)
	server.InstallCRDs(definitions)
	s := open(t, server)
	answers(t, s)
	events, err := s.Watch(t.Context(), store.Heartbeat, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	server.Kill()
	if took := closed(t, events); took > time.Second {
		t.Errorf("the watch ended after %v, want at once", took)
	}
	key, value := beat(1)
	start := time.Now()
	_, err = s.Put(t.Context(), key, value, 0)
	if !fault.Is(err, fault.Unavailable) || errors.Is(err, store.ErrAmbiguous) || time.Since(start) > time.Second {
		t.Errorf("put after %v: %v, want unavailable at once and not ambiguous", time.Since(start), err)
	}
	server.Resume()
	answers(t, s)
	if _, err := s.Put(t.Context(), key, value, 0); err != nil {
		t.Error(err)
	}
}

// TestServerFrozen: a server that holds its connections and says nothing is
// given up within ten seconds, also by a watch on which nothing was due.
func TestServerFrozen(t *testing.T) {
	server := apiserver.Start(t)
	server.InstallCRDs(definitions)
	s := open(t, server)
	answers(t, s)
	events, err := s.Watch(t.Context(), store.Heartbeat, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Freeze(); err != nil {
		t.Fatal(err)
	}
	if took := closed(t, events); took > noticed {
		t.Errorf("the watch ended after %v, want within %v", took, noticed)
	}
	key, value := beat(1)
	start := time.Now()
	if _, err := s.Put(t.Context(), key, value, 0); !fault.Is(err, fault.Unavailable) || time.Since(start) > noticed {
		t.Errorf("put after %v: %v, want unavailable within %v", time.Since(start), err, noticed)
	}
	if err := server.Thaw(); err != nil {
		t.Fatal(err)
	}
	answers(t, s)
	// The frozen server may still carry the write out, or has: the comparison
	// says so, and nothing else happens.
	if _, err := s.Put(t.Context(), key, value, 0); err != nil && !fault.Is(err, fault.Conflict) {
		t.Error(err)
	}
}

// TestFollowedOverKills writes while the server is killed again and again. Who
// follows ends with what is stored, and no write that was answered is lost.
func TestFollowedOverKills(t *testing.T) {
	server := apiserver.Start(t)
	server.InstallCRDs(definitions)
	s, watcher := open(t, server), open(t, server)
	answers(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	updates := make(chan store.Update)
	go store.Follow(ctx, watcher, store.Heartbeat, "", store.FollowOptions{Relist: time.Hour, RetryMax: 200 * time.Millisecond}, func(u store.Update) {
		select {
		case updates <- u:
		case <-ctx.Done():
		}
	})
	written := make(chan map[string]string)
	go func() { written <- writeOverKills(t, server, s) }()
	known := map[string]string{}
	var want map[string]string
	deadline := time.After(2 * time.Minute)
	for want == nil || !cmp.Equal(want, known) {
		select {
		case u := <-updates:
			if u.Full {
				known = map[string]string{}
			}
			for _, e := range u.Entries {
				known[e.Key.Name] = string(e.Value)
			}
			for _, key := range u.Deleted {
				delete(known, key.Name)
			}
		case want = <-written:
		case <-deadline:
			t.Fatalf("who follows does not arrive (-want +got):\n%s", cmp.Diff(want, known))
		}
	}
}

// writeOverKills writes a hundred times, kills the server in between, and
// returns what must be stored.
func writeOverKills(t *testing.T, server *apiserver.Server, s *kube.Store) map[string]string {
	stored := map[string]string{}
	for n := range 100 {
		if n%40 == 20 {
			server.Kill()
			server.Resume()
		}
		key, value := beat(n)
		for {
			_, err := s.Put(t.Context(), key, value, store.AnyRevision)
			if err == nil {
				break
			}
			if !fault.Is(err, fault.Unavailable) {
				t.Error(err)
				return stored
			}
		}
		stored[key.Name] = string(value)
	}
	return stored
}

// TestStrangersAndGuests: nobody and somebody without rights are told so.
func TestStrangersAndGuests(t *testing.T) {
	server := apiserver.Start(t)
	server.InstallCRDs(definitions)
	admin := server.Admin()
	admin.Must(http.MethodPost, "/api/v1/namespaces/default/serviceaccounts", "", []byte(`{"metadata": {"name": "guest"}}`))
	var token struct{ Status struct{ Token string } }
	admin.Must(http.MethodPost, "/api/v1/namespaces/default/serviceaccounts/guest/token", "", []byte(`{"spec": {}}`)).Into(t, &token)
	for what, token := range map[string]string{"a stranger": "wrong", "a guest": token.Status.Token} {
		cfg := server.Config()
		cfg.Token = token
		_, _, err := openWith(t, cfg).List(t.Context(), store.IPPool, "")
		if !fault.Is(err, fault.Unavailable) || !errors.Is(err, store.ErrDenied) || fault.HintOf(err) == "" {
			t.Errorf("%s: %v (%s), want a refusal with a hint", what, err, fault.HintOf(err))
		}
	}
}
