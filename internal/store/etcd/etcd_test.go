// SPDX-License-Identifier: Apache-2.0

package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/embed"
	"github.com/ocicat-net/ocicat/internal/store/etcd"
	"github.com/ocicat-net/ocicat/internal/store/storetest"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// server starts a real etcd for a test and returns its endpoint.
func server(t *testing.T, quota int64) string {
	t.Helper()
	dir := t.TempDir()
	endpoint := "unix://" + filepath.Join(dir, "etcd.sock")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := embed.Start(ctx, embed.Config{
		Dir: filepath.Join(dir, "data"), Listen: []string{endpoint}, Quota: quota, NoFsync: true, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return endpoint
}

func open(t *testing.T, cfg etcd.Config) *etcd.Store {
	t.Helper()
	s, err := etcd.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// raw is etcd's own client, for what the store cannot do.
func raw(t *testing.T, endpoint string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func node(name string) store.Key { return store.Key{Kind: store.Node, Name: name} }

func TestConformance(t *testing.T) {
	endpoint := server(t, 0)
	client := raw(t, endpoint)
	storetest.Run(t, func(t *testing.T) store.Store {
		if _, err := client.Delete(t.Context(), "/", clientv3.WithPrefix()); err != nil {
			t.Fatal(err)
		}
		return open(t, etcd.Config{Endpoints: []string{endpoint}})
	})
}

func TestUnusableConfigs(t *testing.T) {
	for endpoint, want := range map[string]fault.Kind{
		"127.0.0.1:2379":          fault.Invalid,
		"http://127.0.0.1":        fault.Invalid,
		"http://127.0.0.1:2379/x": fault.Invalid,
		"unix://host/path":        fault.Invalid,
		"ftp://127.0.0.1:2379":    fault.Invalid,
		"http://[::1:2379":        fault.Invalid,
		"https://u:p@a:2379":      fault.Invalid,
	} {
		_, err := etcd.New(etcd.Config{Endpoints: []string{endpoint}})
		if !fault.Is(err, want) || fault.HintOf(err) == "" {
			t.Errorf("%s: %v, hint %q, want %v with a hint", endpoint, err, fault.HintOf(err), want)
		}
	}
	if _, err := etcd.New(etcd.Config{}); !fault.Is(err, fault.Invalid) {
		t.Errorf("no endpoint: %v, want it invalid", err)
	}
}

func TestLongListsComeWhole(t *testing.T) {
	const objects = 1203 // more than two requests read
	endpoint := server(t, 0)
	s := open(t, etcd.Config{Endpoints: []string{endpoint}})
	for i := range objects {
		if _, err := s.Put(t.Context(), node(fmt.Sprintf("n%04d", i)), []byte("x"), 0); err != nil {
			t.Fatal(err)
		}
	}
	entries, rev, err := s.List(t.Context(), store.Node, "")
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range entries {
		if want := fmt.Sprintf("n%04d", i); e.Key.Name != want || e.Revision > rev {
			t.Fatalf("object %d is %v at %d of %d, want %s", i, e.Key, e.Revision, rev, want)
		}
	}
	if len(entries) != objects {
		t.Errorf("%d objects, want %d", len(entries), objects)
	}
}

// TestLongListsAreOfOneMoment moves an object from the front of a list to its
// end and back while it is read in several requests: it is always there once.
func TestLongListsAreOfOneMoment(t *testing.T) {
	const objects = 1100
	const front, end = "/calico/resources/v3/projectcalico.org/nodes/a", "/calico/resources/v3/projectcalico.org/nodes/z"
	endpoint := server(t, 0)
	s := open(t, etcd.Config{Endpoints: []string{endpoint}})
	for i := range objects {
		if _, err := s.Put(t.Context(), node(fmt.Sprintf("n%04d", i)), []byte("x"), 0); err != nil {
			t.Fatal(err)
		}
	}
	client := raw(t, endpoint)
	if _, err := client.Put(t.Context(), front, "x"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var mover sync.WaitGroup
	defer mover.Wait()
	defer cancel()
	mover.Go(func() {
		for from, to := front, end; ctx.Err() == nil; from, to = to, from {
			if _, err := client.Txn(ctx).Then(clientv3.OpDelete(from), clientv3.OpPut(to, "x")).Commit(); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	for range 50 {
		entries, _, err := s.List(t.Context(), store.Node, "")
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) != objects+1 {
			t.Fatalf("%d objects, want %d at every moment", len(entries), objects+1)
		}
	}
}

func TestForeignKeysAreSkipped(t *testing.T) {
	endpoint := server(t, 0)
	s := open(t, etcd.Config{Endpoints: []string{endpoint}})
	client := raw(t, endpoint)
	events, err := s.Watch(t.Context(), store.Affinity, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"/calico/ipam/v2/host/n1", "/calico/ipam/v2/host/n1/ipv4/block/junk", "/calico/ipam/v2/host/n1/ipv6/block/10.0.0.0-26",
		"/calico/ipam/v2/host/n1/ipv4/block/10.0.0.0-26",
	} {
		if _, err := client.Put(t.Context(), path, "x"); err != nil {
			t.Fatal(err)
		}
	}
	want := store.Key{Kind: store.Affinity, Name: "n1/10.0.0.0-26"}
	if ev := <-events; ev.Entry.Key != want {
		t.Errorf("first event is of %v, want %v", ev.Entry.Key, want)
	}
	entries, _, err := s.List(t.Context(), store.Affinity, "")
	if err != nil || len(entries) != 1 || entries[0].Key != want {
		t.Errorf("list: %v, %v, want %v alone", entries, err, want)
	}
}

func TestWatchClosesWhereEtcdForgot(t *testing.T) {
	r := chaos.Begin(t, "E5", "real etcd compacted past the revision a watch starts from", "the watch closes, its caller lists anew")
	endpoint := server(t, 0)
	s := open(t, etcd.Config{Endpoints: []string{endpoint}})
	var last store.Revision
	for range 5 {
		rev, err := s.Put(t.Context(), node("a"), []byte("x"), store.AnyRevision)
		if err != nil {
			t.Fatal(err)
		}
		last = rev
	}
	if _, err := raw(t, endpoint).Compact(t.Context(), int64(last)); err != nil {
		t.Fatal(err)
	}
	events, err := s.Watch(t.Context(), store.Node, "", 1)
	if err != nil {
		t.Fatal(err)
	}
	if ev, open := <-events; open {
		t.Errorf("got %v, want the watch closed: its changes are compacted", ev)
	}
	events, err = s.Watch(t.Context(), store.Node, "", last-1)
	if err != nil {
		t.Fatal(err)
	}
	if ev := <-events; ev.Entry.Revision != last {
		t.Errorf("got revision %d, want %d", ev.Entry.Revision, last)
	}
	r.Measuredf("closed")
	r.Twinf("from the last revision: served")
}

func TestFullServerRefusesWrites(t *testing.T) {
	r := chaos.Begin(t, "E10", "real etcd with a quota of 1 MiB, filled", "writes refused for sure, reads served, a remedy")
	s := open(t, etcd.Config{Endpoints: []string{server(t, 1<<20)}})
	value := make([]byte, 256<<10)
	start := time.Now()
	var err error
	for err == nil && time.Since(start) < 20*time.Second { // etcd learns its size by and by
		_, err = s.Put(t.Context(), node("a"), value, store.AnyRevision)
	}
	if !fault.Is(err, fault.Exhausted) || errors.Is(err, store.ErrAmbiguous) || !strings.Contains(fault.HintOf(err), "alarm disarm") {
		t.Errorf("%v, hint %q, want it exhausted and not ambiguous", err, fault.HintOf(err))
	}
	if _, err := s.Get(t.Context(), node("a")); err != nil {
		t.Errorf("read of a full datastore: %v", err)
	}
	r.Measuredf("refused: %q", err)
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	s := open(t, etcd.Config{Endpoints: []string{"http://" + address}})
	start := time.Now()
	_, err = s.Put(t.Context(), node("a"), nil, 0)
	if !fault.Is(err, fault.Unavailable) || errors.Is(err, store.ErrAmbiguous) {
		t.Errorf("put: %v, want it unavailable and surely not written", err)
	}
	if want := "put Node a: dial tcp " + address + ": connect: connection refused"; err.Error() != want {
		t.Errorf("put: %q, want %q", err, want)
	}
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("the answer took %v, want it at once", took)
	}
}
