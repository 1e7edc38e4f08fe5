// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"iter"
	"net/netip"
	"time"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/internal/store"
)

// untimed is a context in which no time passes: a wait ends at once and the
// context has not ended. Once dead it has, and everything that runs in it
// returns.
type untimed struct {
	closed <-chan struct{}
	dead   *bool
}

var _ context.Context = untimed{}

func newUntimed(dead *bool) untimed {
	closed := make(chan struct{})
	close(closed)
	return untimed{closed, dead}
}

// Deadline is none.
func (untimed) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done ends waits.
func (u untimed) Done() <-chan struct{} { return u.closed }

// Err is nil before the end.
func (u untimed) Err() error {
	if *u.dead {
		return context.Canceled
	}
	return nil
}

// Value is none.
func (untimed) Value(any) any { return nil }

// actor runs a program of operations on a Client as a coroutine: it stands
// still at each datastore call until the scheduler answers it.
type actor struct {
	node    string
	client  *ipam.Client
	ctx     context.Context
	pending *call // what it waits for; nil after its end
	reply   answer
	dead    bool // killed: nothing it asks for happens
	resume  func() (call, bool)
	end     func()
	frozen  int // steps it stands still for
}

// newActor makes an actor of a node that runs program up to its first call.
// With commits it sees a datastore with transactions; a nil clock is the real one.
func newActor(node string, pool cluster.Pool, borrow, commits bool, now func() time.Time, program func(*actor)) *actor {
	a := &actor{node: node}
	a.ctx = newUntimed(&a.dead)
	var yield func(call) bool
	stop := func(c call) answer {
		if a.dead || !yield(c) {
			a.dead = true
			return answer{err: errRefused}
		}
		return a.reply
	}
	var datastore store.Store = link{stop}
	if commits {
		datastore = committing{link{stop}}
	}
	a.client = ipam.NewClient(ipam.ClientConfig{
		Store:      datastore,
		Pools:      func(context.Context) ([]cluster.Pool, error) { return []cluster.Pool{pool}, nil },
		NodeLabels: func(context.Context, string) (map[string]string, error) { return nil, nil },
		Borrow:     borrow,
		Now:        now,
	})
	a.resume, a.end = iter.Pull(func(y func(call) bool) {
		yield = y
		program(a)
	})
	a.proceed()
	return a
}

// proceed lets the actor run to its next call.
func (a *actor) proceed() {
	a.pending = nil
	if c, more := a.resume(); more {
		a.pending = &c
	}
}

// answer lets the actor go on with r.
func (a *actor) answer(r answer) {
	a.reply = r
	a.proceed()
}

// kill ends the actor where it stands.
func (a *actor) kill() {
	a.dead = true
	a.end()
	a.pending = nil
}

// smallPool has n blocks of four addresses.
func smallPool(bits int) cluster.Pool {
	return cluster.Pool{Name: "p", CIDR: netip.PrefixFrom(netip.MustParseAddr("10.0.0.0"), bits), BlockSize: 30}
}
