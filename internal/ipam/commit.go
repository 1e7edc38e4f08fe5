// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"errors"
	"net/netip"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
)

// transactor is a datastore that carries out several writes as one; the store
// package says how. With it a block and its affinity change together and no
// state between is ever stored; without it they are written in an order that
// any later claim or release can complete.
type transactor interface {
	Commit(ctx context.Context, writes []store.Write) error
}

// commit carries out writes as one. An ambiguous answer is resolved by
// repeating the same writes; a Conflict is lost, also where an earlier try did
// all of it: the step that reads again sees that. done is false if the
// datastore has no transactions.
func (c *Client) commit(ctx context.Context, writes []store.Write) (done bool, err error) {
	t, ok := c.Store.(transactor)
	if !ok {
		return false, nil
	}
	ambiguous := false
	for try := 0; ; try++ {
		err := t.Commit(ctx, writes)
		switch {
		case errors.Is(err, errors.ErrUnsupported):
			return false, nil
		case err == nil || fault.Is(err, fault.Conflict):
			return true, raced(err)
		case errors.Is(err, store.ErrAmbiguous):
			ambiguous = true
		case !ambiguous:
			return true, err
		}
		if pauseErr := pause(ctx, try+1); pauseErr != nil || try == tries {
			return true, ambiguity(err)
		}
	}
}

// commitClaim writes the affinity a, now at arev, as confirmed and the node's
// block at brev as one: an empty new block where b is nil, else a new version
// of b, so that a release of it under way fails. A block of somebody else is
// not done.
func (c *Client) commitClaim(ctx context.Context, node string, p netip.Prefix, a alloc.Affinity, arev store.Revision, b *alloc.Block, brev store.Revision) (done bool, err error) {
	now := c.Now()
	next := alloc.NewBlock(p, node, now, uint64(now.UnixNano()))
	if b != nil {
		if !b.OwnedBy(node) {
			return false, nil
		}
		owned := *b
		owned.Sequence++
		next = &owned
	}
	block, err := next.Encode()
	if err != nil {
		return false, err
	}
	a.State = alloc.Confirmed
	affinity, err := a.Encode()
	if err != nil {
		return false, err
	}
	return c.commit(ctx, []store.Write{
		{Key: blockKey(p), Value: block, Prev: brev},
		{Key: affinityKey(node, p), Value: affinity, Prev: arev},
	})
}

// commitRelease deletes the affinity at arev and, as one with it, the block at
// brev, or writes it as nobody's if addresses of it are held.
func (c *Client) commitRelease(ctx context.Context, node string, p netip.Prefix, arev store.Revision, b *alloc.Block, brev store.Revision) (done bool, err error) {
	block := store.Write{Key: blockKey(p), Delete: true, Prev: brev}
	free := *b
	free.ClearAffinity()
	if !free.Empty() {
		free.Sequence++
		block.Delete = false
		if block.Value, err = free.Encode(); err != nil {
			return false, err
		}
	}
	return c.commit(ctx, []store.Write{{Key: affinityKey(node, p), Delete: true, Prev: arev}, block})
}
