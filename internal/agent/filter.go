// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/problem"
)

// nftables is the edge that holds the packet filter.
type nftables interface {
	Apply(want host.Table) (wrote bool, err error)
	Monitor(ctx context.Context, table string, each func()) error
	Close() error
}

// filter is the state of the packet filter: pods are served once it stands,
// or once it is known that this kernel has none.
type filter struct {
	nft      nftables
	settle   sync.Once
	settled  chan struct{}
	problems atomic.Pointer[[]problem.Problem]
}

func newFilter(nft nftables) *filter { return &filter{nft: nft, settled: make(chan struct{})} }

// ready is nil once pods may be attached behind the filter.
func (f *filter) ready() error {
	select {
	case <-f.settled:
		return nil
	default:
		return fault.Hint(fault.New(fault.Unavailable, "the packet filter is not in place yet"), "ocicat status says why; the runtime tries again by itself.")
	}
}

// Problems are what keeps the filter from being as it should.
func (f *filter) Problems() []problem.Problem {
	if p := f.problems.Load(); p != nil {
		return slices.Clone(*p)
	}
	return nil
}

// convergeFilter makes the kernel hold our nftables table. Before the pools are
// known nothing is written: a table without them would end the masquerading
// that the agent before this one left in place.
func (a *Agent) convergeFilter(context.Context) error {
	snap := a.feed.Snapshot()
	if !snap.StoreSynced {
		return nil
	}
	wrote, err := a.filter.nft.Apply(core.Filter(snap))
	var problems []problem.Problem
	switch {
	case err == nil:
	case fault.Is(err, fault.Unsupported):
		problems = []problem.Problem{problem.New(problem.FilterMissing, "", err)}
	default:
		problems = []problem.Problem{problem.New(problem.KernelRefused, core.FilterTable, err)}
	}
	if wrote {
		a.log.Info("packet filter written", "table", core.FilterTable)
	}
	if err == nil || fault.Is(err, fault.Unsupported) {
		a.filter.settle.Do(func() { close(a.filter.settled) })
	}
	if before := a.filter.problems.Swap(&problems); before == nil || !slices.Equal(*before, problems) {
		a.loop.Mark(sectionStatus)
	}
	return err
}

// watchFilter starts a pass when somebody changes our table. Without the
// kernel's notifications the resync finds out.
func (a *Agent) watchFilter(ctx context.Context) error {
	err := a.filter.nft.Monitor(ctx, core.FilterTable, func() { a.loop.Mark(sectionFilter) })
	if err != nil && ctx.Err() == nil {
		a.log.Warn("changes of the packet filter are seen once a minute only", "error", err)
		<-ctx.Done()
	}
	return nil
}
