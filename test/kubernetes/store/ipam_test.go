// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/test/kubernetes/apiserver"
)

// TestAddresses has three nodes take and give back addresses at once, through
// real objects, while the server is killed. No address is given twice, none is
// lost, and nothing is left in the end.
func TestAddresses(t *testing.T) {
	for group, dirs := range map[string][]string{
		"projectcalico.org/v3":     {definitions},
		"crd.projectcalico.org/v1": {"testdata/v1", ourDefinitions(t)},
	} {
		t.Run(group, func(t *testing.T) {
			server := apiserver.Start(t)
			for _, dir := range dirs {
				server.InstallCRDs(dir)
			}
			server.Admin().Must(http.MethodPost, "/apis/"+group+"/ippools", "", aPool(group, "p", "10.0.0.0/24"))
			addressRace(t, server)
		})
	}
}

const (
	racers = 3
	rounds = 40
)

func addressRace(t *testing.T, server *apiserver.Server) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r := &race{t: t, holder: map[netip.Addr]string{}}
	var wg sync.WaitGroup
	for n := range racers {
		node := fmt.Sprintf("n%d", n)
		server.Admin().Must(http.MethodPost, "/api/v1/nodes", "", map[string]any{"metadata": map[string]any{"name": node}})
		wg.Go(func() { r.run(ctx, ipam.NewStoredClient(open(t, server), nil), node) })
	}
	server.Kill()
	server.Resume()
	wg.Wait()
	if t.Failed() {
		return
	}
	s := open(t, server)
	c := ipam.NewStoredClient(s, nil)
	findings, totals, err := c.Check(ctx, func(context.Context) ([]ipam.Pods, error) { return nil, nil })
	if err != nil || totals.Addresses != len(r.holder) {
		t.Errorf("%d addresses are stored and %d held, %v: %v", totals.Addresses, len(r.holder), err, findings)
	}
	for _, handle := range r.holder {
		if err := c.ReleaseByHandle(ctx, handle); err != nil {
			t.Error(err)
		}
	}
	for n := range racers {
		if err := c.RemoveHost(ctx, fmt.Sprintf("n%d", n)); err != nil {
			t.Error(err)
		}
	}
	for _, kind := range []store.Kind{store.Block, store.Affinity, store.Handle} {
		if entries, _, err := s.List(ctx, kind, ""); err != nil || len(entries) > 0 {
			t.Errorf("left are %v, %v", entries, err)
		}
	}
}

// race knows who holds which address.
type race struct {
	t      *testing.T
	mu     sync.Mutex
	holder map[netip.Addr]string // handle
}

// run takes an address a round and gives back every third.
func (r *race) run(ctx context.Context, c *ipam.Client, node string) {
	for n := range rounds {
		handle := fmt.Sprintf("k8s-pod-network.%s-%d", node, n)
		request := ipam.AssignRequest{
			Node: node, Handle: handle, Use: ipam.Workload, Family: 4, Num: 1, MaxPerHandle: 1,
			Attrs: map[string]string{alloc.AttrNode: node, alloc.AttrPod: handle, alloc.AttrNamespace: "default"},
		}
		var got []netip.Addr
		if !r.retry(ctx, func() (err error) { got, err = c.AutoAssign(ctx, request); return err }) {
			return
		}
		r.take(got, handle)
		if n%3 != 0 {
			continue
		}
		r.give(got)
		if !r.retry(ctx, func() error { return c.ReleaseByHandle(ctx, handle) }) {
			return
		}
	}
}

// retry does what an agent does while the datastore is away.
func (r *race) retry(ctx context.Context, do func() error) bool {
	for {
		err := do()
		if err == nil || fault.Is(err, fault.NotFound) {
			return true
		}
		if !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.Conflict) || ctx.Err() != nil {
			r.t.Error(err)
			return false
		}
	}
}

func (r *race) take(got []netip.Addr, handle string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, addr := range got {
		if other, held := r.holder[addr]; held {
			r.t.Errorf("%s is given to %s and %s", addr, other, handle)
		}
		r.holder[addr] = handle
	}
	if len(got) != 1 {
		r.t.Errorf("%s got %v", handle, got)
	}
}

func (r *race) give(got []netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, addr := range got {
		delete(r.holder, addr)
	}
}
