// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"testing"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/mem"
)

// After the history each node's first pod gets the article's address,
// wherever the history was interrupted and played again.
func TestHistoryLeavesOrdinalOne(t *testing.T) {
	topology, err := Article(4)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"k8s-master-1": "172.16.196.1", "k8s-node-1": "172.16.109.65",
		"k8s-node-2": "172.16.140.65", "k8s-node-3": "172.16.76.129",
	}
	for failAt := 0; ; failAt++ {
		db := &failing{Store: mem.New(), left: failAt}
		h := history{store: db, nodes: topology.Nodes}
		h.ipam = ipam.NewClient(ipam.ClientConfig{Store: db, Pools: h.pools, NodeLabels: h.labels})
		first := h.play(t.Context(), topology)
		db.left = -1
		if err := h.play(t.Context(), topology); err != nil {
			t.Fatalf("played again after write %d failed: %v", failAt, err)
		}
		for node, addr := range want {
			got, err := h.ipam.AutoAssign(t.Context(), ipam.AssignRequest{Node: node, Handle: "pod-" + node, Use: ipam.Workload, Family: 4, Num: 1})
			if err != nil || len(got) != 1 || got[0].String() != addr {
				t.Errorf("write %d failed: first pod of %s gets %v, %v; want %s", failAt, node, got, err, addr)
			}
		}
		if first == nil {
			if failAt < 10 {
				t.Errorf("only %d writes were made to fail", failAt)
			}
			return
		}
	}
}

// failing is a store whose write number left fails; -1 is none.
type failing struct {
	store.Store
	left int
}

func (f *failing) Put(ctx context.Context, key store.Key, value []byte, prev store.Revision) (store.Revision, error) {
	if f.left--; f.left == -1 {
		return 0, fault.New(fault.Unavailable, "out of order")
	}
	return f.Store.Put(ctx, key, value, prev)
}

func (f *failing) Delete(ctx context.Context, key store.Key, prev store.Revision) error {
	if f.left--; f.left == -1 {
		return fault.New(fault.Unavailable, "out of order")
	}
	return f.Store.Delete(ctx, key, prev)
}
