// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
)

func testOneWinner(t *testing.T, s store.Store) {
	const writers = 32
	for round, prev := range []store.Revision{0, mustPut(t, s, node("1"), "start", 0)} {
		key := node(fmt.Sprint(round))
		var winners atomic.Int32
		var won atomic.Uint64
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				rev, err := s.Put(t.Context(), key, []byte(strconv.Itoa(w)), prev)
				switch {
				case err == nil:
					winners.Add(1)
					won.Store(uint64(rev))
				case !fault.Is(err, fault.Conflict):
					t.Errorf("writer %d: %v, want it to win or conflict", w, err)
				}
			})
		}
		wg.Wait()
		if got := mustGet(t, s, key); winners.Load() != 1 || uint64(got.Revision) != won.Load() {
			t.Errorf("%d winners, the last at %d, stored at %d; want one", winners.Load(), won.Load(), got.Revision)
		}
	}
}

func testIncrements(t *testing.T, s store.Store) {
	const writers, each = 8, 10
	key := node("counter")
	mustPut(t, s, key, "0", 0)
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				if err := increment(t.Context(), s, key); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got := mustGet(t, s, key); string(got.Value) != strconv.Itoa(writers*each) {
		t.Errorf("counter is %s after %d increments", got.Value, writers*each)
	}
}

// increment adds one to a counter by compare-and-swap.
func increment(ctx context.Context, s store.Store, key store.Key) error {
	for {
		e, err := s.Get(ctx, key)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(e.Value))
		if err != nil {
			return err
		}
		_, err = s.Put(ctx, key, []byte(strconv.Itoa(n+1)), e.Revision)
		if !fault.Is(err, fault.Conflict) {
			return err
		}
	}
}

func testWatchOrder(t *testing.T, s store.Store) {
	_, start := mustList(t, s, store.Node, "")
	events := mustWatch(t, s, store.Node, "", start)
	first := mustPut(t, s, node("a"), "one", 0)
	second := mustPut(t, s, node("b"), "two", 0)
	third := mustPut(t, s, node("a"), "three", first)
	mustDelete(t, s, node("b"), second)
	fourth := mustPut(t, s, node("b"), "", 0)

	wantEvent(t, events, "a", "one", first)
	wantEvent(t, events, "b", "two", second)
	wantEvent(t, events, "a", "three", third)
	ev := next(t, events)
	if !ev.Deleted || ev.Entry.Key != node("b") || ev.Entry.Revision <= third || ev.Entry.Revision >= fourth || ev.Entry.Value != nil {
		t.Errorf("got %+v, want the deletion of b between revisions %d and %d without a value", ev, third, fourth)
	}
	wantEvent(t, events, "b", "", fourth)
}

func wantEvent(t *testing.T, events <-chan store.Event, name, value string, rev store.Revision) {
	t.Helper()
	ev := next(t, events)
	if ev.Deleted {
		t.Errorf("%v is deleted, want it written", ev.Entry.Key)
	}
	wantEntry(t, ev.Entry, node(name), value, rev)
}

func testWatchResumes(t *testing.T, s store.Store) {
	var revs []store.Revision
	for i := range 10 {
		revs = append(revs, mustPut(t, s, node("a"), strconv.Itoa(i), store.AnyRevision))
	}
	for i, since := range revs[:len(revs)-1] {
		events := mustWatch(t, s, store.Node, "", since)
		for n := i + 1; n < len(revs); n++ {
			wantEvent(t, events, "a", strconv.Itoa(n), revs[n])
		}
	}
}

func testWatchScope(t *testing.T, s store.Store) {
	affinity := func(name string) store.Key { return store.Key{Kind: store.Affinity, Name: name} }
	_, start := mustList(t, s, store.Affinity, "")
	own := mustWatch(t, s, store.Affinity, "n1/", start)
	all := mustWatch(t, s, store.Affinity, "", start)
	names := []string{"n1/10.0.0.0-26", "n10/10.0.1.0-26", "n1/fd00::-122", "n2/10.0.2.0-26", "n1/10.0.3.0-26"}
	for _, name := range names {
		mustPut(t, s, affinity(name), "x", 0)
		mustPut(t, s, store.Key{Kind: store.Handle, Name: "n1"}, "x", store.AnyRevision)
		mustPut(t, s, store.Key{Kind: store.Node, Name: "n1"}, "x", store.AnyRevision)
	}
	for _, want := range []string{names[0], names[2], names[4]} {
		if ev := next(t, own); ev.Entry.Key != affinity(want) {
			t.Errorf("watch of n1/ got %v, want %s", ev.Entry.Key, want)
		}
	}
	for _, want := range names {
		if ev := next(t, all); ev.Entry.Key != affinity(want) {
			t.Errorf("watch of all got %v, want %s", ev.Entry.Key, want)
		}
	}
}

func testWatchEnds(t *testing.T, s store.Store) {
	mustPut(t, s, node("a"), "x", 0)
	ctx, cancel := context.WithCancel(t.Context())
	idle, err := s.Watch(ctx, store.Node, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	unread, err := s.Watch(ctx, store.Node, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	next(t, idle)
	cancel()
	drained(t, idle)
	drained(t, unread)
}

func testWatchEndsWithStore(t *testing.T, s store.Store) {
	events := mustWatch(t, s, store.Node, "", 0)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	drained(t, events)
}

// testNoGap lists and watches from the list's revision while writers are at
// work: list plus events must give what a last list gives.
func testNoGap(t *testing.T, s store.Store) {
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 25 {
				key := node(fmt.Sprintf("%d-%d", w, i%5))
				if _, err := s.Put(t.Context(), key, []byte(strconv.Itoa(i)), store.AnyRevision); err != nil {
					t.Error(err)
				}
				if i%3 == 0 {
					if err := s.Delete(t.Context(), key, store.AnyRevision); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	entries, rev := mustList(t, s, store.Node, "")
	events := mustWatch(t, s, store.Node, "", rev)
	wg.Wait()
	last := mustPut(t, s, node("last"), "", 0)
	got := map[string]string{}
	for _, e := range entries {
		got[e.Key.Name] = string(e.Value)
	}
	for at := rev; at < last; {
		ev := next(t, events)
		if ev.Entry.Revision <= at {
			t.Fatalf("event at revision %d after %d", ev.Entry.Revision, at)
		}
		at = ev.Entry.Revision
		got[ev.Entry.Key.Name] = string(ev.Entry.Value)
		if ev.Deleted {
			delete(got, ev.Entry.Key.Name)
		}
	}
	want := map[string]string{}
	entries, _ = mustList(t, s, store.Node, "")
	for _, e := range entries {
		want[e.Key.Name] = string(e.Value)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("list and events against a last list (-want +got):\n%s", diff)
	}
}

// testSlowWatcher reads nothing until all is written.
func testSlowWatcher(t *testing.T, s store.Store) {
	const writes = 500
	_, start := mustList(t, s, store.Node, "")
	events := mustWatch(t, s, store.Node, "", start)
	var want, got []store.Revision
	for range writes {
		want = append(want, mustPut(t, s, node("a"), "x", store.AnyRevision))
	}
	for range writes {
		got = append(got, next(t, events).Entry.Revision)
	}
	if !slices.Equal(want, got) {
		t.Errorf("a watch that was read late saw revisions %v, want %v", got, want)
	}
}
