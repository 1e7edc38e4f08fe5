// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"time"
)

// Update is one step of what Follow knows about a kind.
type Update struct {
	// Full says that Entries is the whole set: what is not in it does not
	// exist. Otherwise Entries and Deleted are changes, each key once.
	Full    bool
	Entries []Entry
	Deleted []Key
	// Err says that contact was lost and why; what was known stays known. It
	// is sent once per outage; the next full set ends it.
	Err error
}

// FollowOptions are the settings of Follow. Every zero value is replaced by
// its default.
type FollowOptions struct {
	// Relist is how often the set is read anew, because watches of real
	// datastores have lost deletions; default 1 minute. Each wait is drawn
	// from the upper half of it, so that nodes do not ask in step.
	Relist time.Duration
	// Retry is the longest wait after the first failed attempt, doubled for
	// each further one up to RetryMax; defaults 100 ms and 5 s.
	Retry, RetryMax time.Duration
	// Log gets contact lost and regained; default none.
	Log *slog.Logger
}

// maxBatch is how many events that wait already become one update.
const maxBatch = 256

// Follow keeps emit informed about all objects of a kind whose names start
// with prefix until ctx ends: first a full set, then changes in order. It
// reads the set anew when the watch breaks and at intervals; if that differs
// from what was emitted, or ends an outage, a full set is emitted again. An
// object is reported gone only if the store said so, in an event or by a
// complete list without it. emit is called by one goroutine at a time and
// holds Follow up while it runs.
func Follow(ctx context.Context, s Store, kind Kind, prefix string, opts FollowOptions, emit func(Update)) {
	f := &follower{store: s, kind: kind, prefix: prefix, opts: opts.withDefaults(), emit: emit}
	f.log = f.opts.Log.With("kind", string(kind), "prefix", prefix)
	for ctx.Err() == nil {
		err := f.round(ctx)
		if err == nil || ctx.Err() != nil {
			continue
		}
		if !errors.Is(err, errBroken) {
			f.lost(err)
		}
		f.failures++
		wait(ctx, f.pause())
	}
}

// errBroken is a watch that closed. That alone is no loss of contact: the
// list that follows tells.
var errBroken = errors.New("the watch closed")

func (o FollowOptions) withDefaults() FollowOptions {
	if o.Relist == 0 {
		o.Relist = time.Minute
	}
	if o.Retry == 0 {
		o.Retry = 100 * time.Millisecond
	}
	if o.RetryMax == 0 {
		o.RetryMax = 5 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

type follower struct {
	store  Store
	kind   Kind
	prefix string
	opts   FollowOptions
	emit   func(Update)
	log    *slog.Logger

	known    map[Key]Revision // what was emitted; nil before the first full set
	rev      Revision         // the highest revision seen
	down     time.Time        // since when contact is lost; zero while it is not
	failures int              // rounds without a working watch, in a row
}

// round lists, then watches until the next list is due or something breaks.
func (f *follower) round(ctx context.Context) error {
	rev, err := f.list(ctx)
	if err != nil {
		return err
	}
	return f.watch(ctx, rev)
}

// list reads the set, emits it where that says something new, and returns the
// revision to watch from.
func (f *follower) list(ctx context.Context) (Revision, error) {
	entries, rev, err := f.store.List(ctx, f.kind, f.prefix)
	if err != nil {
		return 0, err
	}
	if rev < f.rev {
		f.log.Warn("datastore went back in time", "revision", uint64(rev), "seen", uint64(f.rev))
	}
	f.rev = rev
	listed := make(map[Key]Revision, len(entries))
	for _, e := range entries {
		listed[e.Key] = e.Revision
	}
	if f.known == nil || !f.down.IsZero() || !maps.Equal(f.known, listed) {
		f.known = listed
		f.regained()
		f.emit(Update{Full: true, Entries: entries})
	}
	return rev, nil
}

// watch emits changes after rev. It returns nil when the set is due to be read
// anew. A watch that delivered something or lived for RetryMax starts the
// count of failures afresh.
func (f *follower) watch(ctx context.Context, rev Revision) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := f.store.Watch(ctx, f.kind, f.prefix, rev)
	if err != nil {
		return err
	}
	relist := time.NewTimer(jitter(f.opts.Relist))
	defer relist.Stop()
	proven := time.NewTimer(f.opts.RetryMax)
	defer proven.Stop()
	for {
		select {
		case ev, open := <-events:
			if !open {
				return errBroken
			}
			f.failures = 0
			f.change(batch(ev, events))
		case <-proven.C:
			f.failures = 0
		case <-relist.C:
			f.failures = 0
			return nil
		}
	}
}

// change emits events as one update, of each key the last.
func (f *follower) change(events []Event) {
	last := make(map[Key]int, len(events))
	for i, ev := range events {
		last[ev.Entry.Key] = i
	}
	var update Update
	for i, ev := range events {
		f.rev = max(f.rev, ev.Entry.Revision)
		if last[ev.Entry.Key] != i {
			continue
		}
		if ev.Deleted {
			delete(f.known, ev.Entry.Key)
			update.Deleted = append(update.Deleted, ev.Entry.Key)
		} else {
			f.known[ev.Entry.Key] = ev.Entry.Revision
			update.Entries = append(update.Entries, ev.Entry)
		}
	}
	f.emit(update)
}

func (f *follower) lost(err error) {
	if !f.down.IsZero() {
		return
	}
	f.down = time.Now()
	f.log.Warn("datastore contact lost", "err", err)
	f.emit(Update{Err: err})
}

func (f *follower) regained() {
	if f.down.IsZero() {
		return
	}
	f.log.Info("datastore contact regained", "after", time.Since(f.down).Round(time.Millisecond), "tries", f.failures)
	f.down = time.Time{}
}

// pause is how long to wait after the failures so far.
func (f *follower) pause() time.Duration {
	pause := f.opts.RetryMax
	if shift := f.failures - 1; shift < 16 {
		pause = min(pause, f.opts.Retry<<shift)
	}
	return jitter(pause)
}

// batch is ev and the events that wait behind it.
func batch(ev Event, events <-chan Event) []Event {
	got := []Event{ev}
	for len(got) < maxBatch {
		select {
		case ev, open := <-events:
			if !open {
				return got // the next receive sees it too
			}
			got = append(got, ev)
		default:
			return got
		}
	}
	return got
}

// jitter draws from the upper half of d.
func jitter(d time.Duration) time.Duration {
	if d < 2 {
		return d
	}
	return d/2 + rand.N(d/2)
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
