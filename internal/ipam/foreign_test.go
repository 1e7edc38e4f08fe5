// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/mem"
	cases "github.com/ocicat-net/ocicat/test/chaos"
)

// Blocks that Calico made for what no Linux node is: one of a Windows node,
// which keeps three addresses and the last for itself, and one of addresses of
// LoadBalancer services.
const (
	windowsBlock = `{"cidr":"10.0.0.0/29","affinity":"host:win","allocations":[0,0,0,null,null,null,null,0],"unallocated":[3,4,5,6],` +
		`"attributes":[{"handle_id":"windows-reserved-ipam-handle","secondary":{"note":"windows host rsvd"}}],"deleted":false,"sequenceNumber":7,"sequenceNumberForAllocation":{}}`
	virtualBlock = `{"cidr":"10.0.0.8/29","affinity":"virtual:load-balancer","allocations":[0,null,null,null,null,null,null,1],"unallocated":[1,2,3,4,5,6],` +
		`"attributes":[{"handle_id":"lb-svc1","secondary":{"service":"svc1"}},{"releasedAt":"2026-01-01T00:00:00Z"}],"deleted":false,"sequenceNumber":9,"sequenceNumberForAllocation":{"0":8,"7":8}}`
)

// foreignStore holds those blocks with what belongs to them.
func foreignStore(t *testing.T) *mem.Store {
	s := mem.New()
	for key, value := range map[store.Key]string{
		blockKey(netip.MustParsePrefix("10.0.0.0/29")):           windowsBlock,
		affinityKey("win", netip.MustParsePrefix("10.0.0.0/29")): `{"state":"confirmed","deleted":false}`,
		{Kind: store.Node, Name: "win"}:                          `{"metadata":{"name":"win"}}`,
		blockKey(netip.MustParsePrefix("10.0.0.8/29")):           virtualBlock,
		handleKey("lb-svc1"):                                     `{"block":{"10.0.0.8/29":1},"deleted":false}`,
	} {
		if _, err := s.Put(t.Context(), key, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func foreignClient(s store.Store) *Client {
	pool := cluster.Pool{Name: "p", CIDR: netip.MustParsePrefix("10.0.0.0/28"), BlockSize: 29}
	return NewClient(ClientConfig{Store: s, Pools: onePool(pool), NodeLabels: noLabels, Borrow: true})
}

// TestForeignBlocksAreNotLent fills a pool whose blocks are a Windows node's
// and the LoadBalancer addresses': only what the Windows node leaves free is
// lent.
func TestForeignBlocksAreNotLent(t *testing.T) {
	c := foreignClient(foreignStore(t))
	var given []string
	for n := 0; ; n++ {
		got, err := c.AutoAssign(t.Context(), AssignRequest{Node: "n1", Handle: fmt.Sprint("h", n), Use: Workload, Family: 4, Num: 1})
		if fault.Is(err, fault.Exhausted) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		given = append(given, got[0].String())
	}
	if diff := cmp.Diff([]string{"10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"}, given); diff != "" {
		t.Errorf("given -want +got:\n%s", diff)
	}
	err := c.AssignIP(t.Context(), AssignIPRequest{Node: "n1", Addr: netip.MustParseAddr("10.0.0.1"), Handle: "static"})
	if !fault.Is(err, fault.Conflict) {
		t.Errorf("an address that the Windows node keeps: %v, want a conflict", err)
	}
	if err := c.RemoveHost(t.Context(), "load-balancer"); err != nil {
		t.Error(err)
	}
	if b, _, err := c.block(t.Context(), netip.MustParsePrefix("10.0.0.8/29")); err != nil || !b.Virtual() {
		t.Errorf("the LoadBalancer's block is %+v, %v", b, err)
	}
}

// TestForeignBlocksAreNotCollected lets the collector look for a day at blocks
// of others: nothing of them is changed. Once the Windows node is deleted, its
// block goes, with what it kept for itself; the other stays.
func TestForeignBlocksAreNotCollected(t *testing.T) {
	r := cases.Begin(t, "B8", "the collector beside blocks of a Windows node and of LoadBalancer addresses", "0 objects changed in a day; after its deletion the Windows node's block is gone")
	synctest.Test(t, func(t *testing.T) {
		s := foreignStore(t)
		k := NewCollector(CollectorConfig{Client: foreignClient(s), Node: "n1", Session: "s", Log: slog.New(slog.DiscardHandler)})
		before := stored(t, s)
		rounds(t, k, 24*time.Hour)
		after := stored(t, s)
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("after a day -want +got:\n%s", diff)
		}
		r.Measuredf("0 of %d objects changed in a day", len(before))
		if err := s.Delete(t.Context(), store.Key{Kind: store.Node, Name: "win"}, store.AnyRevision); err != nil {
			t.Fatal(err)
		}
		rounds(t, k, 24*time.Hour)
		for key := range stored(t, s) {
			if key != blockKey(netip.MustParsePrefix("10.0.0.8/29")).String() && key != handleKey("lb-svc1").String() {
				t.Errorf("left: %s", key)
			}
		}
		r.Twinf("%d of %d objects taken once the Windows node is deleted", len(before)-1-len(stored(t, s)), 2)
	})
}

// rounds lets a collector work for a while.
func rounds(t *testing.T, k *Collector, during time.Duration) {
	for until := time.Now().Add(during); time.Now().Before(until); time.Sleep(k.cfg.Times.round()) {
		if err := k.round(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// stored lists blocks, claims and handles with their values.
func stored(t *testing.T, s *mem.Store) map[string]string {
	all := map[string]string{}
	for _, kind := range []store.Kind{store.Block, store.Affinity, store.Handle, store.Node} {
		entries, _, err := s.List(t.Context(), kind, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			all[e.Key.String()] = string(e.Value)
		}
	}
	return all
}
