// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"maps"
	"testing"

	"github.com/ocicat-net/ocicat/internal/store"
)

// objects are n objects of a kind.
func objects(kind store.Kind, n int) view {
	v := view{}
	for i := range n {
		v[store.Key{Kind: kind, Name: fmt.Sprint("o", i)}] = store.Entry{}
	}
	return v
}

func TestThinned(t *testing.T) {
	for _, c := range []struct {
		kind      store.Kind
		had, left int
		what      string
	}{
		{store.BGPPeer, 4, 1, "3 of 4 BGPPeers"},
		{store.BGPPeer, 3, 0, "3 of 3 BGPPeers"},
		{store.BGPPeer, 2, 0, ""}, // fewer than many
		{store.BGPPeer, 6, 3, ""}, // half is not more than half
		{store.Node, 9, 4, "5 of 9 Nodes"},
		{store.Node, 9, 5, ""},
		{store.IPReservation, 9, 0, ""},
	} {
		old, now := objects(c.kind, c.had), objects(c.kind, c.left)
		pool := store.Key{Kind: store.IPPool, Name: "pool"}
		old[pool] = store.Entry{}
		kinds, what := thinned(old, now, "self")
		if what != c.what || (len(kinds) > 0) != (c.what != "") {
			t.Errorf("%d of %d %s left: %v, %q, want %q", c.left, c.had, c.kind, kinds, what, c.what)
		}
		kept := now.keeping(old, kinds)
		want := maps.Clone(now)
		if c.what != "" {
			want = objects(c.kind, c.had)
		}
		if len(kept) != len(want) || kept.lacks(want) != 0 {
			t.Errorf("%d of %d %s left: kept %d, want %d, and not the pool", c.left, c.had, c.kind, len(kept), len(want))
		}
	}
	old := objects(store.Node, 4)
	old[store.Key{Kind: store.Node, Name: "self"}] = store.Entry{}
	if _, what := thinned(old, view{}, "self"); what != "4 of 4 Nodes" {
		t.Errorf("all Nodes gone: %q, want the own one not counted", what)
	}
}
