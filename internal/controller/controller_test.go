// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/controller"
	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/mem"
)

// deployments answers for Calico's collector: so many replicas, -1 for none
// deployed.
func deployments(t *testing.T, replicas *atomic.Int32) *kubeapi.Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := replicas.Load()
		if n < 0 || !strings.HasSuffix(r.URL.Path, "/namespaces/calico-system/deployments/calico-kube-controllers") {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"kind":"Status","code":404,"reason":"NotFound","message":"not found","details":{"name":"calico-kube-controllers","kind":"deployments"}}`)
			return
		}
		fmt.Fprintf(w, `{"spec":{"replicas":%d},"status":{}}`, n)
	}))
	t.Cleanup(server.Close)
	client, err := kubeapi.New(kubeapi.Config{Server: server.URL, Token: "x"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// electedAt is the revision of the last vote, 0 where there was none.
func electedAt(t *testing.T, s store.Store) store.Revision {
	e, err := s.Get(t.Context(), store.Key{Kind: store.Election, Name: "collector"})
	if err != nil {
		return 0
	}
	return e.Revision
}

// TestRestsBesideCalico: the election is taken part in while Calico's collector
// does not run, and only then.
func TestRestsBesideCalico(t *testing.T) {
	var replicas atomic.Int32
	replicas.Store(1)
	s := mem.New()
	c := controller.New(controller.Config{
		Client: deployments(t, &replicas), Store: s, Name: "c1", Session: "c1/1",
		Times: ipam.TimesFor(2 * time.Second), Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = c.Run(ctx) })
	defer running.Wait()
	defer cancel()
	elected := func() store.Revision { return electedAt(t, s) }
	beat := ipam.TimesFor(2 * time.Second).Beat
	rests := func() bool {
		before := elected()
		timer := time.NewTimer(3 * beat)
		defer timer.Stop()
		<-timer.C
		return elected() == before
	}
	if !rests() || elected() != 0 {
		t.Error("elected beside Calico's collector")
	}
	replicas.Store(0)
	nstest.Eventually(t, 20*time.Second, func() bool { return elected() > 0 }, "elected once Calico's collector is gone")
	replicas.Store(2)
	nstest.Eventually(t, 20*time.Second, rests, "at rest once Calico's collector is back")
	replicas.Store(-1)
	before := elected()
	nstest.Eventually(t, 20*time.Second, func() bool { return elected() > before }, "elected again without it")
}

// lockedStore is a datastore that is locked as told.
type lockedStore struct {
	store.Store
	changes chan bool
}

func (s lockedStore) FollowLock(ctx context.Context, changed func(bool)) {
	for {
		select {
		case locked := <-s.changes:
			changed(locked)
		case <-ctx.Done():
			return
		}
	}
}

// TestRestsWhileLocked: nothing is collected while the datastore is locked.
func TestRestsWhileLocked(t *testing.T) {
	var replicas atomic.Int32
	replicas.Store(-1)
	s := lockedStore{mem.New(), make(chan bool)}
	times := ipam.TimesFor(2 * time.Second)
	c := controller.New(controller.Config{Client: deployments(t, &replicas), Store: s, Name: "c1", Session: "c1/1", Times: times, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = c.Run(ctx) })
	defer running.Wait()
	defer cancel()
	elected := func() store.Revision { return electedAt(t, s) }
	nstest.Eventually(t, 20*time.Second, func() bool { return elected() > 0 }, "elected while the datastore is open")
	s.changes <- true
	nstest.Eventually(t, 20*time.Second, func() bool {
		before := elected()
		timer := time.NewTimer(3 * times.Beat)
		defer timer.Stop()
		<-timer.C
		return elected() == before
	}, "at rest while the datastore is locked")
	before := elected()
	s.changes <- false
	nstest.Eventually(t, 20*time.Second, func() bool { return elected() > before }, "elected again")
}
