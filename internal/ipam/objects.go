// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/store"
)

func blockKey(p netip.Prefix) store.Key {
	return store.Key{Kind: store.Block, Name: names.Block(p)}
}

func affinityKey(node string, p netip.Prefix) store.Key {
	return store.Key{Kind: store.Affinity, Name: names.Affinity(node, p)}
}

func handleKey(handle string) store.Key { return store.Key{Kind: store.Handle, Name: handle} }

// block reads a block. A missing one is NotFound.
func (c *Client) block(ctx context.Context, p netip.Prefix) (*alloc.Block, store.Revision, error) {
	e, err := c.Store.Get(ctx, blockKey(p))
	if err != nil {
		return nil, 0, err
	}
	b, err := parseBlockAt(p, e.Value)
	return b, e.Revision, err
}

// parseBlockAt reads the block stored under p's name.
func parseBlockAt(p netip.Prefix, value []byte) (*alloc.Block, error) {
	b, err := alloc.ParseBlock(value)
	if err == nil && b.CIDR != p {
		err = fault.New(fault.Internal, "read block %s: it says it is %s", p, b.CIDR)
	}
	return b, err
}

// blocks reads all blocks. Those that cannot be read are left out: they
// concern whoever asks for them by name.
func (c *Client) blocks(ctx context.Context) ([]*alloc.Block, error) {
	entries, _, err := c.Store.List(ctx, store.Block, "")
	if err != nil {
		return nil, err
	}
	all := make([]*alloc.Block, 0, len(entries))
	for _, e := range entries {
		if b, err := alloc.ParseBlock(e.Value); err == nil && names.Block(b.CIDR) == e.Key.Name {
			all = append(all, b)
		}
	}
	return all, nil
}

// blockNames lists which blocks exist, also those that cannot be read.
func (c *Client) blockNames(ctx context.Context) ([]netip.Prefix, error) {
	entries, _, err := c.Store.List(ctx, store.Block, "")
	if err != nil {
		return nil, err
	}
	var all []netip.Prefix
	for _, e := range entries {
		if p, err := names.ParseBlock(e.Key.Name); err == nil {
			all = append(all, p)
		}
	}
	return all, nil
}

// editBlock reads a block, lets edit decide, and writes it back, until no
// other writer came in between. edit is called anew for each try with what is
// stored then; it returns whether there is anything to write. A block that is
// nobody's and empty afterwards is deleted. A missing block is NotFound.
func (c *Client) editBlock(ctx context.Context, p netip.Prefix, edit func(*alloc.Block) (bool, error)) error {
	return again(ctx, func() error {
		b, rev, err := c.block(ctx, p)
		if err != nil {
			return err
		}
		change, err := edit(b)
		if err != nil || !change {
			return err
		}
		if b.Affinity == "" && b.Empty() {
			return raced(c.remove(ctx, blockKey(p), rev))
		}
		_, err = c.putBlock(ctx, b, rev)
		return raced(err)
	})
}

// putBlock writes a block as its next version.
func (c *Client) putBlock(ctx context.Context, b *alloc.Block, prev store.Revision) (store.Revision, error) {
	b.Sequence++
	data, err := b.Encode()
	if err != nil {
		return 0, err
	}
	return c.put(ctx, blockKey(b.CIDR), data, prev)
}

// countUp adds n addresses of p to a handle, before the block is written.
func (c *Client) countUp(ctx context.Context, handle string, p netip.Prefix, n int) error {
	if handle == "" || n == 0 {
		return nil
	}
	return c.count(ctx, handle, func(h *alloc.Handle) bool {
		h.Add(p, n)
		return true
	})
}

// count raises a handle's counts by edit, which reports whether it changed
// any. Most handles are new: the first try is to create it.
func (c *Client) count(ctx context.Context, handle string, edit func(*alloc.Handle) bool) error {
	fresh := true
	return again(ctx, func() error {
		h, rev := &alloc.Handle{}, store.Revision(0)
		if !fresh {
			var err error
			if h, rev, err = c.handle(ctx, handle); err != nil && !fault.Is(err, fault.NotFound) {
				return err
			}
		}
		fresh = false
		if !edit(h) {
			return nil
		}
		data, err := h.Encode()
		if err != nil {
			return err
		}
		_, err = c.put(ctx, handleKey(handle), data, rev)
		return raced(err)
	})
}

// handle reads a handle. A missing one is NotFound, with an empty one.
func (c *Client) handle(ctx context.Context, handle string) (*alloc.Handle, store.Revision, error) {
	e, err := c.Store.Get(ctx, handleKey(handle))
	if err != nil {
		return &alloc.Handle{}, 0, err
	}
	h, err := alloc.ParseHandle(e.Value)
	if err != nil {
		return nil, 0, fmt.Errorf("handle %s: %w", handle, err)
	}
	return h, e.Revision, nil
}

// countAtLeast makes a handle count n addresses of p, if it counts fewer.
func (c *Client) countAtLeast(ctx context.Context, handle string, p netip.Prefix, n int) error {
	return c.count(ctx, handle, func(h *alloc.Handle) bool {
		missing := n - h.Blocks[p]
		if missing > 0 {
			h.Add(p, missing)
		}
		return missing > 0
	})
}

// countDown takes n addresses of p off a handle, after the block was written;
// left is how many the block still holds for it, below which the count never
// falls. A missing handle is no error.
func (c *Client) countDown(ctx context.Context, handle string, p netip.Prefix, n, left int) error {
	if handle == "" || n == 0 {
		return nil
	}
	return again(ctx, func() error {
		h, rev, err := c.handle(ctx, handle)
		if fault.Is(err, fault.NotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		before := h.Blocks[p]
		h.Remove(p, n)
		if missing := min(left, before) - h.Blocks[p]; missing > 0 {
			h.Add(p, missing)
		}
		err = c.putHandle(ctx, handle, h, rev)
		if errors.Is(err, errUncertain) {
			return nil // perhaps counted down already: too high a count is safe, too low is not
		}
		return raced(err)
	})
}

// putHandle writes a handle, or deletes it where it names no block.
func (c *Client) putHandle(ctx context.Context, handle string, h *alloc.Handle, prev store.Revision) error {
	if h.Empty() {
		return c.remove(ctx, handleKey(handle), prev)
	}
	data, err := h.Encode()
	if err != nil {
		return err
	}
	_, err = c.put(ctx, handleKey(handle), data, prev)
	return err
}

// affinity reads a node's claim to a block. A missing one is revision 0 and
// no error.
func (c *Client) affinity(ctx context.Context, node string, p netip.Prefix) (alloc.Affinity, store.Revision, error) {
	e, err := c.Store.Get(ctx, affinityKey(node, p))
	if fault.Is(err, fault.NotFound) {
		return alloc.Affinity{}, 0, nil
	}
	if err != nil {
		return alloc.Affinity{}, 0, err
	}
	a, err := alloc.ParseAffinity(e.Value)
	if err != nil {
		return a, 0, fmt.Errorf("%s: %w", e.Key, err)
	}
	return a, e.Revision, nil
}

func (c *Client) putAffinity(ctx context.Context, node string, p netip.Prefix, a alloc.Affinity, prev store.Revision) (store.Revision, error) {
	data, err := a.Encode()
	if err != nil {
		return 0, err
	}
	return c.write(ctx, affinityKey(node, p), data, prev)
}

// claim is one affinity as listed.
type claim struct {
	node  string
	block netip.Prefix
	state alloc.State
}

// claims lists the affinities of a node, or of all where node is "", inside
// the prefixes given, or anywhere where there are none, in the order of their
// names.
func (c *Client) claims(ctx context.Context, node string, within ...netip.Prefix) ([]claim, error) {
	prefix := ""
	if node != "" {
		prefix = node + "/"
	}
	entries, _, err := c.Store.List(ctx, store.Affinity, prefix)
	if err != nil {
		return nil, err
	}
	var all []claim
	for _, e := range entries {
		owner, block, err := names.ParseAffinity(e.Key.Name)
		if err != nil || !inside(block, within) {
			continue
		}
		a, err := alloc.ParseAffinity(e.Value)
		if err != nil {
			a.State = alloc.Pending // completed, or found to be another's, when it is used
		}
		all = append(all, claim{owner, block, a.State})
	}
	slices.SortFunc(all, func(a, b claim) int {
		return strings.Compare(names.Affinity(a.node, a.block), names.Affinity(b.node, b.block))
	})
	return all, nil
}

func inside(p netip.Prefix, within []netip.Prefix) bool {
	return len(within) == 0 || slices.ContainsFunc(within, func(w netip.Prefix) bool { return cidr.Covers(w, p) })
}
