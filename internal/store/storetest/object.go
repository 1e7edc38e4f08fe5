// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
)

func testLifecycle(t *testing.T, s store.Store) {
	key := node("a")
	_, err := s.Get(t.Context(), key)
	wantKind(t, "get before create", err, fault.NotFound)

	first := mustPut(t, s, key, "one", 0)
	wantEntry(t, mustGet(t, s, key), key, "one", first)

	second := mustPut(t, s, key, "two", first)
	wantEntry(t, mustGet(t, s, key), key, "two", second)

	mustDelete(t, s, key, second)
	_, err = s.Get(t.Context(), key)
	wantKind(t, "get after delete", err, fault.NotFound)

	third := mustPut(t, s, key, "three", 0)
	wantEntry(t, mustGet(t, s, key), key, "three", third)
}

func testCreateIfAbsent(t *testing.T, s store.Store) {
	key := node("a")
	rev := mustPut(t, s, key, "one", 0)
	_, err := s.Put(t.Context(), key, []byte("two"), 0)
	wantKind(t, "second create", err, fault.Conflict)
	wantEntry(t, mustGet(t, s, key), key, "one", rev)
}

func testCompareAndSwap(t *testing.T, s store.Store) {
	ctx, key := t.Context(), node("a")
	_, err := s.Put(ctx, key, []byte("x"), 12345)
	wantKind(t, "update of a missing object", err, fault.Conflict)

	first := mustPut(t, s, key, "one", 0)
	second := mustPut(t, s, key, "two", first)
	_, err = s.Put(ctx, key, []byte("stale"), first)
	wantKind(t, "stale update", err, fault.Conflict)
	wantKind(t, "stale delete", s.Delete(ctx, key, first), fault.Conflict)
	wantKind(t, "delete if absent", s.Delete(ctx, key, 0), fault.Conflict)
	wantEntry(t, mustGet(t, s, key), key, "two", second)

	third := mustPut(t, s, key, "three", store.AnyRevision)
	wantEntry(t, mustGet(t, s, key), key, "three", third)
	mustDelete(t, s, key, store.AnyRevision)

	mustPut(t, s, key, "again", store.AnyRevision)
	_, err = s.Put(ctx, key, []byte("stale"), third)
	wantKind(t, "update across a deletion", err, fault.Conflict)
}

func testDeleteMissing(t *testing.T, s store.Store) {
	ctx := t.Context()
	wantKind(t, "delete with any revision", s.Delete(ctx, node("a"), store.AnyRevision), fault.NotFound)
	wantKind(t, "delete with a revision", s.Delete(ctx, node("a"), 7), fault.NotFound)
	wantKind(t, "delete with revision 0", s.Delete(ctx, node("a"), 0), fault.NotFound)
}

// nameOf is a valid name of a kind.
func nameOf(kind store.Kind) string {
	switch kind {
	case store.Block:
		return "10.0.0.64-26"
	case store.Affinity:
		return "default/10.0.0.64-26"
	}
	return "default"
}

func testEveryKind(t *testing.T, s store.Store, without store.Kind) {
	kinds := slices.DeleteFunc(store.Kinds(), func(kind store.Kind) bool { return kind == without })
	for _, kind := range kinds {
		key := store.Key{Kind: kind, Name: nameOf(kind)}
		rev := mustPut(t, s, key, string(kind), 0)
		wantEntry(t, mustGet(t, s, key), key, string(kind), rev)
	}
	for _, kind := range kinds {
		entries, _ := mustList(t, s, kind, "")
		if diff := cmp.Diff([]string{nameOf(kind)}, listed(entries)); diff != "" {
			t.Errorf("list %s (-want +got):\n%s", kind, diff)
		}
		mustDelete(t, s, store.Key{Kind: kind, Name: nameOf(kind)}, store.AnyRevision)
	}
}

func testKindsApart(t *testing.T, s store.Store) {
	mustPut(t, s, store.Key{Kind: store.Node, Name: "x"}, "node", 0)
	mustPut(t, s, store.Key{Kind: store.NodeStatus, Name: "x"}, "status", 0)
	mustPut(t, s, store.Key{Kind: store.BGPPeer, Name: "x"}, "peer", 0)
	mustDelete(t, s, store.Key{Kind: store.Node, Name: "x"}, store.AnyRevision)
	_, err := s.Get(t.Context(), store.Key{Kind: store.Node, Name: "x"})
	wantKind(t, "get of the deleted kind", err, fault.NotFound)
	if got := mustGet(t, s, store.Key{Kind: store.NodeStatus, Name: "x"}); string(got.Value) != "status" {
		t.Errorf("status is %q", got.Value)
	}
	if entries, _ := mustList(t, s, store.IPPool, ""); len(entries) != 0 {
		t.Errorf("pools: %v, want none", entries)
	}
}

func testList(t *testing.T, s store.Store) {
	for _, name := range []string{
		"n2/10.0.0.0-26", "n1/fd00::-122", "n1/172.16.4.0-30", "n1/172.16.12.0-30", "n10/10.0.1.0-26", "n1/10.0.2.0-26",
	} {
		mustPut(t, s, store.Key{Kind: store.Affinity, Name: name}, name, 0)
	}
	for _, test := range []struct {
		prefix string
		want   []string
	}{
		{"n1/", []string{"n1/10.0.2.0-26", "n1/172.16.12.0-30", "n1/172.16.4.0-30", "n1/fd00::-122"}},
		{"n1/1", []string{"n1/10.0.2.0-26", "n1/172.16.12.0-30", "n1/172.16.4.0-30"}},
		{"n10", []string{"n10/10.0.1.0-26"}},
		{"", []string{
			"n1/10.0.2.0-26", "n1/172.16.12.0-30", "n1/172.16.4.0-30", "n1/fd00::-122", "n10/10.0.1.0-26", "n2/10.0.0.0-26",
		}},
		{"n3/", []string{}},
	} {
		entries, rev := mustList(t, s, store.Affinity, test.prefix)
		if diff := cmp.Diff(test.want, listed(entries)); diff != "" {
			t.Errorf("list with prefix %q (-want +got):\n%s", test.prefix, diff)
		}
		for _, e := range entries {
			if string(e.Value) != e.Key.Name || e.Revision == 0 || e.Revision > rev {
				t.Errorf("list with prefix %q at %d: %v has value %q and revision %d", test.prefix, rev, e.Key, e.Value, e.Revision)
			}
		}
	}
}

// testListBlock: one block is listed and watched by its name.
func testListBlock(t *testing.T, s store.Store) {
	block := func(name string) store.Key { return store.Key{Kind: store.Block, Name: name} }
	_, start := mustList(t, s, store.Block, "")
	events := mustWatch(t, s, store.Block, "10.0.1.0-26", start)
	for _, name := range []string{"10.0.1.64-26", "10.0.1.0-26", "10.0.10.0-26", "10.0.1.0-27"} {
		mustPut(t, s, block(name), name, 0)
	}
	if entries, _ := mustList(t, s, store.Block, "10.0.1.0-26"); len(entries) != 1 || entries[0].Key.Name != "10.0.1.0-26" {
		t.Errorf("list of one block: %v", listed(entries))
	}
	rev := mustPut(t, s, block("10.0.1.64-26"), "other", store.AnyRevision)
	rev = max(rev, mustPut(t, s, block("10.0.1.0-26"), "y", store.AnyRevision))
	for _, want := range []string{"10.0.1.0-26", "y"} {
		if ev := next(t, events); ev.Entry.Key != block("10.0.1.0-26") || string(ev.Entry.Value) != want || ev.Entry.Revision > rev {
			t.Errorf("watch of one block got %s %q at %d, want %q", ev.Entry.Key, ev.Entry.Value, ev.Entry.Revision, want)
		}
	}
	if err := s.Delete(t.Context(), block("10.0.1.0-26"), store.AnyRevision); err != nil {
		t.Fatal(err)
	}
	if ev := next(t, events); !ev.Deleted || ev.Entry.Key != block("10.0.1.0-26") {
		t.Errorf("watch of one block got %+v, want its deletion", ev)
	}
}

func testRevisionsGrow(t *testing.T, s store.Store) {
	var last store.Revision
	grows := func(what string, rev store.Revision) {
		t.Helper()
		if rev <= last {
			t.Errorf("%s: revision %d after %d", what, rev, last)
		}
		last = rev
	}
	for i := range 10 {
		grows("put", mustPut(t, s, node(fmt.Sprint("a", i%3)), "x", store.AnyRevision))
		grows("put of another kind", mustPut(t, s, store.Key{Kind: store.IPPool, Name: "p"}, "x", store.AnyRevision))
	}
	if _, rev := mustList(t, s, store.Node, ""); rev < last {
		t.Errorf("list at revision %d after a write at %d", rev, last)
	}
	mustDelete(t, s, node("a0"), store.AnyRevision)
	_, rev := mustList(t, s, store.Node, "")
	grows("list after delete", rev)
	grows("create after delete", mustPut(t, s, node("a0"), "x", 0))
}

func testValues(t *testing.T, s store.Store, limit int) {
	ctx := t.Context()
	large := bytes.Repeat([]byte("0123456789abcdef"), limit/16)
	for name, value := range map[string][]byte{
		"empty": {}, "binary": {0, 1, 0xff, '\n', 0}, "large": large,
	} {
		rev := mustPut(t, s, node(name), string(value), 0)
		wantEntry(t, mustGet(t, s, node(name)), node(name), string(value), rev)
	}
	_, err := s.Put(ctx, node("huge"), make([]byte, store.MaxValue+1), 0)
	wantKind(t, "value over the limit", err, fault.Invalid)
	// Several large values do not fit one message of some protocols.
	for i := range 4 {
		mustPut(t, s, node(fmt.Sprint("large-", i)), string(large), 0)
	}
	entries, _ := mustList(t, s, store.Node, "large-")
	if len(entries) != 4 {
		t.Errorf("listed %d large values, want 4", len(entries))
	}
	for _, e := range entries {
		if !bytes.Equal(e.Value, large) {
			t.Errorf("%v: listed with %d bytes, want %d unchanged", e.Key, len(e.Value), len(large))
		}
	}
}

func testValueCopied(t *testing.T, s store.Store) {
	value := []byte("one")
	rev, err := s.Put(t.Context(), node("a"), value, 0)
	if err != nil {
		t.Fatal(err)
	}
	value[0] = 'X'
	mustGet(t, s, node("a")).Value[0] = 'Y'
	entries, _ := mustList(t, s, store.Node, "")
	entries[0].Value[0] = 'Z'
	wantEntry(t, mustGet(t, s, node("a")), node("a"), "one", rev)
}

func testInvalidKeys(t *testing.T, s store.Store) {
	ctx := t.Context()
	for _, key := range []store.Key{
		node(""), node("a/b"), node("a\nb"), node("\xff"), {Kind: "Unknown", Name: "a"},
		{Kind: store.Affinity, Name: "no-block"}, {Kind: store.Block, Name: "10.0.0.0/26"},
	} {
		_, err := s.Get(ctx, key)
		wantKind(t, "get", err, fault.Invalid)
		_, err = s.Put(ctx, key, nil, store.AnyRevision)
		wantKind(t, "put", err, fault.Invalid)
		wantKind(t, "delete", s.Delete(ctx, key, store.AnyRevision), fault.Invalid)
	}
	_, _, err := s.List(ctx, "Unknown", "")
	wantKind(t, "list", err, fault.Invalid)
	_, err = s.Watch(ctx, "Unknown", "", 0)
	wantKind(t, "watch", err, fault.Invalid)
	_, _, err = s.List(ctx, store.Node, "a\x00")
	wantKind(t, "list with a bad prefix", err, fault.Invalid)
}

func testEndedContext(t *testing.T, s store.Store) {
	mustPut(t, s, node("a"), "x", 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantUnavailable(t, ctx, s)
	if got := mustGet(t, s, node("a")); string(got.Value) != "x" {
		t.Errorf("a call whose context had ended wrote %q", got.Value)
	}
}

func testClosedStore(t *testing.T, s store.Store) {
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantUnavailable(t, t.Context(), s)
}

// wantUnavailable makes every call and wants them refused.
func wantUnavailable(t *testing.T, ctx context.Context, s store.Store) {
	t.Helper()
	_, err := s.Get(ctx, node("a"))
	wantKind(t, "get", err, fault.Unavailable)
	_, _, err = s.List(ctx, store.Node, "")
	wantKind(t, "list", err, fault.Unavailable)
	_, err = s.Put(ctx, node("a"), []byte("y"), store.AnyRevision)
	wantKind(t, "put", err, fault.Unavailable)
	wantKind(t, "delete", s.Delete(ctx, node("a"), store.AnyRevision), fault.Unavailable)
	_, err = s.Watch(ctx, store.Node, "", 0)
	wantKind(t, "watch", err, fault.Unavailable)
}
