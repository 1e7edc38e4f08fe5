// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"net/netip"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/journal"
)

// undertaker finishes what DELs left behind their answers: it destroys the
// links, many at once, then flushes the addresses' connections, and only then
// gives the addresses back. The datastore's word ends an attachment's record.
type undertaker struct {
	agent *Agent
	kick  chan struct{}
	ready chan struct{}
}

func newUndertaker(a *Agent) *undertaker {
	return &undertaker{agent: a, kick: make(chan struct{}, 1), ready: make(chan struct{})}
}

// gather is how long a DEL's link waits for others: destroying one link costs
// the kernel as much time as destroying sixty.
const gather = 20 * time.Millisecond

// retryBurial is how long a failed round waits for the next.
const retryBurial = 2 * time.Second

// String names the task.
func (u *undertaker) String() string { return "undertaker" }

// Ready is closed at once: nothing waits for it.
func (u *undertaker) Ready() <-chan struct{} { return u.ready }

// wake tells the undertaker that something was detached; it never blocks.
func (u *undertaker) wake() {
	select {
	case u.kick <- struct{}{}:
	default:
	}
}

// Run works until ctx ends.
func (u *undertaker) Run(ctx context.Context) error {
	close(u.ready)
	given := map[string]bool{} // handles whose release is on its way
	for {
		if err := u.round(ctx, given); err != nil && ctx.Err() == nil {
			u.agent.log.Warn("detached links not destroyed yet, trying again", "error", err)
			time.AfterFunc(retryBurial, u.wake)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-u.kick:
		}
		if !sleep(ctx, gather) {
			return nil
		}
	}
}

func (u *undertaker) round(ctx context.Context, given map[string]bool) error {
	a := u.agent
	var gone []journal.Attachment
	for _, att := range a.journal.List() {
		if att.State == journal.Detached && !given[att.Handle] {
			gone = append(gone, att)
		}
	}
	if err := a.kernel.DestroyDetached(ctx); err != nil {
		return err
	}
	addrs := make([]netip.Addr, len(gone))
	for i, att := range gone {
		addrs[i] = att.Endpoint.Addr
	}
	if err := a.kernel.FlushConnections(ctx, addrs...); err != nil && !fault.Is(err, fault.Unsupported) {
		return err
	}
	for _, att := range gone {
		addr := att.Endpoint.Addr
		given[att.Handle] = true
		a.reserve.Release(att.Handle, addr, func() {
			if err := a.journal.Forget(att.ID()); err != nil {
				a.log.Warn("released address stays in the journal", "address", addr, "error", err)
			}
		})
	}
	return nil
}

// sleep waits for d and reports whether ctx still lives.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
