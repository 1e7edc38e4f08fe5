// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	v1 "github.com/ocicat-net/ocicat/api/v1"
	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/convert"
	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/feed"
	"github.com/ocicat-net/ocicat/internal/kernel"
	"github.com/ocicat-net/ocicat/internal/localcopy"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/resource"
	"github.com/ocicat-net/ocicat/internal/store"
)

// followed are the kinds of resources an agent decides with.
var followed = []store.Kind{store.IPPool, store.IPReservation, store.Node, store.BGPConfiguration, store.BGPPeer, store.OcicatConfiguration}

// resources follows the datastore's resources, feeds what they say and keeps
// the local copy.
type resources struct {
	agent *Agent

	mu       sync.Mutex
	entries  map[store.Key]store.Entry // what the datastore says, last understood
	bad      map[store.Key]error       // what it says now and nobody understands
	believed view                      // what the agent goes by
	refused  string                    // what is gone and not believed to be, "" for nothing
	doubted  string                    // the same of kinds most of which are gone
	missing  int                       // how many deletions are not believed yet
	settle   *time.Timer               // until deletions are looked at
	full     map[store.Kind]bool       // kinds whose whole set the datastore delivered
	lost     map[store.Kind]error      // kinds whose contact is lost, and why
	problems []problem.Problem
	unsaved  error         // why the local copy could not be written, nil when it was
	settled  chan struct{} // closed when every kind was delivered once
	save     chan struct{}
}

func newResources(a *Agent) *resources {
	r := &resources{
		agent:   a,
		entries: map[store.Key]store.Entry{},
		bad:     map[store.Key]error{},
		full:    map[store.Kind]bool{},
		lost:    map[store.Kind]error{},
		settled: make(chan struct{}),
		save:    make(chan struct{}, 1),
	}
	r.settle = time.AfterFunc(time.Hour, r.deletionsSettled)
	r.settle.Stop()
	return r
}

// run follows every kind until ctx ends.
func (r *resources) run(ctx context.Context) error {
	var following sync.WaitGroup
	for _, kind := range followed {
		following.Go(func() {
			store.Follow(ctx, r.agent.cfg.Store, kind, "", store.FollowOptions{Relist: r.agent.relist(), Log: r.agent.log}, func(u store.Update) { r.update(kind, u) })
		})
	}
	following.Go(func() { r.keepCopy(ctx) })
	following.Wait()
	r.settle.Stop()
	return nil
}

// update takes in one step of one kind.
func (r *resources) update(kind store.Kind, u store.Update) {
	r.mu.Lock()
	if u.Err != nil {
		r.lost[kind] = u.Err
		r.mu.Unlock()
		r.agent.loop.Mark(sectionStatus)
		return
	}
	found := r.lost[kind] != nil
	delete(r.lost, kind)
	changed := r.take(kind, u) || u.Full || found
	complete := len(r.full) == len(followed)
	var decided feed.Cluster
	if complete {
		r.believe(false)
	}
	if complete && changed {
		decided, r.problems = r.decide(true)
	}
	r.mu.Unlock()
	if !complete || !changed {
		return
	}
	r.agent.feed.SetCluster(decided)
	if u.Full || found {
		r.agent.reserve.Refresh() // it may have missed something, too
	}
	own := func(e store.Entry) bool { return e.Key.Name == string(r.agent.cfg.Node) }
	if kind == store.Node && slices.ContainsFunc(u.Entries, own) {
		r.agent.uplinkChanged() // somebody may have written it
	}
	r.wantCopy()
	select {
	case <-r.settled:
	default:
		close(r.settled)
	}
}

// take brings the entries up to an update. An object that nobody understands
// does not take the place of the one before it: that stays in use. It says
// whether anything is another but revisions: a kubelet writes its Node every few
// minutes, and of a thousand somebody always does. The caller holds the lock.
func (r *resources) take(kind store.Kind, u store.Update) (changed bool) {
	before := r.entries
	if u.Full {
		r.entries = maps.Clone(before)
		maps.DeleteFunc(r.entries, func(key store.Key, _ store.Entry) bool { return key.Kind == kind })
		maps.DeleteFunc(r.bad, func(key store.Key, _ error) bool { return key.Kind == kind })
		r.full[kind] = true
	}
	for _, e := range u.Entries {
		_, bad := r.bad[e.Key]
		old, had := before[e.Key]
		if !had || bad || !bytes.Equal(old.Value, e.Value) {
			changed = true
		}
		delete(r.bad, e.Key)
		if had && readable(old) == nil {
			if err := readable(e); err != nil {
				r.bad[e.Key], e = err, old
			}
		}
		r.entries[e.Key] = e
	}
	for _, key := range u.Deleted {
		if _, had := r.entries[key]; had {
			changed = true
		}
		delete(r.entries, key)
		delete(r.bad, key)
	}
	return changed
}

// readable says what keeps a stored object from being understood, nil for
// nothing.
func readable(e store.Entry) error {
	object, err := resource.Decode(e)
	if err != nil {
		return err
	}
	switch o := object.(type) {
	case *v3.IPPool:
		_, err = convert.Pool(o)
	case *v3.IPReservation:
		_, err = convert.Reservation(o)
	}
	return err
}

// decide converts what is believed. The caller holds the lock.
func (r *resources) decide(synced bool) (feed.Cluster, []problem.Problem) {
	a := r.agent
	c := feed.Cluster{Nodes: map[cluster.NodeName]cluster.Node{}, Synced: synced}
	var problems []problem.Problem
	var bgp *v3.BGPConfiguration
	var config *v1.OcicatConfiguration
	var peers []*v3.BGPPeer
	for key, err := range r.bad {
		problems = append(problems, resource.Quarantined(key, fmt.Errorf("%w; its last good version stays in use", err)))
	}
	for _, e := range r.believed {
		object, err := resource.Decode(e)
		if err != nil {
			problems = append(problems, resource.Quarantined(e.Key, err))
			continue
		}
		switch o := object.(type) {
		case *v3.IPPool:
			if a.cfg.Environment != nil {
				problems = append(problems, a.cfg.Environment.Differences(o)...)
			}
			pool, err := convert.Pool(o)
			if err != nil {
				problems = append(problems, resource.Quarantined(e.Key, err))
				continue
			}
			if pool.CIDR.Addr().Is4() {
				c.Pools = append(c.Pools, pool)
			}
		case *v3.IPReservation:
			ranges, err := convert.Reservation(o)
			if err != nil {
				problems = append(problems, resource.Quarantined(e.Key, err))
			}
			c.Reserved = append(c.Reserved, ranges...)
		case *v3.Node:
			node := convert.Node(o)
			c.Nodes[node.Name] = node
		case *v3.BGPConfiguration:
			if o.Metadata.Name == "default" {
				bgp = o
			}
		case *v3.BGPPeer:
			peers = append(peers, o)
		case *v1.OcicatConfiguration:
			config = o
		}
	}
	c.BGP = convert.BGP(bgp)
	c.BGP.RouterID = a.cfg.RouterID
	c.Settings = convert.Settings(config, a.cfg.Settings)
	var unusable []problem.Problem
	c.Peers, unusable = convert.Peers(peers, a.cfg.Node, a.cfg.Passwords)
	return c, problem.Sort(append(problems, unusable...))
}

// Err is why the datastore does not answer, nil while it does.
func (r *resources) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, kind := range followed {
		if err := r.lost[kind]; err != nil {
			return err
		}
	}
	return nil
}

// Problems are what is wrong with stored objects.
func (r *resources) Problems() []problem.Problem {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := slices.Clone(r.problems)
	if gone := r.refused + r.doubted; gone != "" { // never both
		list = append(list, problem.New(problem.MassDeletion, "", gone))
	}
	if r.unsaved != nil {
		list = append(list, problem.New(problem.StateUnwritten, r.agent.localCopyPath(), "the local copy of the datastore", r.unsaved))
	}
	return list
}

// recall starts from the local copy: what this node knew when it last ran.
func (r *resources) recall() error {
	c, ok, err := localcopy.Read(r.agent.localCopyPath())
	if err != nil || !ok || c.Node != string(r.agent.cfg.Node) {
		return err
	}
	r.mu.Lock()
	for _, e := range c.Entries {
		key := store.Key{Kind: e.Kind, Name: e.Name}
		r.entries[key] = store.Entry{Key: key, Value: e.Value}
	}
	r.believed = maps.Clone(r.entries)
	decided, problems := r.decide(true)
	r.problems = problems
	r.mu.Unlock()
	r.agent.feed.RememberPools(c.PastPools)
	r.agent.feed.SetCluster(decided)
	blocks := r.agent.knownBlocks(c)
	r.agent.log.Info("started from the local copy of the datastore", "objects", len(c.Entries), "blocks", len(blocks))
	return nil
}

// knownBlocks are the own blocks as the kernel and the local copy know them.
// In the same boot the kernel's blackholes are up to date; after a reboot the
// copy is what there is, if it was written when blocks were known.
func (a *Agent) knownBlocks(c localcopy.Copy) []cluster.Block {
	routes, err := a.kernel.Routes(context.Background(), kernel.Filter{})
	if err != nil {
		a.log.Warn("routes not read: own blocks are those of the local copy", "error", err)
	}
	blocks := core.BlocksFromRoutes(a.feed.Snapshot(), routes)
	if len(blocks) == 0 {
		blocks = c.Blocks
	}
	if len(blocks) > 0 {
		a.feed.SetBlocks(blocks)
	}
	return blocks
}

// wantCopy asks for the local copy to be written; it never blocks.
func (r *resources) wantCopy() {
	select {
	case r.save <- struct{}{}:
	default:
	}
}

// copyInterval is the least time between two writes of the local copy,
// copyRetry after one that failed.
const (
	copyInterval = 200 * time.Millisecond
	copyRetry    = 2 * time.Second
)

// keepCopy writes the local copy when asked to, and at the end what was asked
// for last.
func (r *resources) keepCopy(ctx context.Context) {
	failing := false
	wait := copyInterval
	for alive := true; alive; alive = sleep(ctx, wait) {
		wait = copyInterval
		select {
		case <-ctx.Done():
			alive = false
		case <-r.save:
			if failing = r.writeCopy(failing); failing {
				r.wantCopy()
				wait = copyRetry
			}
		}
	}
	select {
	case <-r.save:
		r.writeCopy(failing)
	default:
	}
}

func (r *resources) writeCopy(failing bool) bool {
	err := localcopy.Write(r.agent.localCopyPath(), r.copy())
	r.mu.Lock()
	r.unsaved = err
	r.mu.Unlock()
	if (err != nil) != failing {
		r.agent.loop.Mark(sectionStatus)
	}
	if err != nil && !failing {
		r.agent.log.Warn("local copy of the datastore not written: a restart without the datastore would start from an older one", "error", err)
	}
	return err != nil
}

func (r *resources) copy() localcopy.Copy {
	snap := r.agent.feed.Snapshot()
	c := localcopy.Copy{Node: string(r.agent.cfg.Node), Blocks: snap.Blocks, PastPools: snap.PastPools}
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, e := range r.believed {
		c.Entries = append(c.Entries, localcopy.Entry{Kind: key.Kind, Name: key.Name, Value: e.Value})
	}
	return c
}

// pools are all pools for IPAM, each with why this node takes no addresses
// from it.
func (a *Agent) pools(context.Context) ([]cluster.Pool, error) {
	snap := a.feed.Snapshot()
	if !snap.StoreSynced {
		return nil, fault.New(fault.Unavailable, "the pools are not known yet")
	}
	return core.JudgedPools(snap), nil
}

// reservations are the ranges that pods only get by asking for an address.
func (a *Agent) reservations(context.Context) ([]netip.Prefix, error) {
	return a.feed.Snapshot().Reserved, nil
}

// nodeLabels are the labels of a node, for the pools' node selectors.
func (a *Agent) nodeLabels(_ context.Context, node string) (map[string]string, error) {
	n, ok := a.feed.Snapshot().Nodes[cluster.NodeName(node)]
	if !ok {
		return nil, fault.New(fault.NotFound, "node %s is not known", node)
	}
	return n.Labels, nil
}

// ownBlocks takes over the blocks IPAM has for this node.
func (a *Agent) ownBlocks(blocks []cluster.Block) {
	a.blocks.Lock()
	defer a.blocks.Unlock()
	a.blocksTold = true
	a.setBlocks(blocks)
}

func (a *Agent) setBlocks(blocks []cluster.Block) {
	a.feed.SetBlocks(blocks)
	a.resources.wantCopy()
}
