// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"strings"
	"testing"
	"time"

	v1 "github.com/ocicat-net/ocicat/api/v1"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/test/chaos"
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
