// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/store"
)

// An agent watches what others may change of its own: its heartbeat, its
// claims, its blocks and those it borrows from. Nothing of it is polled.

const (
	// relist is how often what is watched is read all the same.
	relist = time.Hour
	// newsGap is the shortest time between two looks at blocks for what the
	// watches say: whoever writes against this agent does not keep it busy.
	newsGap = time.Second
)

func (r *Reserve) follow(ctx context.Context, kind store.Kind, prefix string, emit func(store.Update)) {
	store.Follow(ctx, r.c.Store, kind, prefix, store.FollowOptions{Relist: relist}, emit)
}

// watchHeartbeat makes the next heartbeat come at once when the stored one is
// not the own any more, until ctx ends: somebody forgot this node, reclaims what
// it holds, or has its name.
func (r *Reserve) watchHeartbeat(ctx context.Context) {
	key, seen := r.heartbeatKey(), false // seen: before the first one none is no news
	r.follow(ctx, store.Heartbeat, key.Name, func(u store.Update) {
		if u.Err != nil {
			return
		}
		found := !u.Full // a change that is not its deletion leaves it
		for _, gone := range u.Deleted {
			found = found && gone != key
		}
		for _, e := range u.Entries {
			if e.Key == key {
				seen = true
				stored, _ := ParseHeartbeat(e.Value) // one that cannot be read is not the own
				found = stored.InstanceUID == r.cfg.InstanceUID && stored.BootID == r.cfg.BootID
			}
		}
		if found || !seen {
			return
		}
		select {
		case r.beatNow <- struct{}{}:
		default:
		}
	})
}

// watchClaims has everything read again when the node's claims are not those
// this agent knows, or the datastore does not say, until ctx ends.
func (r *Reserve) watchClaims(ctx context.Context) {
	r.follow(ctx, store.Affinity, r.cfg.Node+"/", func(u store.Update) {
		if u.Err != nil || !r.knowsClaims(u) {
			r.Refresh()
		}
	})
}

func (r *Reserve) knowsClaims(u store.Update) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if u.Full && len(u.Entries) != len(r.blocks) {
		return false
	}
	for _, e := range u.Entries {
		_, p, err := names.ParseAffinity(e.Key.Name)
		if err != nil {
			continue
		}
		a, err := alloc.ParseAffinity(e.Value)
		confirmed, known := r.blocks[p]
		if err != nil || !known || confirmed != (a.State == alloc.Confirmed) {
			return false
		}
	}
	return !slices.ContainsFunc(u.Deleted, func(key store.Key) bool {
		_, p, err := names.ParseAffinity(key.Name)
		_, known := r.blocks[p]
		return err == nil && known
	})
}

// blockWatches are the watches of single blocks.
type blockWatches struct {
	reserve *Reserve
	running sync.WaitGroup
	end     map[netip.Prefix]context.CancelFunc
}

func newBlockWatches(r *Reserve) *blockWatches {
	return &blockWatches{reserve: r, end: map[netip.Prefix]context.CancelFunc{}}
}

// follow makes blocks those that are watched.
func (w *blockWatches) follow(ctx context.Context, blocks map[netip.Prefix]bool) {
	for p, end := range w.end {
		if !blocks[p] {
			end()
			delete(w.end, p)
		}
	}
	for p := range blocks {
		if w.end[p] != nil {
			continue
		}
		ctx, end := context.WithCancel(ctx)
		w.end[p] = end
		w.running.Go(func() {
			w.reserve.follow(ctx, store.Block, names.Block(p), func(u store.Update) { w.reserve.hear(p, u) })
		})
	}
}

// stop ends all watches.
func (w *blockWatches) stop() {
	for _, end := range w.end {
		end()
	}
	w.running.Wait()
}

// concerning are the own blocks and those that may hold addresses of this node.
func (r *Reserve) concerning() map[netip.Prefix]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := map[netip.Prefix]bool{}
	for _, blocks := range []map[netip.Prefix]bool{r.blocks, r.foreign} {
		for p := range blocks { // also those whose claim is not confirmed
			all[p] = true
		}
	}
	return all
}

// word is what a watch says of a block.
type word struct {
	cached      // as it is now; without a value it does not exist
	listed bool // the whole was read, which also tells what a restored backup says
}

// newTo reports whether w says anything else than what is known. A change
// that came before the last known one is old; a list may be older as well, and
// is then no reason to believe it, but one to ask.
func (w word) newTo(known cached) bool {
	return w.rev > known.rev || w.listed && w.rev != known.rev
}

// hear takes in what the watch of block p says.
func (r *Reserve) hear(p netip.Prefix, u store.Update) {
	if u.Err != nil {
		return // the watch of the claims tells
	}
	key, w := blockKey(p), word{listed: u.Full}
	told := u.Full || slices.Contains(u.Deleted, key)
	for _, e := range u.Entries {
		if e.Key == key {
			w.cached, told = cached{e.Value, e.Revision}, true
		}
	}
	known, ok := r.cache.get(p)
	if !told || ok && w.value != nil && !w.newTo(known) {
		return
	}
	r.mu.Lock()
	w.listed = w.listed || r.heard[p].listed
	r.heard[p] = w
	r.mu.Unlock()
	select {
	case r.news <- struct{}{}:
	default:
	}
}

// absorb makes what the watches say what is known, and reports whether any of
// it is new. Whoever calls it fills writes.
func (r *Reserve) absorb() bool {
	r.mu.Lock()
	heard := r.heard
	r.heard = map[netip.Prefix]word{}
	r.mu.Unlock()
	news := false
	for p, w := range heard {
		known, ok := r.cache.get(p)
		switch {
		case w.value == nil || ok && w.listed && w.rev < known.rev:
			r.cache.drop(p)
		case ok && !w.newTo(known):
			continue
		default:
			r.cache.set(p, w.cached)
		}
		news = true
	}
	return news
}
