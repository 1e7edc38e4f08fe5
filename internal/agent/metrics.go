// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"math"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/cniserver"
	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/metrics"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// maxPeerSeries is for how many peers a page has lines of their own, the first
// by address; ocicat_bgp_peers counts all.
const maxPeerSeries = 500

// measure has the agent's calls counted, and served where that is wanted.
func (a *Agent) measure() {
	a.counts = new(metrics.Counts)
	a.remote, _ = a.cfg.Store.(remote)
	a.lock, _ = a.cfg.Store.(lockable)
	a.store = metrics.NewStore(a.cfg.Store, a.counts)
	a.cfg.Store = a.store
	if a.cfg.Metrics.IsValid() {
		changed := func() { a.loop.Mark(sectionStatus) }
		a.scrapes = metrics.NewServer(a.cfg.Metrics, a.log, changed, metrics.Process{}, a, a.counts, a.store)
	}
}

// timed counts the passes of a section and the time they take.
func (a *Agent) timed(section string, pass func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		start := time.Now()
		err := pass(ctx)
		a.counts.Pass(section, time.Since(start), err)
		if err != nil && section == sectionKernel {
			a.counts.Add("felix_int_dataplane_failures", 1)
		}
		return err
	}
}

// kernelHint is the time of the first word of the kernel, since the last pass,
// of a change behind the agent's back.
type kernelHint struct{ at atomic.Pointer[time.Time] }

func (h *kernelHint) give() {
	now := time.Now()
	h.at.CompareAndSwap(nil, &now)
}

// take is that time, zero for none.
func (h *kernelHint) take() time.Time {
	if at := h.at.Swap(nil); at != nil {
		return *at
	}
	return time.Time{}
}

// countWrites counts what a pass changed, and how long that took where the
// kernel's word had brought it about.
func (a *Agent) countWrites(n int, hinted time.Time, err error) {
	if err != nil && !hinted.IsZero() {
		a.hint.at.CompareAndSwap(nil, &hinted) // until the pass that succeeds
	}
	if n == 0 || err != nil {
		return
	}
	a.counts.Add("ocicat_kernel_writes_total", float64(n))
	if !hinted.IsZero() {
		a.counts.Add("ocicat_kernel_drift_total", float64(n))
		a.counts.Observe("ocicat_kernel_repair_seconds", time.Since(hinted))
	}
}

// Collect adds what the agent's state says to a page of metrics.
func (a *Agent) Collect(p *metrics.Page) {
	snap := a.feed.Snapshot()
	p.Set("ocicat_agent_ready", truth(a.Ready() == nil))
	found := map[problem.Code]int{}
	for _, one := range a.problems() {
		found[one.Code]++
	}
	for _, entry := range problem.Table {
		p.Set("ocicat_problems", float64(found[entry.Code]), string(entry.Code))
	}
	collectSessions(p, a.speaker.Sessions())
	if last := a.last.Load(); last != nil {
		p.Set("ocicat_routes_wanted", float64(last.wantedRoutes))
		p.Set("ocicat_routes_installed", float64(last.installedRoutes))
		p.Set("ocicat_kernel_drift", float64(last.writes.Len()))
	}
	collectAddresses(p, snap)
	reserve := a.reserve.State()
	p.Set("ocicat_ipam_reserve_addresses", float64(reserve.Held))
	p.Set("ocicat_ipam_reserve_lease_seconds", reserve.Lease.Seconds())
	p.Set("ocicat_ipam_writes_pending", float64(reserve.Pending))
	p.Set("felix_active_local_endpoints", float64(len(snap.Endpoints)))
	p.Set("felix_cluster_num_hosts", float64(len(snap.Nodes)))
	p.Set("ocicat_datastore_connected", truth(a.resources.Err() == nil))
	for _, section := range a.loop.Statuses() {
		p.Set("ocicat_reconcile_failing", float64(section.Tries), section.Name)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func collectSessions(p *metrics.Page, sessions []speaker.Session) {
	states := map[speaker.SessionState]int{}
	for i, s := range sessions {
		states[s.State]++
		if i >= maxPeerSeries {
			continue
		}
		labels := []string{s.Peer.String(), s.Name, string(s.Kind)}
		p.Set("ocicat_bgp_peer_up", truth(s.State == speaker.Established), labels...)
		p.Set("ocicat_bgp_peer_state_seconds", time.Since(s.Since).Seconds(), labels...)
		p.Set("ocicat_bgp_peer_prefixes_received", float64(s.Received), labels...)
		p.Set("ocicat_bgp_peer_prefixes_announced", float64(s.Sent), labels...)
		p.Set("ocicat_bgp_peer_stale", truth(s.Stale), labels...)
		p.Set("ocicat_bgp_peer_flaps_total", float64(s.Flaps), labels...)
		p.Set("ocicat_bgp_peer_messages_received_total", float64(s.MessagesReceived), labels...)
		p.Set("ocicat_bgp_peer_messages_sent_total", float64(s.MessagesSent), labels...)
	}
	for _, state := range []speaker.SessionState{speaker.Idle, speaker.Connect, speaker.Active, speaker.OpenSent, speaker.OpenConfirm, speaker.Established} {
		p.Set("ocicat_bgp_peers", float64(states[state]), string(state))
	}
}

// noPool is the label of addresses that lie in no pool any more, in Calico's
// word.
const noPool = "no_ippool"

// use is what a node has of one pool.
type use struct{ blocks, addresses, borrowed int }

// collectAddresses adds what the node has of each pool.
func collectAddresses(p *metrics.Page, snap *cluster.Snapshot) {
	of := map[string]use{}
	for _, pool := range snap.Pools {
		of[pool.Name] = use{}
		p.Set("ipam_ippool_size", math.Pow(2, float64(pool.CIDR.Addr().BitLen()-pool.CIDR.Bits())), pool.Name)
	}
	own := map[netip.Prefix]bool{} // its blocks
	for _, b := range snap.Blocks {
		own[b.CIDR] = true
		u := of[poolOf(snap, b.CIDR.Addr())]
		u.blocks++
		of[poolOf(snap, b.CIDR.Addr())] = u
	}
	for _, ep := range snap.Endpoints {
		name := poolOf(snap, ep.Addr)
		u := of[name]
		u.addresses++
		if !within(own, ep.Addr) {
			u.borrowed++
		}
		of[name] = u
	}
	for _, name := range sortedKeys(of) {
		p.Set("ipam_blocks", float64(of[name].blocks), name, string(snap.Self))
		p.Set("ipam_allocations_in_use", float64(of[name].addresses), name, string(snap.Self))
		p.Set("ipam_allocations_borrowed", float64(of[name].borrowed), name, string(snap.Self))
	}
}

func poolOf(snap *cluster.Snapshot, addr netip.Addr) string {
	for _, pool := range snap.Pools {
		if pool.CIDR.Contains(addr) {
			return pool.Name
		}
	}
	return noPool
}

func within(blocks map[netip.Prefix]bool, addr netip.Addr) bool {
	for b := range blocks {
		if b.Contains(addr) {
			return true
		}
	}
	return false
}

// measured counts what a handler is asked.
type measured struct {
	cniserver.Handler
	counts *metrics.Counts
}

func (m measured) Add(ctx context.Context, req cniwire.AddRequest) (cniwire.AddResult, error) {
	start := time.Now()
	result, err := m.Handler.Add(ctx, req)
	m.counts.Verb("ADD", time.Since(start), err)
	return result, err
}

func (m measured) Del(ctx context.Context, req cniwire.DelRequest) error {
	return m.verb("DEL", func() error { return m.Handler.Del(ctx, req) })
}

func (m measured) Check(ctx context.Context, req cniwire.CheckRequest) error {
	return m.verb("CHECK", func() error { return m.Handler.Check(ctx, req) })
}

func (m measured) GC(ctx context.Context, req cniwire.GCRequest) error {
	return m.verb("GC", func() error { return m.Handler.GC(ctx, req) })
}

func (m measured) Status(ctx context.Context, req cniwire.StatusRequest) error {
	return m.verb("STATUS", func() error { return m.Handler.Status(ctx, req) })
}

func (m measured) verb(name string, call func() error) error {
	start := time.Now()
	err := call()
	m.counts.Verb(name, time.Since(start), err)
	return err
}
