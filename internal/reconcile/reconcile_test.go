// SPDX-License-Identifier: Apache-2.0

package reconcile_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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

// sleep lets d of the test's fake time pass and all that happens by then be
// seen.
func sleep(d time.Duration) {
	time.Sleep(d) //ocicat:fake-clock
	synctest.Wait()
}

func TestHintsCoalesceIntoOnePass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var passes atomic.Int32
		loop := start(t, reconcile.Section{Name: "a", Reconcile: func(context.Context) error { passes.Add(1); return nil }})
		sleep(time.Second)
		if passes.Load() != 1 {
			t.Fatalf("%d passes at start, want 1", passes.Load())
		}
		loop.Mark("a")
		synctest.Wait()
		if passes.Load() != 2 {
			t.Fatal("the first hint does not start a pass at once")
		}
		for range 50 {
			loop.Mark("a")
		}
		loop.Mark("no such section")
		sleep(time.Second)
		if passes.Load() != 3 {
			t.Errorf("%d passes after a burst, want 3", passes.Load())
		}
	})
}

// A hint that meets the echo of an earlier pass waits for little; only a burst
// that goes on waits for long.
func TestGapGrowsOnlyInABurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var begun []time.Time
		var loop *reconcile.Loop
		echoes := 0
		loop = start(t, reconcile.Section{Name: "a", Reconcile: func(context.Context) error {
			begun = append(begun, time.Now())
			if echoes > 0 {
				echoes--
				loop.Mark("a")
			}
			return nil
		}})
		sleep(time.Second)
		for range 2 { // the second time as the first: a rest forgets the burst
			begun, echoes = nil, 6
			loop.Mark("a")
			sleep(time.Second)
			var gaps []time.Duration
			for i := 1; i < len(begun); i++ {
				gaps = append(gaps, begun[i].Sub(begun[i-1]))
			}
			want := []time.Duration{2e6, 4e6, 8e6, 16e6, 20e6, 20e6}
			if !slices.Equal(gaps, want) {
				t.Errorf("gaps between passes %v, want %v", gaps, want)
			}
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
		sleep(10*time.Minute + time.Second)
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
		var value, applied atomic.Int32
		loop := start(t, reconcile.Section{Name: "a", Reconcile: func(context.Context) error {
			now := value.Load()
			time.Sleep(100 * time.Millisecond) //ocicat:fake-clock
			applied.Store(now)
			return nil
		}})
		sleep(50 * time.Millisecond)
		value.Store(1)
		if err := loop.Wait(t.Context(), "a"); err != nil || applied.Load() != 1 {
			t.Errorf("applied %d, %v", applied.Load(), err)
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

// logged is what a section logs while it returns errs, one a pass.
func logged(t *testing.T, errs ...error) (lines string, last []reconcile.KeyStatus) {
	t.Helper()
	var out strings.Builder
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == "section" {
			return slog.Attr{}
		}
		return a
	}}))
	var passes atomic.Int32
	loop := reconcile.New(log, reconcile.Section{Name: "a", Reconcile: func(context.Context) error {
		return errs[min(int(passes.Add(1)), len(errs))-1]
	}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = loop.Run(ctx) }()
	for int(passes.Load()) < len(errs) {
		sleep(time.Second)
		loop.Mark("a")
		synctest.Wait()
	}
	last = loop.Statuses()[0].Stuck
	cancel()
	<-done
	return out.String(), last
}

func TestTurnEndsWithThePassUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		passes := 0
		loop := reconcile.New(slog.New(slog.DiscardHandler), reconcile.Section{Name: "kernel", Reconcile: func(context.Context) error {
			if passes++; passes == 2 {
				<-hang
			}
			return nil
		}})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- loop.Run(ctx) }()
		synctest.Wait()
		if err := loop.Turn(ctx, "kernel"); err != nil || passes != 1 {
			t.Errorf("at rest: %v after %d passes, want none for the asking", err, passes)
		}
		loop.Mark("kernel")
		time.Sleep(time.Second)
		turned := make(chan error, 1)
		go func() { turned <- loop.Turn(ctx, "kernel") }()
		time.Sleep(time.Hour)
		select {
		case err := <-turned:
			t.Errorf("a turn ended while the pass hung: %v", err)
		default:
		}
		close(hang)
		if err := <-turned; err != nil {
			t.Error(err)
		}
		if err := loop.Turn(ctx, "other"); err == nil {
			t.Error("a section that does not exist turns")
		}
		cancel()
		<-ended
	})
}

func TestKeysAreAccountedOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &reconcile.KeyError{Key: "route a", Err: errors.New("set route a: no")}
		b := &reconcile.KeyError{Key: "route b", Err: errors.New("set route b: no")}
		whole := errors.New("list routes: no")
		start := time.Now()
		lines, stuck := logged(t, errors.Join(a), errors.Join(b, errors.Join(a)), errors.Join(b), whole, errors.Join(b, whole))
		for _, want := range []string{
			`level=WARN msg="not reconciled, trying again" keys=1 error="set route a: no"`,
			`level=WARN msg="not reconciled, trying again" keys=1 error="set route b: no"`,
			`level=WARN msg="not reconciled, trying again" keys=1 error="list routes: no"`,
			`level=INFO msg="reconciled again" keys=1 first="route a" tries=2 after=`,
			`level=INFO msg="reconciled again" keys=1 first="route b" tries=2 after=`,
		} {
			if !strings.Contains(lines, want) {
				t.Errorf("no line %q in\n%s", want, lines)
			}
		}
		if got := strings.Count(lines, "error=\"set route a: no\""); got != 1 {
			t.Errorf("route a is reported stuck %d times, want once:\n%s", got, lines)
		}
		if len(stuck) != 2 || stuck[0].Key != "" || stuck[0].Tries < 2 || stuck[1].Key != "route b" || stuck[1].Since.Before(start) {
			t.Errorf("stuck at the end: %+v", stuck)
		}
	})
}

// A key that has been stuck for long is tried rarely, and does not make a new
// one wait as long.
func TestRetryBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // of what follows
		var at []time.Duration
		began := time.Now()
		failing := []string{"old"}
		start(t, reconcile.Section{Name: "a", Reconcile: func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			at = append(at, time.Since(began))
			var errs []error
			for _, key := range failing {
				errs = append(errs, &reconcile.KeyError{Key: key, Err: errors.New(key)})
			}
			return errors.Join(errs...)
		}})
		sleep(time.Minute)
		mu.Lock()
		tries := len(at)
		gap := at[tries-1] - at[tries-2]
		failing = append(failing, "new")
		mu.Unlock()
		if gap < 10*time.Second || tries < 10 {
			t.Errorf("%d tries in a minute, the last two %v apart", tries, gap)
		}
		sleep(11 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		if got := len(at) - tries; got < 5 {
			t.Errorf("%d tries in 11 s after a key got stuck, want its own pace", got)
		}
	})
}
