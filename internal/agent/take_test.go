// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"testing"

	"github.com/ocicat-net/ocicat/internal/store"
)

// TestTake: what is told of an object is news if it is another, not if only its
// revision is.
func TestTake(t *testing.T) {
	r := newResources(&Agent{})
	key := store.Key{Kind: store.Node, Name: "n"}
	const good, other, wrong = `{"apiVersion":"projectcalico.org/v3","kind":"Node","metadata":{"name":"n"},"spec":{}}`, `{"apiVersion":"projectcalico.org/v3","kind":"Node","metadata":{"name":"n","labels":{"a":"b"}},"spec":{}}`, `{`
	entry := func(value string, rev store.Revision) store.Update {
		return store.Update{Entries: []store.Entry{{Key: key, Value: []byte(value), Revision: rev}}}
	}
	for i, step := range []struct {
		what    string
		update  store.Update
		changed bool
		holds   string
	}{
		{"new", entry(good, 1), true, good},
		{"the same again", entry(good, 2), false, good},
		{"another", entry(other, 3), true, other},
		{"not understood: the last good one stays", entry(wrong, 4), true, other},
		{"good again", entry(other, 5), true, other},
		{"deleted", store.Update{Deleted: []store.Key{key}}, true, ""},
		{"deleted again", store.Update{Deleted: []store.Key{key}}, false, ""},
	} {
		changed := r.take(store.Node, step.update)
		if got := r.entries[key]; changed != step.changed || string(got.Value) != step.holds {
			t.Errorf("%d, %s: changed %v, holds %s", i, step.what, changed, got.Value)
		}
	}
}
