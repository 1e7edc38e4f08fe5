// SPDX-License-Identifier: Apache-2.0

package reconcile_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/ocicat-net/ocicat/internal/reconcile"
)

func equal(a, b int) bool { return a == b }

// Applying a difference makes the two sets equal, and equal sets have none.
func TestDiffLeadsFromSeenToWant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set := rapid.MapOf(rapid.IntRange(0, 20), rapid.IntRange(0, 3))
		want, seen := set.Draw(t, "want"), set.Draw(t, "seen")
		marked := func(m map[int]int) map[int]int { // values that tell their key
			out := map[int]int{}
			for k, v := range m {
				out[k] = k*10 + v
			}
			return out
		}
		changed, del := reconcile.Diff(marked(want), marked(seen), equal)
		got := marked(seen)
		for _, v := range changed {
			if present, ok := got[v/10]; ok && present == v {
				t.Fatalf("%d was right and is set again", v)
			}
			got[v/10] = v
		}
		for _, k := range del {
			delete(got, k)
		}
		if !maps.Equal(got, marked(want)) {
			t.Fatalf("got %v, want %v", got, marked(want))
		}
		if s, d := reconcile.Diff(got, got, equal); len(s)+len(d) != 0 {
			t.Fatalf("equal sets differ: %v %v", s, d)
		}
	})
}

func start(t *testing.T, sections ...reconcile.Section) *reconcile.Loop {
	t.Helper()
	loop := reconcile.New(slog.New(slog.DiscardHandler), sections...)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = loop.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return loop
}

func TestHintsCoalesceIntoOnePass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		passes := 0
		loop := start(t, reconcile.Section{Name: "a", Reconcile: func(context.Context) error { passes++; return nil }})
		time.Sleep(time.Second) //ocicat:fake-clock
		if passes != 1 {
			t.Fatalf("%d passes at start, want 1", passes)
		}
		loop.Mark("a")
		synctest.Wait()
		if passes != 2 {
			t.Fatal("the first hint does not start a pass at once")
		}
		for range 50 {
			loop.Mark("a")
		}
		loop.Mark("no such section")
		time.Sleep(time.Second) //ocicat:fake-clock
		if passes != 3 {
			t.Errorf("%d passes after a burst, want 3", passes)
		}
	})
}

func TestFailedPassIsRetriedAndOthersGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("no")
		tries, panics, others := 0, 0, 0
		loop := start(t,
			reconcile.Section{Name: "bad", Reconcile: func(context.Context) error {
				if tries++; tries <= 3 {
					return broken
				}
				return nil
			}},
			reconcile.Section{Name: "mad", Reconcile: func(context.Context) error { panics++; panic("mad") }},
			reconcile.Section{Name: "good", Resync: time.Minute, Reconcile: func(context.Context) error { others++; return nil }},
		)
		synctest.Wait()
		if st := loop.Statuses()[0]; !errors.Is(st.Error, broken) || st.Tries != 1 {
			t.Errorf("status after the first failure: %+v", st)
		}
		time.Sleep(10*time.Minute + time.Second) //ocicat:fake-clock
		if st := loop.Statuses()[0]; st.Error != nil || tries != 4 {
			t.Errorf("after %d tries: %+v", tries, st)
		}
		if others != 11 {
			t.Errorf("%d passes of a section with a resync of a minute in ten, want 11", others)
		}
		if st := loop.Statuses()[1]; st.Error == nil || panics < 10 {
			t.Errorf("a panicking section: %+v after %d passes", st, panics)
		}
	})
}

func TestWaitSeesAPassThatBeganLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		value, applied := 0, 0
		loop := start(t, reconcile.Section{Name: "a", Reconcile: func(context.Context) error {
			now := value
			time.Sleep(100 * time.Millisecond) //ocicat:fake-clock
			applied = now
			return nil
		}})
		time.Sleep(50 * time.Millisecond) //ocicat:fake-clock
		value = 1
		if err := loop.Wait(t.Context(), "a"); err != nil || applied != 1 {
			t.Errorf("applied %d, %v", applied, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := loop.Wait(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("wait with a short deadline: %v", err)
		}
		if err := loop.Wait(t.Context(), "b"); err == nil {
			t.Error("waiting for a section that does not exist succeeds")
		}
	})
}
