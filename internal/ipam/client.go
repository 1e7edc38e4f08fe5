// SPDX-License-Identifier: Apache-2.0

// Package ipam turns the decisions of alloc into compare-and-swap writes on a
// datastore. Client has the operations of Calico's IPAM on Calico's objects;
// Reserve is what an agent uses for its pods.
//
// Two orders keep every address accounted for, whatever crashes where. An
// assignment counts in the handle first and then stands in the block; a
// release leaves the block first and then the handle. So a crash leaves a
// handle that counts too much, never an address whose handle does not know
// it. A claim of a block goes pending, block, confirmed; giving it up goes
// pendingDeletion, block, gone; whoever meets a half-way state completes it.
package ipam

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
)

// tries bounds every compare-and-swap loop.
const tries = 100

// ClientConfig is what a Client needs.
type ClientConfig struct {
	Store store.Store
	// Pools lists all pools, also disabled ones.
	Pools func(context.Context) ([]cluster.Pool, error)
	// NodeLabels are the labels of a node, for the pools' node selectors. A
	// node that does not exist is NotFound.
	NodeLabels func(ctx context.Context, node string) (map[string]string, error)
	// Reservations lists the ranges that are only assigned when asked for by
	// address; nil is none.
	Reservations func(context.Context) ([]netip.Prefix, error)
	// Reclaim says whether an empty block may be taken from a node that
	// claimed it at the given time, once no block can be claimed; nil is
	// never. It must know that the node cannot be giving addresses.
	Reclaim func(ctx context.Context, node string, claimed time.Time) (bool, error)
	// Borrow allows taking addresses from other nodes' blocks once the own
	// ones are full and no more can be claimed. It needs routes for single
	// borrowed addresses.
	Borrow bool
	// Now is the clock that claims and releases are dated by; nil is time.Now.
	Now func() time.Time
}

// Client does address management for any node. It keeps no state and is safe
// for concurrent use, by any number of Clients on one datastore.
type Client struct{ ClientConfig }

// NewClient returns a Client; no field of c but Reservations, Reclaim, Borrow
// and Now may be zero.
func NewClient(c ClientConfig) *Client {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Client{c}
}

// errUncertain is in the chain of a Conflict that may have been caused by the
// caller's own write, whose answer was lost.
var errUncertain = errors.New("an earlier try may be what changed it")

// put is write for a value that nobody else would write: what is stored and
// equals it was written by this call.
func (c *Client) put(ctx context.Context, key store.Key, value []byte, prev store.Revision) (store.Revision, error) {
	rev, err := c.write(ctx, key, value, prev)
	if !errors.Is(err, errUncertain) {
		return rev, err
	}
	if now, getErr := c.Store.Get(ctx, key); getErr == nil && sameObject(now.Value, value) {
		return now.Revision, nil
	}
	return 0, err
}

// write writes value if key's revision still is prev. An ambiguous answer is
// resolved by repeating the same write; if the comparison then fails, the
// Conflict says errUncertain.
func (c *Client) write(ctx context.Context, key store.Key, value []byte, prev store.Revision) (store.Revision, error) {
	ambiguous := false
	for try := 0; ; try++ {
		rev, err := c.Store.Put(ctx, key, value, prev)
		switch {
		case err == nil:
			return rev, nil
		case fault.Is(err, fault.Conflict):
			if ambiguous {
				err = fmt.Errorf("%w: %w", err, errUncertain)
			}
			return 0, err
		case errors.Is(err, store.ErrAmbiguous):
			ambiguous = true
		case !ambiguous:
			return 0, err
		}
		if pauseErr := pause(ctx, try+1); pauseErr != nil || try == tries {
			return 0, ambiguity(err)
		}
	}
}

// remove deletes key if its revision still is prev. A key that is gone
// already is no error.
func (c *Client) remove(ctx context.Context, key store.Key, prev store.Revision) error {
	ambiguous := false
	for try := 0; ; try++ {
		err := c.Store.Delete(ctx, key, prev)
		switch {
		case err == nil || fault.Is(err, fault.NotFound):
			return nil
		case fault.Is(err, fault.Conflict):
			return err
		case errors.Is(err, store.ErrAmbiguous):
			ambiguous = true
		case !ambiguous:
			return err
		}
		if pauseErr := pause(ctx, try+1); pauseErr != nil || try == tries {
			return ambiguity(err)
		}
	}
}

// ambiguity marks the error of a write whose earlier try may have happened.
func ambiguity(err error) error {
	if errors.Is(err, store.ErrAmbiguous) {
		return err
	}
	return fmt.Errorf("%w: %w", err, store.ErrAmbiguous)
}

// pause waits before the given try; the first ones follow at once. The wait
// grows to one second and is spread so that competitors do not meet again.
func pause(ctx context.Context, try int) error {
	if try < 3 {
		return ctx.Err()
	}
	wait := min(time.Second, time.Millisecond<<min(try-3, 10))
	timer := time.NewTimer(wait/2 + rand.N(wait/2+1))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// again runs step until it reports that it is done, fails with anything but
// Conflict, or has had its tries. A step that lost a race returns the
// Conflict of its write.
func again(ctx context.Context, step func() error) error {
	var err error
	for try := range tries {
		if err = step(); !retryable(err) {
			return err
		}
		if ctxErr := pause(ctx, try+1); ctxErr != nil {
			return fault.New(fault.Unavailable, "%w", err)
		}
	}
	return fault.New(fault.Unavailable, "%d tries: %w", tries, err)
}

// lost marks the Conflict of a compare-and-swap that another writer won: the
// step is worth repeating, other than a Conflict that is a decision.
type lost struct{ error }

func (l lost) Unwrap() error { return l.error }

func retryable(err error) bool {
	var l lost
	return errors.As(err, &l)
}

// raced marks a write's Conflict as lost and passes other errors on.
func raced(err error) error {
	if fault.Is(err, fault.Conflict) {
		return lost{err}
	}
	return err
}

// poolOf is the pool that holds addr.
func (c *Client) poolOf(ctx context.Context, addr netip.Addr) (cluster.Pool, bool, error) {
	pools, err := c.Pools(ctx)
	if err != nil {
		return cluster.Pool{}, false, err
	}
	for _, p := range pools {
		if p.CIDR.Contains(addr) && alloc.Fits(p.CIDR, p.BlockSize) {
			return p, true, nil
		}
	}
	return cluster.Pool{}, false, nil
}

// blockOf is the block that holds addr: by its pool, or, where the pool is
// gone, the stored block.
func (c *Client) blockOf(ctx context.Context, addr netip.Addr) (netip.Prefix, bool, error) {
	p, ok, err := c.poolOf(ctx, addr)
	if err != nil {
		return netip.Prefix{}, false, err
	}
	if ok {
		return cidr.BlockOf(addr, p.BlockSize), true, nil
	}
	stored, err := c.blockNames(ctx)
	for _, b := range stored {
		if b.Contains(addr) {
			return b, true, nil
		}
	}
	return netip.Prefix{}, false, err
}
