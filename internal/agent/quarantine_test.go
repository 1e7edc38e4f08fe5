// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	v1 "github.com/ocicat-net/ocicat/api/v1"
	"github.com/ocicat-net/ocicat/internal/netns"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/test/chaos"
	"github.com/ocicat-net/ocicat/test/flow"
)

// TestBadObjectsAreLeftAlone puts objects nobody can understand beside a good
// pool: each is named as OC5002, and pods come and go as before.
func TestBadObjectsAreLeftAlone(t *testing.T) {
	bad := map[store.Key]string{
		{Kind: store.IPPool, Name: "corrupt"}:        `{"apiVersion":`,
		{Kind: store.IPPool, Name: "empty"}:          ``,
		{Kind: store.IPPool, Name: "future"}:         `{"apiVersion":"projectcalico.org/v9","kind":"IPPool","metadata":{"name":"future"}}`,
		{Kind: store.Node, Name: "large"}:            `"` + strings.Repeat("x", 1<<20) + `"`,
		{Kind: store.BGPPeer, Name: "wrong"}:         `{"apiVersion":"projectcalico.org/v3","kind":"BGPPeer","metadata":{"name":"wrong"},"spec":{"asNumber":[]}}`,
		{Kind: store.IPReservation, Name: "another"}: `{"apiVersion":"projectcalico.org/v3","kind":"Node","metadata":{"name":"another"}}`,
	}
	r := chaos.Begin(t, "E8", "corrupt, empty, of a future version, of 1 MiB, of wrong types, of another kind, beside a good pool; an agent with a pod", "each is OC5002 by its name, pods come and go")
	n := newNode(t)
	n.start()
	n.add(n.pod("a", "before"))
	if n.reports("OC5002") {
		t.Fatal("OC5002 without a bad object")
	}
	for key, value := range bad {
		if _, err := n.cfg.Store.Put(t.Context(), key, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	for key := range bad {
		nstest.Eventually(t, 5*time.Second, func() bool { return n.names("OC5002", key.Name) }, key.String(), " is named")
	}
	after := n.pod("b", "after")
	n.add(after)
	n.del(after)
	r.Measuredf("%d of %d named, ADD and DEL work", len(bad), len(bad))
	r.Twinf("without them: no OC5002")
}

// TestBadObjectKeepsTheGoodOne overwrites what the agent lives by with what
// nobody can understand: the last good version stays in use, and the new one
// is named until it is mended.
func TestBadObjectKeepsTheGoodOne(t *testing.T) {
	r := chaos.Begin(t, "E8", "the one pool and a peer's Node overwritten with nonsense under an agent with a pod", "0 route events, pods come and go; over when mended")
	n := newNode(t)
	n.start()
	peer := store.Key{Kind: store.Node, Name: "k8s-node-9"}
	good := `{"apiVersion":"projectcalico.org/v3","kind":"Node","metadata":{"name":"k8s-node-9"},"spec":{"bgp":{"ipv4Address":"192.168.0.99/24"}}}`
	if _, err := n.cfg.Store.Put(t.Context(), peer, []byte(good), 0); err != nil {
		t.Fatal(err)
	}
	n.add(n.pod("a", "before"))
	hasPeer := func() bool { return len(n.agent.Sessions()) == 1 }
	nstest.Eventually(t, 5*time.Second, hasPeer, "a session is configured")
	pools, _, err := n.cfg.Store.List(t.Context(), store.IPPool, "")
	if err != nil || len(pools) != 1 {
		t.Fatalf("%d pools, %v", len(pools), err)
	}
	ns, err := netns.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	events := flow.WatchRoutes(t, ns, netip.Prefix{})
	spoilt := map[store.Key]string{pools[0].Key: `{"apiVersion":`, peer: `[]`}
	for key, value := range spoilt {
		if _, err := n.cfg.Store.Put(t.Context(), key, []byte(value), store.AnyRevision); err != nil {
			t.Fatal(err)
		}
	}
	for key := range spoilt {
		nstest.Eventually(t, 5*time.Second, func() bool { return n.names("OC5002", key.Name) }, key.String(), " is named")
	}
	if !hasPeer() || events.Load() > 0 {
		t.Errorf("%d sessions, %d route events", len(n.agent.Sessions()), events.Load())
	}
	r.Measuredf("%d route events, the session stays", events.Load())
	after := n.pod("b", "after")
	n.add(after)
	n.del(after)
	for key, value := range map[store.Key]string{pools[0].Key: string(pools[0].Value), peer: good} {
		if _, err := n.cfg.Store.Put(t.Context(), key, []byte(value), store.AnyRevision); err != nil {
			t.Fatal(err)
		}
	}
	nstest.Eventually(t, 5*time.Second, func() bool { return !n.reports("OC5002") }, "OC5002 is over")
	if err := n.cfg.Store.Delete(t.Context(), peer, store.AnyRevision); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, 10*time.Second, func() bool { return !hasPeer() }, "the twin's session goes")
	r.Twinf("a Node that is deleted takes its session with it")
}

// names says whether the agent has a problem whose text has a word.
func (n *node) names(code, word string) bool {
	has := func(p v1.Problem) bool { return p.Code == code && strings.Contains(p.Text, word) }
	for _, p := range n.agent.Report().Status.Problems {
		if has(p) {
			return true
		}
	}
	return false
}
