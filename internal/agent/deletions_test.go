// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/ocicat-net/ocicat/api/v1"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// reports says whether the agent has a problem.
func (n *node) reports(code string) bool {
	return slices.ContainsFunc(n.agent.Report().Status.Problems, func(p v1.Problem) bool { return p.Code == code })
}

// wipe deletes every resource, kind by kind, and returns what was there.
func (n *node) wipe(kinds ...store.Kind) []store.Entry {
	n.t.Helper()
	var had []store.Entry
	for _, kind := range kinds {
		entries, _, err := n.cfg.Store.List(n.t.Context(), kind, "")
		if err != nil {
			n.t.Fatal(err)
		}
		for _, e := range entries {
			if err := n.cfg.Store.Delete(n.t.Context(), e.Key, store.AnyRevision); err != nil {
				n.t.Fatal(err)
			}
		}
		had = append(had, entries...)
	}
	return had
}

// TestWipedDatastoreIsNotBelieved deletes all pools and Nodes under an agent
// and wants its pods, blocks and routes untouched, after a restart too; a pool
// deleted alone is deleted.
func TestWipedDatastoreIsNotBelieved(t *testing.T) {
	r := chaos.Begin(t, "E9", "every resource deleted under an agent with a pod; agent restarted; resources restored; then the pool alone deleted",
		"0 routes changed, OC5008 until they are back; the single deletion is believed")
	n := newNode(t)
	n.start()
	n.add(n.pod("a", "c1"))
	routes := func() string { return ip(t, "route show") }
	before := routes()
	if !strings.Contains(before, "cali") || !strings.Contains(before, "blackhole") {
		t.Fatalf("routes before:\n%s", before)
	}
	events := n.listen()
	had := n.wipe(store.IPPool, store.Node)
	nstest.Eventually(t, 5*time.Second, func() bool { return n.reports("OC5008") }, "OC5008 is reported")
	if after := routes(); after != before {
		t.Errorf("routes after:\n%s\nbefore:\n%s", after, before)
	}
	changed := slices.DeleteFunc(events.sofar(), func(s string) bool { return !strings.HasPrefix(s, "route") })
	r.Measuredf("wiped: %d route events, OC5008", len(changed))
	if len(changed) > 0 {
		t.Errorf("route events: %v", changed)
	}
	n.stop()
	n.launch()
	nstest.Eventually(t, 5*time.Second, func() bool { return n.reports("OC5008") }, "OC5008 is reported after a restart")
	if after := routes(); after != before {
		t.Errorf("routes after a restart:\n%s\nbefore:\n%s", after, before)
	}
	r.Measuredf("restarted: routes as before")
	for _, e := range had {
		if _, err := n.cfg.Store.Put(t.Context(), e.Key, e.Value, store.AnyRevision); err != nil {
			t.Fatal(err)
		}
	}
	nstest.Eventually(t, 5*time.Second, func() bool { return !n.reports("OC5008") }, "OC5008 is over")
	n.wipe(store.IPPool)
	nstest.Eventually(t, 5*time.Second, func() bool { return n.reports("OC2005") }, "the pool is gone")
	if n.reports("OC5008") {
		t.Error("a pool deleted alone is not believed to be gone")
	}
	r.Twinf("the pool deleted alone: believed, OC2005")
}

// A Node that is deleted while its agent lives comes back without a restart.
func TestOwnNodeDeleted(t *testing.T) {
	n := newNode(t)
	n.start()
	key := store.Key{Kind: store.Node, Name: string(n.cfg.Node)}
	stored := func() bool {
		_, err := n.cfg.Store.Get(t.Context(), key)
		return err == nil
	}
	nstest.Eventually(t, 10*time.Second, stored, "registered")
	if err := n.cfg.Store.Delete(t.Context(), key, store.AnyRevision); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, 20*time.Second, stored, "registered again")
}
