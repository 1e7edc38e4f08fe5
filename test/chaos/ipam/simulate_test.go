// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// TestSimulator interleaves clients at every call of the datastore, by a
// seeded choice, with every fault a datastore has.
func TestSimulator(t *testing.T) {
	rows := []*chaos.Record{
		chaos.Begin(t, "B3", "simulator: answers of writes lost", "0 duplicates, 0 leaks, the promises of the datastore kept after every write"),
		chaos.Begin(t, "B4", "simulator: writes that happen after their client gave up or was killed", "0 violations"),
		chaos.Begin(t, "B7", "simulator: clients claim the same blocks", "0 half-claimed blocks left, 0 violations"),
		chaos.Begin(t, "B8", "simulator: blocks released while others borrow", "0 allocations lost"),
		chaos.Begin(t, "B13", "simulator: nodes removed and made anew under their names, two clients with one name", "0 violations"),
		chaos.Begin(t, "B16", "simulator: releases repeated after the address was given again", "0 wrong releases"),
	}
	seed := chaos.Seed(t)
	sum, took := simulate(t, seed, chaos.Scale(150_000, 100_000_000))
	for _, r := range rows {
		r.Measuredf("0 violations, seed %d: %s", seed, &sum)
		r.Measuredf("%.0f steps/s", float64(sum.steps)/took.Seconds())
	}
	t.Logf("%s in %v", &sum, took)
}

// simulate runs episodes on all cores until there were so many steps.
func simulate(t *testing.T, seed uint64, steps int) (sum tally, took time.Duration) {
	t.Helper()
	begin := time.Now()
	var mu sync.Mutex
	next := seed
	var all sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			for {
				mu.Lock()
				if sum.steps >= steps || t.Failed() {
					mu.Unlock()
					return
				}
				mine := next
				next++
				mu.Unlock()
				e := newEpisode(mine)
				problems := e.run(episodeSteps)
				mu.Lock()
				sum.add(e.tally)
				if len(problems) > 0 {
					t.Errorf("seed %d: %s\n%s", mine, strings.Join(problems, "\n"), retrace(mine))
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return sum, time.Since(begin)
}

// retrace repeats an episode and shows its last calls.
func retrace(seed uint64) string {
	e := newEpisode(seed)
	e.trace = &trace{}
	e.run(episodeSteps)
	return strings.Join(e.trace.lines[max(0, len(e.trace.lines)-60):], "\n")
}

// TestSimulatorRepeats runs an episode twice: the seed decides everything.
func TestSimulatorRepeats(t *testing.T) {
	for seed := range uint64(8) {
		var hashes [2]uint64
		for i := range hashes {
			e := newEpisode(seed)
			e.trace = &trace{}
			e.run(episodeSteps)
			hashes[i] = e.trace.hash
		}
		if hashes[0] != hashes[1] {
			t.Errorf("seed %d: two runs differ", seed)
		}
	}
}

// TestSimulatorSees breaks the datastore in ways the checker must notice.
func TestSimulatorSees(t *testing.T) {
	r := chaos.Begin(t, "B1", "simulator: the datastore itself broken", "the checker sees it")
	for name, broken := range map[string]func(*episode){
		"compares nothing":         func(e *episode) { e.w.blind = true },
		"forgets one handle in 10": func(e *episode) { e.w.forget = e.oneIn(10, store.Handle) },
		"forgets one block in 100": func(e *episode) { e.w.forget = e.oneIn(100, store.Block) },
	} {
		seen := 0
		const episodes = 20
		for seed := range uint64(episodes) {
			e := newEpisode(seed)
			broken(e)
			if len(e.run(episodeSteps)) > 0 {
				seen++
			}
		}
		if seen < episodes/2 {
			t.Errorf("a datastore that %s: seen in %d of %d episodes", name, seen, episodes)
		}
		r.Twinf("a datastore that %s: seen in %d of %d episodes", name, seen, episodes)
	}
}

func (e *episode) oneIn(n int, kind store.Kind) func(store.Key) bool {
	return func(key store.Key) bool { return key.Kind == kind && e.rng.IntN(n) == 0 }
}
