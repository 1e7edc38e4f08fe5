// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/mem"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// shortLease are times a thousand times shorter than the default ones.
var shortLease = ipam.Times{Lease: 2 * time.Second, Reclaim: 4 * time.Second, Beat: 400 * time.Millisecond, Takeover: time.Second}

// severed is a node's way to the datastore: cut off every call fails, frozen
// every call, and every answer, waits for the end of it.
type severed struct {
	store.Store
	mu     sync.Mutex
	cut    bool
	thawed chan struct{} // nil while not frozen
}

func (s *severed) set(cut bool, thawed chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut, s.thawed = cut, thawed
}

// pass waits while frozen; it fails while cut off.
func (s *severed) pass() error {
	s.mu.Lock()
	cut, thawed := s.cut, s.thawed
	s.mu.Unlock()
	if thawed != nil {
		<-thawed
	}
	if cut {
		return fault.New(fault.Unavailable, "cut off")
	}
	return nil
}

// Get reads one object.
func (s *severed) Get(ctx context.Context, key store.Key) (store.Entry, error) {
	if err := s.pass(); err != nil {
		return store.Entry{}, err
	}
	defer func() { _ = s.pass() }()
	return s.Store.Get(ctx, key)
}

// List reads the objects of a kind.
func (s *severed) List(ctx context.Context, kind store.Kind, prefix string) ([]store.Entry, store.Revision, error) {
	if err := s.pass(); err != nil {
		return nil, 0, err
	}
	defer func() { _ = s.pass() }()
	return s.Store.List(ctx, kind, prefix)
}

// Put writes an object.
func (s *severed) Put(ctx context.Context, key store.Key, value []byte, prev store.Revision) (store.Revision, error) {
	if err := s.pass(); err != nil {
		return 0, err
	}
	defer func() { _ = s.pass() }()
	return s.Store.Put(ctx, key, value, prev)
}

// Delete removes an object.
func (s *severed) Delete(ctx context.Context, key store.Key, prev store.Revision) error {
	if err := s.pass(); err != nil {
		return err
	}
	defer func() { _ = s.pass() }()
	return s.Store.Delete(ctx, key, prev)
}

// leaseRun is nodes with a short lease, of which some are always away.
type leaseRun struct {
	t     *testing.T
	base  *mem.Store
	pool  cluster.Pool
	times ipam.Times // of the nodes
	start time.Time

	mu       sync.Mutex
	owners   map[netip.Addr]string // pods that run, of nodes that nobody declared dead
	problems []string
	tally    struct{ given, away, givenAway, refused int }
}

// node is one of them.
type leaseNode struct {
	*leaseRun
	name    string
	rng     *rand.Rand
	link    *severed
	reserve *ipam.Reserve
	pods    map[string]netip.Addr
	deleted bool // its Node is
	away    bool
	n       int
}

func (l *leaseRun) client(s store.Store) *ipam.Client {
	return ipam.NewClient(ipam.ClientConfig{
		Store:      s,
		Pools:      func(context.Context) ([]cluster.Pool, error) { return []cluster.Pool{l.pool}, nil },
		NodeLabels: func(context.Context, string) (map[string]string, error) { return nil, nil },
	})
}

// runLeases lets four nodes give addresses for a virtual hour while they are
// frozen, cut off and deleted, and a collector reclaims.
func runLeases(t *testing.T, seed uint64, times ipam.Times, d time.Duration) (run *leaseRun) {
	synctest.Test(t, func(t *testing.T) {
		run = &leaseRun{
			t: t, base: mem.New(), times: times, start: time.Now(), owners: map[netip.Addr]string{},
			pool: cluster.Pool{Name: "p", CIDR: netip.MustParsePrefix("10.0.0.0/27"), BlockSize: 29},
		}
		ctx, cancel := context.WithCancel(t.Context())
		var background, nodes sync.WaitGroup
		k := ipam.NewCollector(ipam.CollectorConfig{Client: run.client(run.base), Node: "k", Session: "k/1", Times: shortLease, Log: slog.New(slog.DiscardHandler)})
		background.Go(func() { _ = k.Run(ctx) })
		for i := range 4 {
			n := &leaseNode{
				leaseRun: run, name: fmt.Sprint("n", i), rng: rand.New(rand.NewPCG(seed, uint64(i))),
				link: &severed{Store: run.base}, pods: map[string]netip.Addr{},
			}
			n.register()
			n.reserve = ipam.NewReserve(ipam.ReserveConfig{
				Client: run.client(n.link), Node: n.name, InstanceUID: "uid-" + n.name, BootID: "b", Size: 2, Times: times,
				Boottime: func() time.Duration { return time.Since(run.start) }, Log: slog.New(slog.DiscardHandler),
			})
			n.reserve.Adopt(nil)
			background.Go(func() { _ = n.reserve.Run(ctx) })
			nodes.Go(func() { n.live(d) })
		}
		nodes.Wait()
		cancel()
		background.Wait()
	})
	return run
}

func (n *leaseNode) register() {
	if _, err := n.base.Put(n.t.Context(), store.Key{Kind: store.Node, Name: n.name}, []byte("{}"), store.AnyRevision); err != nil {
		n.t.Error(err)
	}
}

// live starts and ends pods, and is away now and then.
func (n *leaseNode) live(d time.Duration) {
	for time.Since(n.start) < d {
		time.Sleep(time.Duration(n.rng.IntN(200)) * time.Millisecond)
		if n.rng.IntN(60) == 0 {
			n.leave()
			continue
		}
		n.act()
	}
}

// act starts a pod or ends one.
func (n *leaseNode) act() {
	if len(n.pods) < 4 && n.rng.IntN(2) == 0 {
		n.add()
		return
	}
	for _, handle := range slices.Sorted(maps.Keys(n.pods))[:min(1, len(n.pods))] {
		addr := n.pods[handle]
		n.mu.Lock()
		if n.owners[addr] == handle {
			delete(n.owners, addr)
		}
		n.mu.Unlock()
		delete(n.pods, handle)
		n.reserve.Release(handle, addr, nil)
	}
}

// leave cuts the node off or freezes it for one to ten seconds; its Node may
// be deleted meanwhile, which declares its pods dead.
func (n *leaseNode) leave() {
	frozen, thawed := n.rng.IntN(2) == 0, make(chan struct{})
	if frozen {
		n.link.set(false, thawed)
	} else {
		n.link.set(true, nil)
	}
	n.away = true
	n.mu.Lock()
	n.tally.away++
	n.mu.Unlock()
	if n.deleted = n.rng.IntN(2) == 0; n.deleted {
		n.declareDead()
	}
	end := time.Now().Add(time.Second + time.Duration(n.rng.IntN(9000))*time.Millisecond)
	for time.Now().Before(end) {
		time.Sleep(min(time.Until(end), time.Duration(n.rng.IntN(400))*time.Millisecond))
		if !frozen && time.Now().Before(end) {
			n.add()
		}
	}
	if n.rng.IntN(2) == 0 {
		n.add() // before it notices anything
	}
	n.link.set(false, nil)
	close(thawed)
	n.away = false
	if n.deleted {
		n.declareDead()
		n.deleted = false
		n.register()
	}
}

// declareDead deletes the Node: addresses of its pods may be given to others
// once its lease is over.
func (n *leaseNode) declareDead() {
	_ = n.base.Delete(n.t.Context(), store.Key{Kind: store.Node, Name: n.name}, store.AnyRevision)
	n.mu.Lock()
	defer n.mu.Unlock()
	for handle, addr := range n.pods {
		if n.owners[addr] == handle {
			delete(n.owners, addr)
		}
	}
}

// add starts a pod. Its address must be this node's in the datastore, and no
// running pod's.
func (n *leaseNode) add() {
	n.n++
	handle := fmt.Sprint(n.name, "-", n.n)
	ctx, cancel := context.WithTimeout(n.t.Context(), 100*time.Millisecond)
	defer cancel()
	addr, err := n.reserve.Take(ctx, ipam.Claim{Handle: handle})
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil {
		n.tally.refused++
		return
	}
	n.tally.given++
	if n.away {
		n.tally.givenAway++
	}
	who, err := n.client(n.base).Holder(n.t.Context(), addr)
	if err != nil || who.Secondary[alloc.AttrInstance] != "uid-"+n.name {
		n.problems = append(n.problems, fmt.Sprintf("%s gave %s at %v, which the datastore calls %v, %v", n.name, addr, time.Since(n.start), who, err))
	}
	if other, twice := n.owners[addr]; twice {
		n.problems = append(n.problems, fmt.Sprintf("%s was given to %s at %v, %s holds it", addr, handle, time.Since(n.start), other))
	}
	if !n.deleted {
		n.owners[addr] = handle
	}
	n.pods[handle] = addr
}

// TestLeaseUnderFreezes freezes and cuts off nodes for longer than the lease
// and the time after which their addresses are reclaimed.
func TestLeaseUnderFreezes(t *testing.T) {
	rows := []*chaos.Record{
		chaos.Begin(t, "B5", "lease 2 s, reclaim 4 s, nodes cut off or frozen 1-10 s at random", "ADDs served while the lease holds, 0 duplicates"),
		chaos.Begin(t, "B12", "lease 2 s, reclaim 4 s, nodes cut off or frozen 1-10 s, half of them deleted meanwhile", "0 duplicates"),
	}
	seed := chaos.Seed(t)
	d := time.Duration(chaos.Scale(8, 600)) * time.Minute
	run := runLeases(t, seed, shortLease, d)
	for _, p := range run.problems[:min(len(run.problems), 10)] {
		t.Errorf("seed %d: %s", seed, p)
	}
	off := shortLease
	off.Lease, off.Reclaim = 24*time.Hour, 48*time.Hour
	twin := runLeases(t, seed, off, 5*time.Minute)
	if len(twin.problems) == 0 {
		t.Errorf("seed %d: without lease no duplicate was seen", seed)
	}
	for _, r := range rows {
		r.Measuredf("%d duplicates in %d addresses given in %s of virtual time, %d of them while away; %d times away, seed %d",
			len(run.problems), run.tally.given, d, run.tally.givenAway, run.tally.away, seed)
		r.Twinf("lease never ends: %d given that were no longer the node's, in %d", len(twin.problems), twin.tally.given)
	}
	t.Log(rows[0].Measured)
}
