// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/kernel"
	"github.com/ocicat-net/ocicat/internal/problem"
)

// converged is the outcome of the last pass over the kernel.
type converged struct {
	want      host.State
	seen      host.State
	writes    kernel.Changes // what was written
	problems  []problem.Problem
	conflicts map[host.RouteKey]bool // routes of others that hide ours

	// limited is why the kernel refused what pods need, and since when; nil for
	// what others announced.
	limited      error
	limitedSince time.Time

	// What status and metrics ask for again and again.
	wantedRoutes, installedRoutes int
}

// broken says whether the pass found something wrong with an endpoint.
func (c *converged) broken() bool {
	return c != nil && slices.ContainsFunc(c.problems, func(p problem.Problem) bool { return p.Code == problem.EndpointBroken })
}

// limit notes what the pass before and err, the kernel's answer to this one's
// writes, say about the pods' plumbing.
func (c *converged) limit(before *converged, err error) {
	if err == nil || !forPods(c.writes) {
		return
	}
	c.limited, c.limitedSince = err, time.Now()
	if before != nil && before.limited != nil {
		c.limitedSince = before.limitedSince
	}
}

// forPods reports whether changes hold what the node's own pods need, and not
// only routes to others.
func forPods(c kernel.Changes) bool {
	return len(c.Links)+len(c.Sysctls)+len(c.SetNeighs) > 0 || slices.ContainsFunc(c.SetRoutes, func(r host.Route) bool { return r.Scope == host.ScopeLink })
}

// converge makes the kernel hold what core wants: observe, decide, write the
// differences. The Snapshot is taken after the observation, so an endpoint
// that is being attached or detached meanwhile is left to its own call.
func (a *Agent) converge(ctx context.Context) error {
	pass, hinted := a.touched.begin(), a.hint.take()
	defer a.touched.end()
	seen, err := a.kernel.Observe(ctx)
	if err != nil {
		return err
	}
	a.takeLearned()
	a.feed.SetHost(hostFacts(seen, a.feed.Snapshot().Me().Address, a.cfg.Settings.InterfacePrefix))
	snap := a.feed.Snapshot()
	want, problems := core.Host(snap)
	changes := kernel.Diff(want, seen, kernel.Judge{
		Ours:      func(r host.Route) bool { return core.Ours(snap, seen.Links, r) },
		Deletable: func(r host.Route) bool { return core.Deletable(snap, r) },
		Skip:      func(dev string) bool { return a.touched.since(pass, dev) },
	})
	problems = append(problems, changeProblems(changes)...)
	a.wanted.Store(&want) // before the echoes of what is written
	err = a.kernel.Apply(ctx, changes)
	if changes.Len() > 0 {
		a.log.Info("kernel changed", "writes", changes.Len())
		a.log.Debug("kernel changes", "changes", changes)
	}
	if err != nil {
		problems = append(problems, problem.New(problem.KernelRefused, "", err.Error()))
	}
	a.countWrites(changes.Len(), hinted, err)
	conflicts := map[host.RouteKey]bool{}
	for _, c := range changes.Conflicts {
		conflicts[c.Seen.Key()] = true
	}
	outcome := &converged{want: want, seen: seen, writes: changes, problems: problem.Sort(problems), conflicts: conflicts}
	outcome.limit(a.last.Load(), err)
	outcome.wantedRoutes, outcome.installedRoutes = learnedCounts(want, seen)
	before := a.last.Swap(outcome)
	if err == nil && snap.StoreSynced && snap.EndpointsSynced {
		a.verify.Do(func() {
			close(a.verified)
			a.speaker.ForwardingVerified()
		})
	}
	a.loop.Mark(sectionStatus)
	if err == nil && changes.Len() > 0 && (before == nil || !before.writes.SameWrites(changes)) {
		a.loop.Mark(sectionKernel) // once more: what was written is there now
	}
	return err
}

// hostFacts is what deciding needs of the observed links and routes. Our own
// host ends, named with prefix, are no business of it.
func hostFacts(seen host.State, own netip.Prefix, prefix string) cluster.Host {
	var h cluster.Host
	for _, name := range sortedKeys(seen.Links) {
		link := seen.Links[name]
		if strings.HasPrefix(name, prefix) || len(link.Addrs) == 0 {
			continue
		}
		h.Devices = append(h.Devices, cluster.Device{Name: name, Up: link.Up, MTU: link.MTU, Addrs: link.Addrs})
		for _, addr := range link.Addrs {
			if own.IsValid() && addr.Addr() == own.Addr() {
				h.Uplink = name
			}
		}
	}
	for _, r := range seen.Routes {
		if r.Dst.Bits() == 0 && r.Type == host.Unicast && r.Dst.Addr().Is4() {
			h.DefaultRoute = true
		}
	}
	return h
}

// touchedDevices remembers which host ends were being changed by a CNI call
// during a pass: such a pass leaves them alone.
type touchedDevices struct {
	mu     sync.Mutex
	clock  int
	busy   map[string]int // calls at work on a device
	recent map[string]int // clock at which the last call ended
	passes int
}

// touch marks dev as being changed until the returned function is called.
func (a *Agent) touch(dev string) func() {
	t := &a.touched
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.busy == nil {
		t.busy, t.recent = map[string]int{}, map[string]int{}
	}
	t.busy[dev]++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.busy[dev]--; t.busy[dev] == 0 {
			delete(t.busy, dev)
		}
		t.clock++
		if t.passes > 0 {
			t.recent[dev] = t.clock
		}
	}
}

// begin starts a pass and returns its mark.
func (t *touchedDevices) begin() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.passes++
	return t.clock
}

// since reports whether dev was being changed at any time after mark.
func (t *touchedDevices) since(mark int, dev string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.busy[dev] > 0 || t.recent[dev] > mark
}

// now reports whether a call is working on dev.
func (t *touchedDevices) now(dev string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.busy[dev] > 0
}

func (t *touchedDevices) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.passes--; t.passes == 0 {
		clear(t.recent)
	}
}

// changeProblems are what the diff found and must not mend.
func changeProblems(ch kernel.Changes) []problem.Problem {
	var ps []problem.Problem
	for _, c := range ch.Conflicts {
		ps = append(ps, problem.New(problem.RouteShadowed, c.Want.Dst.String(), c.Want, c.Seen))
	}
	for _, link := range ch.LinksGone {
		ps = append(ps, problem.New(problem.EndpointBroken, link, link, "its host end is gone"))
	}
	for _, link := range ch.LinksAlien {
		ps = append(ps, problem.New(problem.EndpointBroken, link, link, "another program's link has its name"))
	}
	return ps
}

// convergeSpeaker hands the speaker what core wants of it.
func (a *Agent) convergeSpeaker(context.Context) error {
	cfg, problems := core.Speaker(a.feed.Snapshot())
	a.peerProblems.Store(&problems)
	a.speaker.Set(cfg)
	return nil
}

// learned notes that the speaker learned something. It runs on the speaker's
// goroutines and never blocks. The next pass takes it over: a burst of 100,000
// routes comes in hundreds of messages and goes into the kernel in few passes.
func (a *Agent) learned() {
	a.news.Store(true)
	a.loop.Mark(sectionKernel)
	a.loop.Mark(sectionStatus)
}

// takeLearned takes over what the speaker learned since the last pass. Who is
// unsynced is asked first: a peer that ends its first full set between the two
// questions must not be taken for one that announced nothing.
func (a *Agent) takeLearned() {
	if a.news.Swap(false) {
		unsynced, asked := a.speaker.Unsynced()
		a.feed.SetLearned(a.speaker.Learned(), unsynced, asked)
	}
}
