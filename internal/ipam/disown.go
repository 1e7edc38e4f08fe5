// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/fault"
)

// Disown tells that the runtime deleted a container of which this agent knows
// nothing: what a killed ADD, a lost journal or the boot before left under its
// handle goes back, behind the caller. A handle under which a pod holds an
// address is left alone.
func (r *Reserve) Disown(handle string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.disowned[handle] = true
	r.wake()
}

// disown releases what the disowned handles have. Whoever calls it fills
// writes: an address that a handle is given meanwhile is written afterwards.
func (r *Reserve) disown(ctx context.Context) error {
	r.mu.Lock()
	var list []string
	for _, handle := range slices.Sorted(maps.Keys(r.disowned)) {
		if r.identity != nil {
			break
		}
		if r.waiting[handle] != nil || r.hasPod(handle) || r.releasing(handle) {
			delete(r.disowned, handle)
			continue
		}
		list = append(list, handle)
	}
	r.mu.Unlock()
	var errs []error
	for _, handle := range list {
		err := r.releaseOwn(ctx, handle)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		r.mu.Lock()
		delete(r.disowned, handle)
		r.mu.Unlock()
	}
	return errors.Join(errs...)
}

// releasing reports whether an address of a handle is on its way back; r.mu is
// held.
func (r *Reserve) releasing(handle string) bool {
	for _, rel := range r.releases {
		if rel.handle == handle {
			return true
		}
	}
	return false
}

// releaseOwn releases a handle, unless it holds an address on another node.
func (r *Reserve) releaseOwn(ctx context.Context, handle string) error {
	h, _, err := r.c.handle(ctx, handle)
	if err != nil {
		return notFound(err)
	}
	for p := range h.Blocks {
		b, _, err := r.c.block(ctx, p)
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return err
		}
		for _, addr := range b.ByHandle(handle) {
			if who, _ := b.Holder(addr); who.Secondary[alloc.AttrNode] != r.cfg.Node {
				return nil
			}
		}
	}
	r.log.Info("released what a deleted container had that no pod accounts for", "handle", handle)
	return notFound(r.c.ReleaseByHandle(ctx, handle))
}
