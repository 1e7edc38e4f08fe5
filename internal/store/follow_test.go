// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/mem"
	"github.com/ocicat-net/ocicat/internal/store/storetest"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// bench is a followed in-memory store with faults.
type bench struct {
	t     *testing.T
	store *storetest.Faulty

	mu      sync.Mutex
	updates []store.Update
	view    map[string]string // what a consumer of the updates knows
	deleted int               // deletions it was told of, by event or full set
}

func follow(t *testing.T, opts store.FollowOptions) *bench {
	t.Helper()
	b := &bench{t: t, store: storetest.NewFaulty(mem.New()), view: map[string]string{}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	t.Cleanup(func() {
		cancel()
		<-done
	})
	go func() {
		defer close(done)
		store.Follow(ctx, b.store, store.Node, "", opts, b.apply)
	}()
	return b
}

func (b *bench) apply(u store.Update) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.updates = append(b.updates, u)
	if u.Full {
		old := b.view
		b.view = map[string]string{}
		for _, e := range u.Entries {
			b.view[e.Key.Name] = string(e.Value)
		}
		for name := range old {
			if _, ok := b.view[name]; !ok {
				b.deleted++
			}
		}
		return
	}
	for _, e := range u.Entries {
		b.view[e.Key.Name] = string(e.Value)
	}
	for _, key := range u.Deleted {
		b.deleted++
		delete(b.view, key.Name)
	}
}

// take returns the updates since the last call, as short text.
func (b *bench) take() []string {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	var got []string
	for _, u := range b.updates {
		switch {
		case u.Err != nil:
			got = append(got, "lost")
			continue
		case u.Full:
			got = append(got, "full")
		}
		for _, e := range u.Entries {
			got = append(got, e.Key.Name+"="+string(e.Value))
		}
		for _, k := range u.Deleted {
			got = append(got, "-"+k.Name)
		}
	}
	b.updates = nil
	return got
}

// known returns what a consumer knows, and how many deletions it was told of.
func (b *bench) known() (view map[string]string, deleted int) {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.view), b.deleted
}

func (b *bench) want(want ...string) {
	b.t.Helper()
	if diff := cmp.Diff(want, b.take()); diff != "" {
		b.t.Errorf("updates (-want +got):\n%s", diff)
	}
}

func (b *bench) put(name, value string) {
	b.t.Helper()
	if _, err := b.store.Put(b.t.Context(), store.Key{Kind: store.Node, Name: name}, []byte(value), store.AnyRevision); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) delete(name string) {
	b.t.Helper()
	if err := b.store.Delete(b.t.Context(), store.Key{Kind: store.Node, Name: name}, store.AnyRevision); err != nil {
		b.t.Fatal(err)
	}
}

func TestFollowFullSetThenChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := follow(t, store.FollowOptions{})
		b.want("full")
		b.put("a", "1")
		b.want("a=1")
		b.put("b", "1")
		b.put("a", "2")
		b.delete("b")
		view, _ := b.known()
		if diff := cmp.Diff(map[string]string{"a": "2"}, view); diff != "" {
			t.Errorf("view (-want +got):\n%s", diff)
		}
	})
}

func TestFollowSaysNothingWhenNothingChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := follow(t, store.FollowOptions{})
		b.put("a", "1")
		b.put("b", "1")
		b.take()
		b.delete("b")
		b.take()
		time.Sleep(time.Hour) // the bubble's clock
		b.want()
		if lists := b.store.Calls(storetest.OpList); lists < 60 || lists > 121 {
			t.Errorf("%d lists in an hour, want one each 30 to 60 s", lists)
		}
	})
}

func TestFollowFindsLostEventsByRelist(t *testing.T) {
	r := chaos.Begin(t, "E6", "the watch swallows a deletion; simulated clock", "healed in < 60 s")
	synctest.Test(t, func(t *testing.T) {
		b := follow(t, store.FollowOptions{})
		b.put("a", "1")
		b.put("b", "1")
		b.take()
		b.store.DropEvents(func(store.Event) bool { return true })
		b.delete("a")
		b.want()
		time.Sleep(time.Minute)
		b.want("full", "b=1")
		r.Measuredf("healed by the next list, 30 to 60 s apart")
		r.Twinf("before it: the deletion is not seen")
	})
}

// TestManyReconnect lets a thousand followers lose their datastore at once and
// counts what they ask of it when it is back, in tenths of a second.
func TestManyReconnect(t *testing.T) {
	const followers = 1000
	r := chaos.Begin(t, "E11", "1,000 followers lose the datastore for 10 minutes, and it comes back; simulated clock", "at most 1/8 of them in any 100 ms, all back in 5 s")
	synctest.Test(t, func(t *testing.T) {
		s := storetest.NewFaulty(mem.New())
		s.Inject(storetest.Rule{Op: storetest.OpList, Effect: storetest.Refuse})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		var back atomic.Int64
		for range followers {
			running.Go(func() {
				store.Follow(ctx, s, store.Node, "", store.FollowOptions{}, func(u store.Update) {
					if u.Full {
						back.Add(1)
					}
				})
			})
		}
		time.Sleep(10 * time.Minute)
		s.Heal()
		worst, last := 0, 0
		for range 50 {
			before := int(back.Load())
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			if n := int(back.Load()) - before; n > 0 {
				worst, last = max(worst, n), last+n
			}
		}
		cancel()
		running.Wait()
		r.Measuredf("%d of %d back in 5 s, at most %d in 100 ms", last, followers, worst)
		if last != followers || worst > followers/8 {
			t.Errorf("%d of %d back in 5 s, at most %d in 100 ms", last, followers, worst)
		}
	})
}

func TestFollowBrokenWatchLosesNothing(t *testing.T) {
	r := chaos.Begin(t, "E5", "the watch ends, as etcd ends one that was compacted under; an object deleted meanwhile", "listed anew, the deletion is told")
	synctest.Test(t, func(t *testing.T) {
		b := follow(t, store.FollowOptions{})
		b.put("a", "1")
		b.take()
		b.store.BreakWatches()
		synctest.Wait()
		b.put("a", "2")
		b.delete("a")
		b.put("b", "1")
		time.Sleep(time.Second)
		b.want("full", "b=1")
		b.put("b", "2")
		b.want("b=2")
		r.Measuredf("0 of 1 deletions lost")
	})
}

func TestFollowOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := follow(t, store.FollowOptions{})
		b.put("a", "1")
		b.take()
		b.store.Inject(storetest.Rule{Op: storetest.OpList, Effect: storetest.Refuse})
		b.store.BreakWatches()
		time.Sleep(10 * time.Minute)
		view, _ := b.known()
		if diff := cmp.Diff(map[string]string{"a": "1"}, view); diff != "" {
			t.Errorf("view during the outage (-want +got):\n%s", diff)
		}
		b.want("lost")
		if tries := b.store.Calls(storetest.OpList); tries < 100 || tries > 300 {
			t.Errorf("%d tries in 10 minutes, want one each 2.5 to 5 s", tries)
		}
		b.store.Heal()
		time.Sleep(5 * time.Second)
		b.want("full", "a=1")
	})
}

func TestFollowStartsDuringOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := follow(t, store.FollowOptions{})
		b.store.Inject(storetest.Rule{Times: 3, Effect: storetest.Refuse, Err: fault.New(fault.Unavailable, "no route")})
		time.Sleep(5 * time.Second)
		b.want("lost", "full")
	})
}

func TestFollowWatchRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := follow(t, store.FollowOptions{})
		b.want("full")
		b.store.Inject(storetest.Rule{Op: storetest.OpWatch, Times: 2, Effect: storetest.Refuse})
		b.store.BreakWatches()
		time.Sleep(time.Second)
		b.want("lost", "full", "lost", "full")
		b.put("a", "1")
		b.want("a=1")
	})
}

func TestFollowEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		s := storetest.NewFaulty(mem.New())
		s.Inject(storetest.Rule{Op: storetest.OpList, Effect: storetest.Refuse})
		var last error
		go func() {
			defer close(done)
			store.Follow(ctx, s, store.Node, "", store.FollowOptions{}, func(u store.Update) { last = u.Err })
		}()
		synctest.Wait()
		cancel()
		<-done
		if !strings.Contains(fmt.Sprint(last), "injected fault") || errors.Is(last, context.Canceled) {
			t.Errorf("last error %v, want the injected one", last)
		}
	})
}

// TestFollowConverges lets random writes and random faults run against each
// other: after healing the view is the store, and no object that stayed was
// ever reported gone.
func TestFollowConverges(t *testing.T) {
	for seed := range uint64(50) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0))
			b := follow(t, store.FollowOptions{})
			b.put("stays", "1")
			deletions := 0
			model := map[string]string{"stays": "1"}
			for i := range 60 {
				name := fmt.Sprint("n", rng.IntN(5))
				switch _, exists := model[name]; {
				case exists && rng.IntN(2) == 0:
					b.delete(name)
					delete(model, name)
					deletions++
				default:
					model[name] = fmt.Sprint(i)
					b.put(name, model[name])
				}
				hurt(rng, b.store)
				time.Sleep(time.Duration(rng.Int64N(int64(5 * time.Second))))
			}
			b.store.Heal()
			time.Sleep(2 * time.Minute)
			view, deleted := b.known()
			if !maps.Equal(model, view) {
				t.Errorf("seed %d: %s", seed, cmp.Diff(model, view))
			}
			if deleted > deletions {
				t.Errorf("seed %d: told of %d deletions, %d happened", seed, deleted, deletions)
			}
		})
	}
}

// hurt does something bad to a store, or heals it.
func hurt(rng *rand.Rand, s *storetest.Faulty) {
	switch rng.IntN(8) {
	case 0:
		s.BreakWatches()
	case 1:
		s.Inject(storetest.Rule{Op: storetest.OpList, Times: 1 + rng.IntN(5), Effect: storetest.Refuse})
	case 2:
		s.Inject(storetest.Rule{Op: storetest.OpWatch, Times: 1 + rng.IntN(5), Effect: storetest.Refuse})
	case 3:
		s.Inject(storetest.Rule{Op: storetest.OpList, Times: 1, Delay: time.Duration(rng.Int64N(int64(10 * time.Second)))})
	case 4:
		s.DropEvents(func(store.Event) bool { return true })
	case 5:
		s.Heal()
	}
}

// burst is a store whose watch has many events ready at once.
type burst struct {
	store.Store
	events []store.Event
}

func (b burst) Watch(context.Context, store.Kind, string, store.Revision) (<-chan store.Event, error) {
	ready := make(chan store.Event, len(b.events))
	for _, ev := range b.events {
		ready <- ev
	}
	return ready, nil
}

func TestFollowJoinsWaitingEvents(t *testing.T) {
	entry := func(name, value string, rev store.Revision) store.Entry {
		return store.Entry{Key: store.Key{Kind: store.Node, Name: name}, Value: []byte(value), Revision: rev}
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := burst{mem.New(), []store.Event{
			{Entry: entry("a", "1", 1)},
			{Entry: entry("b", "1", 2)},
			{Entry: entry("a", "", 3), Deleted: true},
			{Entry: entry("c", "1", 4)},
			{Entry: entry("b", "2", 5)},
			{Entry: entry("d", "1", 6)},
			{Entry: entry("d", "", 7), Deleted: true},
			{Entry: entry("d", "2", 8)},
		}}
		var got []store.Update
		done := make(chan struct{})
		go func() {
			defer close(done)
			store.Follow(ctx, s, store.Node, "", store.FollowOptions{}, func(u store.Update) { got = append(got, u) })
		}()
		synctest.Wait()
		cancel()
		<-done
		want := []store.Update{
			{Full: true},
			{
				Entries: []store.Entry{entry("c", "1", 4), entry("b", "2", 5), entry("d", "2", 8)},
				Deleted: []store.Key{entry("a", "", 0).Key},
			},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("updates (-want +got):\n%s", diff)
		}
	})
}
