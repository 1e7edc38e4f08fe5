// SPDX-License-Identifier: Apache-2.0

// Package feed turns facts into Snapshots. Every source of facts (datastore,
// kernel, speaker, CNI) hands over what it knows as a whole value; the feed
// publishes a new immutable Snapshot and says which part changed. It decides
// nothing.
package feed

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/ocicat-net/ocicat/internal/cluster"
)

// Part is a part of the Snapshot that can change on its own.
type Part uint8

// The parts.
const (
	Resources Part = 1 << iota // pools, nodes, BGP configuration and peers
	Blocks                     // own blocks
	Endpoints                  // attached pods
	Learned                    // best paths of the speaker
	Host                       // links and addresses of the node
)

// Feed holds the current Snapshot. All methods are safe for concurrent use.
type Feed struct {
	current atomic.Pointer[cluster.Snapshot]
	mu      sync.Mutex // serialises writers
	changed func(Part)
}

// New returns a feed whose first Snapshot knows only the node's name and
// settings. changed is called after every publication, outside any lock, and
// must not block.
func New(self cluster.NodeName, settings cluster.Settings, changed func(Part)) *Feed {
	f := &Feed{changed: changed}
	f.current.Store(&cluster.Snapshot{
		Self:      self,
		Settings:  settings,
		Nodes:     map[cluster.NodeName]cluster.Node{},
		Endpoints: map[cluster.EndpointID]cluster.Endpoint{},
	})
	return f
}

// Snapshot returns the current Snapshot; it never changes.
func (f *Feed) Snapshot() *cluster.Snapshot { return f.current.Load() }

// publish makes edit's result the current Snapshot. edit gets a shallow copy:
// it replaces maps and slices and never writes into them.
func (f *Feed) publish(part Part, edit func(*cluster.Snapshot)) {
	f.mu.Lock()
	next := *f.current.Load()
	edit(&next)
	f.current.Store(&next)
	f.mu.Unlock()
	f.changed(part)
}

// Cluster is what the datastore's resources say.
type Cluster struct {
	Nodes map[cluster.NodeName]cluster.Node
	Pools []cluster.Pool
	// Reserved are the ranges of all IPReservations.
	Reserved []netip.Prefix
	BGP      cluster.BGP
	Peers    []cluster.PeerSpec
	// Settings as the resources change them.
	Settings cluster.Settings
	// Synced says that this came whole from the datastore or its local copy.
	Synced bool
}

// SetCluster replaces what the resources say; c's maps and slices belong to
// the feed afterwards.
func (f *Feed) SetCluster(c Cluster) {
	slices.SortFunc(c.Pools, func(a, b cluster.Pool) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(c.Reserved, comparePrefix)
	slices.SortFunc(c.Peers, func(a, b cluster.PeerSpec) int { return cmp.Compare(a.Name, b.Name) })
	f.publish(Resources, func(s *cluster.Snapshot) {
		s.Reserved = slices.Compact(c.Reserved)
		s.Nodes, s.Pools, s.BGP, s.Peers, s.Settings = c.Nodes, c.Pools, c.BGP, c.Peers, c.Settings
		s.StoreSynced = s.StoreSynced || c.Synced
		s.PastPools = withPools(s.PastPools, c.Pools)
		s.HadNAT = s.HadNAT || slices.ContainsFunc(c.Pools, func(p cluster.Pool) bool { return p.NATOutgoing })
	})
}

// RememberPools adds CIDRs of pools that existed before this agent started.
func (f *Feed) RememberPools(past []netip.Prefix) {
	f.publish(Resources, func(s *cluster.Snapshot) {
		merged := append(slices.Clone(s.PastPools), past...)
		slices.SortFunc(merged, comparePrefix)
		s.PastPools = slices.Compact(merged)
	})
}

func withPools(past []netip.Prefix, pools []cluster.Pool) []netip.Prefix {
	merged := slices.Clone(past)
	for _, pool := range pools {
		merged = append(merged, pool.CIDR)
	}
	slices.SortFunc(merged, comparePrefix)
	return slices.Compact(merged)
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// SetBlocks replaces the own blocks: these are all of them.
func (f *Feed) SetBlocks(blocks []cluster.Block) {
	blocks = slices.SortedFunc(slices.Values(blocks), func(a, b cluster.Block) int { return comparePrefix(a.CIDR, b.CIDR) })
	if snap := f.Snapshot(); snap.BlocksSynced && slices.Equal(blocks, snap.Blocks) {
		return
	}
	f.publish(Blocks, func(s *cluster.Snapshot) { s.Blocks, s.BlocksSynced = blocks, true })
}

// SetEndpoint adds or replaces one endpoint.
func (f *Feed) SetEndpoint(ep cluster.Endpoint) {
	f.publish(Endpoints, func(s *cluster.Snapshot) {
		s.Endpoints = maps.Clone(s.Endpoints)
		s.Endpoints[ep.ID] = ep
	})
}

// DeleteEndpoint removes one endpoint; a missing one is no error.
func (f *Feed) DeleteEndpoint(id cluster.EndpointID) {
	if _, ok := f.Snapshot().Endpoints[id]; !ok {
		return
	}
	f.publish(Endpoints, func(s *cluster.Snapshot) {
		s.Endpoints = maps.Clone(s.Endpoints)
		delete(s.Endpoints, id)
	})
}

// SetEndpoints replaces all endpoints: the journal was read.
func (f *Feed) SetEndpoints(endpoints map[cluster.EndpointID]cluster.Endpoint) {
	f.publish(Endpoints, func(s *cluster.Snapshot) {
		s.Endpoints = maps.Clone(endpoints)
		s.EndpointsSynced = true
	})
}

// SetLearned replaces the learned routes, the peers still awaited, and those
// the speaker knew when it named them.
func (f *Feed) SetLearned(learned cluster.Learned, unsynced, asked map[netip.Addr]bool) {
	f.publish(Learned, func(s *cluster.Snapshot) { s.Learned, s.Unsynced, s.Asked = learned, unsynced, asked })
}

// SetHost replaces what was observed of the node's own network.
func (f *Feed) SetHost(h cluster.Host) {
	if reflect.DeepEqual(h, f.Snapshot().Host) {
		return
	}
	f.publish(Host, func(s *cluster.Snapshot) { s.Host = h })
}
