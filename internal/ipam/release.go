// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/fault"
)

// Released says what a ReleaseIPs did.
type Released struct {
	Freed        []netip.Addr // were held and are free now
	NotAllocated []netip.Addr // nobody held them
}

// ReleaseIPs frees addresses. Those of one block are freed all or none; a
// wrong handle or a stale sequence number is Conflict, and the other blocks
// go on.
func (c *Client) ReleaseIPs(ctx context.Context, list []alloc.Release) (Released, error) {
	var done Released
	conf, err := c.GetConfig(ctx)
	if err != nil {
		return done, err
	}
	byBlock := map[netip.Prefix][]alloc.Release{}
	for _, r := range list {
		if !r.Addr.IsValid() {
			return done, fault.New(fault.Invalid, "release: no address given")
		}
		p, ok, err := c.blockOf(ctx, r.Addr)
		if err != nil {
			return done, err
		}
		if !ok {
			done.NotAllocated = append(done.NotAllocated, r.Addr)
			continue
		}
		byBlock[p] = append(byBlock[p], r)
	}
	var errs []error
	for _, p := range slices.SortedFunc(maps.Keys(byBlock), cidr.Compare) {
		if err := c.releaseFrom(ctx, p, byBlock[p], conf.Cooldown(), &done); err != nil {
			errs = append(errs, err)
		}
	}
	return done, errors.Join(errs...)
}

// releaseFrom frees addresses of one block and counts their handles down.
func (c *Client) releaseFrom(ctx context.Context, p netip.Prefix, list []alloc.Release, rest time.Duration, done *Released) error {
	var freed, left map[string]int
	var after emptied
	var free []netip.Addr
	err := c.editBlock(ctx, p, func(b *alloc.Block) (bool, error) {
		var err error
		b.Cool(c.Now(), rest)
		if freed, free, err = b.Release(list); err != nil {
			return false, err
		}
		left = map[string]int{}
		for handle := range freed {
			left[handle] = len(b.ByHandle(handle))
		}
		after.note(b)
		return len(freed) > 0, nil
	})
	if fault.Is(err, fault.NotFound) {
		free = nil
		for _, r := range list {
			free = append(free, r.Addr)
		}
		err = nil
	}
	if err != nil {
		return err
	}
	for _, r := range list {
		if slices.Contains(free, r.Addr) {
			done.NotAllocated = append(done.NotAllocated, r.Addr)
		} else {
			done.Freed = append(done.Freed, r.Addr)
		}
	}
	var errs []error
	for handle, n := range freed {
		errs = append(errs, c.countDown(ctx, handle, p, n, left[handle]))
	}
	return errors.Join(append(errs, c.giveUpEmptied(ctx, p, after))...)
}

// ReleaseByHandle frees every address of a handle and forgets the handle. An
// unknown handle is NotFound.
//
// Each block the handle names is written even where it holds nothing for it:
// an assignment to the handle whose write is still under way then fails,
// instead of landing without a handle.
func (c *Client) ReleaseByHandle(ctx context.Context, handle string) error {
	conf, err := c.GetConfig(ctx)
	if err != nil {
		return err
	}
	known := false
	return again(ctx, func() error {
		e, err := c.Store.Get(ctx, handleKey(handle))
		if known && fault.Is(err, fault.NotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		known = true
		h, err := alloc.ParseHandle(e.Value)
		if err != nil {
			return err
		}
		var errs []error
		for _, p := range slices.SortedFunc(maps.Keys(h.Blocks), cidr.Compare) {
			var after emptied
			err := c.editBlock(ctx, p, func(b *alloc.Block) (bool, error) {
				b.Cool(c.Now(), conf.Cooldown())
				b.ReleaseHandle(handle)
				after.note(b)
				return true, nil
			})
			if err == nil {
				err = c.giveUpEmptied(ctx, p, after)
			}
			if err != nil && !fault.Is(err, fault.NotFound) {
				errs = append(errs, err)
			}
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
		return raced(c.remove(ctx, handleKey(handle), e.Revision))
	})
}
