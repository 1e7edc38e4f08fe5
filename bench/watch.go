// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ocicat-net/ocicat/internal/kernel"
)

// samples are measured times.
type samples []time.Duration

// percentile is the p-th percentile in milliseconds, nearest rank.
func (s samples) percentile(p int) float64 {
	sorted := slices.Sorted(slices.Values(s))
	return inMS(sorted[min(len(sorted)*p/100, len(sorted)-1)])
}

// ms1 is a time as a number of milliseconds.
func inMS(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// routeWatch counts what happens to routes in a namespace.
type routeWatch struct {
	added, deleted atomic.Int64
	overflow       atomic.Bool
	changed        chan struct{} // has room for one
	cancel         context.CancelFunc
	done           chan struct{}
}

// watchRoutes begins to count.
func watchRoutes(ctx context.Context, h *kernel.Handle) (*routeWatch, error) {
	ctx, cancel := context.WithCancel(ctx)
	w := &routeWatch{changed: make(chan struct{}, 1), cancel: cancel, done: make(chan struct{})}
	started := make(chan struct{})
	var err error
	go func() {
		defer close(w.done)
		first := true
		err = h.Monitor(ctx, func(ev kernel.Event) {
			if first { // it says that the monitor listens
				first = false
				close(started)
				return
			}
			w.see(ev)
		})
	}()
	select {
	case <-started:
		return w, nil
	case <-w.done:
		cancel()
		return nil, err
	}
}

func (w *routeWatch) see(ev kernel.Event) {
	switch {
	case ev.Overflow:
		w.overflow.Store(true)
	case ev.Route == nil:
		return
	case ev.Deleted:
		w.deleted.Add(1)
	default:
		w.added.Add(1)
	}
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// awaitAdded waits until so many routes were added.
func (w *routeWatch) awaitAdded(ctx context.Context, count int) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for w.added.Load() < int64(count) {
		if w.overflow.Load() {
			return errors.New("the watch lost events")
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d routes came back: %w", w.added.Load(), count, ctx.Err())
		case <-w.changed:
		}
	}
	return nil
}

// end ends counting and returns the number of events.
func (w *routeWatch) end() int {
	w.cancel()
	<-w.done
	return int(w.added.Load() + w.deleted.Load())
}
