// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"fmt"
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
	nstest.Eventually(t, 5*time.Second, func() bool { return strings.Contains(routes(), "blackhole") }, "the block's blackhole")
	before := routes()
	if !strings.Contains(before, "cali") {
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

// TestThinnedDatastoreIsNotBelieved deletes three of four peers and Nodes at
// once, as a restored old backup does, and wants their sessions kept; deleted
// one by one they are gone.
func TestThinnedDatastoreIsNotBelieved(t *testing.T) {
	r := chaos.Begin(t, "E9", "a backup restored that has the pool but lacks 3 of 4 BGPPeers and 3 of 4 other Nodes; then the peers deleted one by one",
		"OC5008, 0 sessions removed, the own Node written again, pods come and go; the single deletions are believed")
	n := newNode(t)
	n.start()
	var keys []store.Key
	put := func(kind store.Kind, name, spec string) {
		key := store.Key{Kind: kind, Name: name}
		text := fmt.Sprintf(`{"apiVersion":"projectcalico.org/v3","kind":%q,"metadata":{"name":%q},"spec":%s}`, kind, name, spec)
		if _, err := n.cfg.Store.Put(t.Context(), key, []byte(text), store.AnyRevision); err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	remove := func(key store.Key) {
		if err := n.cfg.Store.Delete(t.Context(), key, store.AnyRevision); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 4 {
		put(store.BGPPeer, fmt.Sprint("p", i), fmt.Sprintf(`{"peerIP":"192.168.0.%d","asNumber":65001}`, 100+i))
	}
	for i := range 4 {
		put(store.Node, fmt.Sprint("n", i), fmt.Sprintf(`{"bgp":{"ipv4Address":"192.168.0.%d/24"}}`, 50+i))
	}
	sessions := func() int { return len(n.agent.Report().Status.Sessions) }
	nstest.Eventually(t, 10*time.Second, func() bool { return sessions() == 8 }, "a session with each")
	own := store.Key{Kind: store.Node, Name: string(n.cfg.Node)}
	for i := range 3 {
		remove(keys[i])
		remove(keys[4+i])
	}
	remove(own)
	nstest.Eventually(t, 5*time.Second, func() bool { return n.reports("OC5008") }, "OC5008 is reported")
	nstest.Eventually(t, 10*time.Second, func() bool {
		_, err := n.cfg.Store.Get(t.Context(), own)
		return err == nil
	}, "the own Node is written again")
	n.add(n.pod("a", "c1"))
	kept := sessions()
	r.Measuredf("6 of 8 gone: OC5008, %d of 8 sessions kept, own Node written again, a pod added", kept)
	if kept != 8 {
		t.Errorf("%d sessions, want all 8", kept)
	}
	for i := range 3 {
		put(store.BGPPeer, fmt.Sprint("p", i), fmt.Sprintf(`{"peerIP":"192.168.0.%d","asNumber":65001}`, 100+i))
		put(store.Node, fmt.Sprint("n", i), fmt.Sprintf(`{"bgp":{"ipv4Address":"192.168.0.%d/24"}}`, 50+i))
	}
	nstest.Eventually(t, 5*time.Second, func() bool { return !n.reports("OC5008") }, "OC5008 is over")
	for i := range 3 {
		remove(keys[i])
		nstest.Eventually(t, 5*time.Second, func() bool { return sessions() == 7-i }, "a peer deleted alone is gone")
	}
	r.Twinf("peers deleted one by one: %d of 8 sessions left, no OC5008", sessions())
	if n.reports("OC5008") {
		t.Error("peers deleted one by one are not believed to be gone")
	}
}
