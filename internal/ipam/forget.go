// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"errors"
	"math"
	"net/netip"
	"slices"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
)

// Forgotten says what was taken from a node.
type Forgotten struct {
	Addresses []netip.Addr   // freed, held ready ones too
	Blocks    []netip.Prefix // given up
}

// Forget frees everything a node holds: its blocks, its pods' addresses, also
// those in other nodes' blocks, its tunnel addresses, its reserve, and at last
// its heartbeat. Nothing of it may be in use any more: the caller has seen the
// heartbeat at rev (0 for none) stand still, or answers for the machine.
// Addresses of other nodes in its blocks stay held. Conflict says that the
// node sent a heartbeat meanwhile; Unavailable, also with a part done, that
// it should be tried again.
func (c *Client) Forget(ctx context.Context, node string, rev store.Revision, by string, times Times) (Forgotten, error) {
	f, err := c.raiseFence(ctx, node, rev, by, times)
	if err != nil {
		return Forgotten{}, err
	}
	s, err := c.survey(ctx)
	if err != nil {
		return Forgotten{}, err
	}
	return c.takeFrom(ctx, s, node, f, true)
}

// takeFrom takes from a node behind a fence all that s says it has, or without
// all only blocks of which it holds nothing but its reserve; it keeps its name
// then.
func (c *Client) takeFrom(ctx context.Context, s *survey, node string, f *nodeFence, all bool) (Forgotten, error) {
	var done Forgotten
	var errs []error
	for _, p := range s.blocksOf(node, all) {
		freed, err := c.freeIn(ctx, p, f, belongsTo(node, all))
		done.Addresses = append(done.Addresses, freed...)
		errs = append(errs, err)
	}
	for _, cl := range s.claimsOf(node) {
		if b := s.blocks[cl]; !all && b != nil && !idle(b, node) {
			continue
		}
		err := errors.Join(c.releaseBlockIf(ctx, node, cl, !all, f.good), c.disown(ctx, node, cl, f))
		if err == nil {
			done.Blocks = append(done.Blocks, cl)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return done, err // the fence stays: it is raised anew by the next try
	}
	if all {
		return done, f.drop(ctx)
	}
	return done, f.restore(ctx)
}

// disown makes a block nobody's that the node owns without a claim.
func (c *Client) disown(ctx context.Context, node string, p netip.Prefix, f *nodeFence) error {
	err := c.editBlock(ctx, p, func(b *alloc.Block) (bool, error) {
		if !b.OwnedBy(node) || len(b.HeldBy(belongsTo(node, true))) > 0 {
			return false, nil
		}
		b.ClearAffinity()
		return true, f.good()
	})
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// belongsTo matches what is taken from a node.
func belongsTo(node string, all bool) func(alloc.Attribute) bool {
	return func(a alloc.Attribute) bool {
		return a.Secondary[alloc.AttrNode] == node && (all || isReserve(a))
	}
}

// idle reports whether a block of the node holds nothing but its reserve.
func idle(b *alloc.Block, node string) bool {
	return b.OwnedBy(node) && len(b.HeldBy(belongsTo(node, false))) == b.InUse()
}

// blocksOf lists the blocks in which something of the node is to be freed.
func (s *survey) blocksOf(node string, all bool) []netip.Prefix {
	var list []netip.Prefix
	for p, b := range s.blocks {
		if len(b.HeldBy(belongsTo(node, all))) > 0 && (all || idle(b, node)) {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, cidr.Compare)
	return list
}

// claimsOf lists the blocks a node claims, or owns without a claim.
func (s *survey) claimsOf(node string) []netip.Prefix {
	var list []netip.Prefix
	for _, cl := range s.claims {
		if cl.node == node {
			list = append(list, cl.block)
		}
	}
	for p, b := range s.blocks {
		if b.OwnedBy(node) && !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, cidr.Compare)
	return list
}

// freeIn frees what match names in one block, while the fence is good, and
// counts the handles down.
func (c *Client) freeIn(ctx context.Context, p netip.Prefix, f *nodeFence, match func(alloc.Attribute) bool) ([]netip.Addr, error) {
	var freed []netip.Addr
	var handles map[string]int // how many the block still holds for each
	err := c.editBlock(ctx, p, func(b *alloc.Block) (bool, error) {
		freed, handles = b.HeldBy(match), map[string]int{}
		if err := f.good(); err != nil {
			return false, err
		}
		var list []alloc.Release
		for _, addr := range freed {
			list = append(list, alloc.Release{Addr: addr})
		}
		lost, _, err := b.Release(list)
		for handle := range lost {
			handles[handle] = len(b.ByHandle(handle))
		}
		return len(freed) > 0, err
	})
	if fault.Is(err, fault.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var errs []error
	for handle, left := range handles {
		errs = append(errs, c.countDown(ctx, handle, p, math.MaxInt32, left))
	}
	return freed, errors.Join(errs...)
}

// Use is what a node holds: its blocks, and all addresses with its name, also
// those held ready.
func (c *Client) Use(ctx context.Context, node string) (Forgotten, error) {
	s, err := c.survey(ctx)
	if err != nil {
		return Forgotten{}, err
	}
	use := Forgotten{Blocks: s.claimsOf(node)}
	for _, p := range s.blocksOf(node, true) {
		use.Addresses = append(use.Addresses, s.blocks[p].HeldBy(belongsTo(node, true))...)
	}
	return use, nil
}
