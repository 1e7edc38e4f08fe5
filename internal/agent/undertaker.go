// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/ocicat-net/ocicat/internal/cluster"
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

	mu     sync.Mutex
	given  map[cluster.EndpointID]bool            // releases on their way to the datastore
	graves map[cluster.EndpointID][]chan struct{} // closed when the record is gone
}

func newUndertaker(a *Agent) *undertaker {
	return &undertaker{
		agent: a, kick: make(chan struct{}, 1), ready: make(chan struct{}),
		given: map[cluster.EndpointID]bool{}, graves: map[cluster.EndpointID][]chan struct{}{},
	}
}

// gather is how long a DEL's link waits for others: destroying one link costs
// the kernel as much time as destroying sixty.
const gather = 20 * time.Millisecond

// pace is the least time between two rounds: each lists the connections of the
// node, for which the kernel walks its whole table, however few there are.
const pace = 250 * time.Millisecond

// burialGrace is how long an ADD waits for the DEL of the same attachment
// before it.
const burialGrace = 2 * time.Second

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
	for {
		began := time.Now()
		if err := u.round(ctx); err != nil && ctx.Err() == nil {
			u.agent.log.Warn("detached links not destroyed yet, trying again", "error", err)
			time.AfterFunc(retryBurial, u.wake)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-u.kick:
		}
		if !sleep(ctx, max(gather, pace-time.Since(began))) {
			return nil
		}
	}
}

// round buries what was detached since the last one.
func (u *undertaker) round(ctx context.Context) error {
	a := u.agent
	gone := u.detached()
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
		u.release(att)
	}
	return nil
}

// detached are the attachments not given to the datastore yet.
func (u *undertaker) detached() []journal.Attachment {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.DeleteFunc(u.agent.journal.List(), func(att journal.Attachment) bool {
		return att.State != journal.Detached || u.given[att.ID()]
	})
}

// release gives an attachment's address back; its record goes when the
// datastore has it.
func (u *undertaker) release(att journal.Attachment) {
	id := att.ID()
	u.mu.Lock()
	u.given[id] = true
	u.mu.Unlock()
	u.agent.reserve.Release(att.Handle, att.Endpoint.Addr, func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		if err := u.agent.journal.Forget(id); err != nil {
			u.agent.log.Warn("released address stays in the journal", "address", att.Endpoint.Addr, "error", err)
			return
		}
		delete(u.given, id)
		for _, grave := range u.graves[id] {
			close(grave)
		}
		delete(u.graves, id)
	})
}

// await waits, a moment at most, until the journal holds no detached
// attachment of id, and reports whether that is so.
func (u *undertaker) await(ctx context.Context, id cluster.EndpointID) bool {
	if !u.pending(id) { // nobody else detaches it: the caller has its lock
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, burialGrace)
	defer cancel()
	u.mu.Lock()
	if !u.pending(id) {
		u.mu.Unlock()
		return true
	}
	grave := make(chan struct{})
	u.graves[id] = append(u.graves[id], grave)
	u.mu.Unlock()
	select {
	case <-grave:
		return true
	case <-ctx.Done():
		return false
	}
}

// pending says whether the journal holds id as detached.
func (u *undertaker) pending(id cluster.EndpointID) bool {
	att, ok := u.agent.journal.Get(id)
	return ok && att.State == journal.Detached
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
