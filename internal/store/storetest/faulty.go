// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
)

// Op is a method of a store.
type Op string

// The methods a Rule can name.
const (
	OpGet    Op = "get"
	OpList   Op = "list"
	OpPut    Op = "put"
	OpDelete Op = "delete"
	OpWatch  Op = "watch"
)

// Effect is what becomes of a call that a Rule hits.
type Effect uint8

// The effects. Reads know only Pass and Refuse; for them the others mean
// Refuse.
const (
	Pass   Effect = iota // the call goes through, after the rule's delay
	Refuse               // the store never sees the call
	Lose                 // the write happens, its answer is lost: ErrAmbiguous
	Vanish               // the write never happens and that is unknown: ErrAmbiguous
	Late                 // the write happens at Flush; until then as Vanish
)

// Rule is one fault.
type Rule struct {
	Op    Op                   // the method it hits; "" is every method
	Match func(store.Key) bool // the objects it hits, nil is all; of lists and watches it sees the kind alone
	Skip  int                  // this many calls pass first
	Times int                  // how many calls it hits then; 0 is all
	Delay time.Duration        // how long the call is held up
	// Effect is what happens, Err what the caller gets instead of the
	// default Unavailable error; an ambiguous effect adds ErrAmbiguous.
	Effect Effect
	Err    error

	seen int
}

// Faulty is a store with faults. Without rules it is the store it wraps. It
// is safe for concurrent use.
type Faulty struct {
	inner store.Store

	mu      sync.Mutex
	rules   []*Rule
	calls   map[Op]int
	drop    func(store.Event) bool
	broken  chan struct{} // closed and replaced to break the watches
	pending []func(context.Context) error
}

var _ store.Store = (*Faulty)(nil)

// NewFaulty wraps a store.
func NewFaulty(inner store.Store) *Faulty {
	return &Faulty{inner: inner, calls: map[Op]int{}, broken: make(chan struct{})}
}

// Inject adds a rule. Of several that hit a call the first added counts.
func (f *Faulty) Inject(r Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = append(f.rules, &r)
}

// Heal removes all rules and delivers events again. Late writes stay late.
func (f *Faulty) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules, f.drop = nil, nil
}

// Calls is how often op was called since the store was wrapped.
func (f *Faulty) Calls(op Op) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

// DropEvents loses the events of watches for which drop is true. Nil loses
// none.
func (f *Faulty) DropEvents(drop func(store.Event) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop = drop
}

// BreakWatches closes all watches that are open now.
func (f *Faulty) BreakWatches() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.broken)
	f.broken = make(chan struct{})
}

// Flush carries out the late writes in order and returns their errors, of
// which a failed comparison is the usual one.
func (f *Faulty) Flush(ctx context.Context) []error {
	f.mu.Lock()
	pending := f.pending
	f.pending = nil
	f.mu.Unlock()
	var errs []error
	for _, write := range pending {
		if err := write(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// Get reads one object.
func (f *Faulty) Get(ctx context.Context, key store.Key) (store.Entry, error) {
	if err := f.before(ctx, OpGet, key); err != nil {
		return store.Entry{}, err
	}
	return f.inner.Get(ctx, key)
}

// List reads the objects of a kind.
func (f *Faulty) List(ctx context.Context, kind store.Kind, prefix string) ([]store.Entry, store.Revision, error) {
	if err := f.before(ctx, OpList, store.Key{Kind: kind}); err != nil {
		return nil, 0, err
	}
	return f.inner.List(ctx, kind, prefix)
}

// Put writes an object.
func (f *Faulty) Put(ctx context.Context, key store.Key, value []byte, prev store.Revision) (store.Revision, error) {
	value = slices.Clone(value)
	var rev store.Revision
	err := f.write(ctx, OpPut, key, func(ctx context.Context) (err error) {
		rev, err = f.inner.Put(ctx, key, value, prev)
		return err
	})
	if err != nil {
		return 0, err
	}
	return rev, nil
}

// Delete removes an object.
func (f *Faulty) Delete(ctx context.Context, key store.Key, prev store.Revision) error {
	return f.write(ctx, OpDelete, key, func(ctx context.Context) error { return f.inner.Delete(ctx, key, prev) })
}

// Watch streams changes, but those to be dropped.
func (f *Faulty) Watch(ctx context.Context, kind store.Kind, prefix string, since store.Revision) (<-chan store.Event, error) {
	if err := f.before(ctx, OpWatch, store.Key{Kind: kind}); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	events, err := f.inner.Watch(ctx, kind, prefix, since)
	if err != nil {
		cancel()
		return nil, err
	}
	out := make(chan store.Event)
	f.mu.Lock()
	broken := f.broken
	f.mu.Unlock()
	go func() {
		defer cancel()
		defer close(out)
		f.forward(ctx, broken, events, out)
	}()
	return out, nil
}

// Close closes the store.
func (f *Faulty) Close() error { return f.inner.Close() }

func (f *Faulty) forward(ctx context.Context, broken <-chan struct{}, in <-chan store.Event, out chan<- store.Event) {
	for {
		select {
		case ev, open := <-in:
			if !open {
				return
			}
			if f.drops(ev) {
				continue
			}
			select {
			case out <- ev:
			case <-ctx.Done():
				return
			case <-broken:
				return
			}
		case <-broken:
			return
		}
	}
}

func (f *Faulty) drops(ev store.Event) bool {
	f.mu.Lock()
	drop := f.drop
	f.mu.Unlock()
	return drop != nil && drop(ev)
}

// before does what the rules say about a read.
func (f *Faulty) before(ctx context.Context, op Op, key store.Key) error {
	r := f.hit(op, key)
	if r == nil {
		return nil
	}
	if err := delay(ctx, op, key, r.Delay); err != nil || r.Effect == Pass {
		return err
	}
	return r.failure(op, key, false)
}

// write does what the rules say about a write.
func (f *Faulty) write(ctx context.Context, op Op, key store.Key, do func(context.Context) error) error {
	r := f.hit(op, key)
	if r == nil {
		return do(ctx)
	}
	if err := delay(ctx, op, key, r.Delay); err != nil {
		return err
	}
	switch r.Effect {
	case Pass:
		return do(ctx)
	case Refuse:
		return r.failure(op, key, false)
	case Lose:
		// A failed comparison is lost like any other answer.
		_ = do(ctx)
	case Late:
		f.mu.Lock()
		f.pending = append(f.pending, do)
		f.mu.Unlock()
	}
	return r.failure(op, key, true)
}

// hit counts a call and returns the rule that hits it.
func (f *Faulty) hit(op Op, key store.Key) *Rule {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[op]++
	var first *Rule
	for _, r := range f.rules {
		if (r.Op != "" && r.Op != op) || (r.Match != nil && !r.Match(key)) {
			continue
		}
		r.seen++
		if n := r.seen - r.Skip; first == nil && n > 0 && (r.Times == 0 || n <= r.Times) {
			first = r
		}
	}
	return first
}

func (r *Rule) failure(op Op, key store.Key, ambiguous bool) error {
	err := r.Err
	if err == nil {
		err = fault.New(fault.Unavailable, "injected fault")
	}
	if ambiguous {
		return fault.New(fault.Unavailable, "%s %s: %w", op, key, fmt.Errorf("%w: %w", store.ErrAmbiguous, err))
	}
	return fault.New(fault.KindOf(err), "%s %s: %w", op, key, err)
}

func delay(ctx context.Context, op Op, key store.Key, d time.Duration) error {
	if d == 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fault.New(fault.Unavailable, "%s %s: %w", op, key, ctx.Err())
	}
}
