// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
)

// Committer is a store with transactions.
type Committer interface {
	store.Store
	// Commit carries out all writes as one, or none: see store.Write.
	Commit(ctx context.Context, writes []store.Write) error
}

// RunCommit runs the suite for transactions; open makes an empty store for
// each test, which the suite closes.
func RunCommit(t *testing.T, open func(t *testing.T) Committer) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s Committer)
	}{
		{"all or none", testAllOrNone},
		{"what is no transaction", testInvalidCommits},
		{"one of many commits wins", testOneCommitWins},
		{"watches see a commit", testCommitWatched},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := open(t)
			t.Cleanup(func() { _ = s.Close() })
			test.run(t, s)
		})
	}
}

func testAllOrNone(t *testing.T, s Committer) {
	a, b, c := node("a"), store.Key{Kind: store.BGPPeer, Name: "b"}, node("c")
	at := mustPut(t, s, a, "1", 0)
	gone := mustPut(t, s, c, "1", 0)
	all := func(prev store.Revision) []store.Write {
		return []store.Write{{Key: a, Value: []byte("2"), Prev: at}, {Key: b, Value: []byte("2"), Prev: prev}, {Key: c, Delete: true, Prev: gone}}
	}
	wantKind(t, "commit with a wrong revision", s.Commit(t.Context(), all(at)), fault.Conflict)
	wantEntry(t, mustGet(t, s, a), a, "1", at)
	_, err := s.Get(t.Context(), b)
	wantKind(t, "get of what was not written", err, fault.NotFound)
	wantEntry(t, mustGet(t, s, c), c, "1", gone)

	if err := s.Commit(t.Context(), all(0)); err != nil {
		t.Fatal(err)
	}
	first, second := mustGet(t, s, a), mustGet(t, s, b)
	if string(first.Value) != "2" || string(second.Value) != "2" || first.Revision <= gone || second.Revision <= gone {
		t.Errorf("after the commit: %v and %v", first, second)
	}
	_, err = s.Get(t.Context(), c)
	wantKind(t, "get of what was deleted", err, fault.NotFound)
	wantKind(t, "the same commit again", s.Commit(t.Context(), all(0)), fault.Conflict)
	mustPut(t, s, b, "3", second.Revision)
}

func testInvalidCommits(t *testing.T, s Committer) {
	a := store.Write{Key: node("a"), Value: []byte("1")}
	for what, writes := range map[string][]store.Write{
		"nothing":                     nil,
		"one key twice":               {a, a},
		"no comparison":               {{Key: node("a"), Prev: store.AnyRevision}},
		"delete of what is not there": {{Key: node("a"), Delete: true}},
		"a key that cannot be":        {a, {Key: store.Key{Kind: store.Node}}},
		"a value too large":           {a, {Key: node("b"), Value: make([]byte, store.MaxValue+1)}},
	} {
		wantKind(t, what, s.Commit(t.Context(), writes), fault.Invalid)
	}
	if entries, _ := mustList(t, s, store.Node, ""); len(entries) > 0 {
		t.Errorf("written: %v", listed(entries))
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	wantKind(t, "commit with an ended context", s.Commit(ended, []store.Write{a}), fault.Unavailable)
}

func testOneCommitWins(t *testing.T, s Committer) {
	const writers = 16
	won := make([]bool, writers)
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() {
			value := []byte(strconv.Itoa(i))
			err := s.Commit(t.Context(), []store.Write{{Key: node("a"), Value: value}, {Key: node("b"), Value: value}})
			if won[i] = err == nil; err != nil {
				wantKind(t, "commit that lost", err, fault.Conflict)
			}
		})
	}
	all.Wait()
	winner := slices.Index(won, true)
	if winner < 0 || slices.Contains(won[winner+1:], true) {
		t.Fatalf("won: %v, want one", won)
	}
	for _, name := range []string{"a", "b"} {
		if e := mustGet(t, s, node(name)); string(e.Value) != strconv.Itoa(winner) {
			t.Errorf("%s is of writer %s, the winner is %d", name, e.Value, winner)
		}
	}
}

func testCommitWatched(t *testing.T, s Committer) {
	at := mustPut(t, s, node("a"), "1", 0)
	events := mustWatch(t, s, store.Node, "", at)
	if err := s.Commit(t.Context(), []store.Write{{Key: node("a"), Delete: true, Prev: at}, {Key: node("b"), Value: []byte("1")}}); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 2 {
		ev := next(t, events)
		seen[ev.Entry.Key.Name] = ev.Deleted
	}
	if b, ok := seen["b"]; !seen["a"] || b || !ok {
		t.Errorf("seen (deleted): %v, want a deleted and b written", seen)
	}
}
