// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// Numbers of the race.
const (
	racers   = 50
	reserved = 12               // of them, those with a reserve
	podsEach = 2                // addresses a node holds at once
	patience = 10 * time.Second // of one attempt
	killing  = 2500 * time.Millisecond
)

// race is nodes that assign and release addresses of one pool.
type race struct {
	t         *testing.T
	pool      cluster.Pool
	racers    int // nodes
	reserves  int // of them, those with a reserve
	history   *history
	want      int64         // allocations
	limit     time.Duration // after which it ends without them
	done      atomic.Int64
	attempts  atomic.Int64
	completed atomic.Int64
	stuck     atomic.Int64 // releases that never came through
}

// racer is one node of the race.
type racer struct {
	*race
	id      int
	node    string
	rng     *rand.Rand
	client  *ipam.Client
	reserve *ipam.Reserve // nil: the node writes each assignment
	held    []holding
	n       int
}

func newRace(t *testing.T, want int) *race {
	return &race{
		t: t, history: newHistory(), want: int64(want), racers: racers, reserves: reserved, limit: time.Duration(chaos.Scale(40, 3600)) * time.Second,
		pool: cluster.Pool{Name: "race", CIDR: netip.MustParsePrefix("10.9.0.0/24"), BlockSize: 29},
	}
}

func (r *race) client(s store.Store) *ipam.Client {
	return ipam.NewClient(ipam.ClientConfig{
		Store:      s,
		Pools:      func(context.Context) ([]cluster.Pool, error) { return []cluster.Pool{r.pool}, nil },
		NodeLabels: func(context.Context, string) (map[string]string, error) { return nil, nil },
		Borrow:     true,
	})
}

// run lets nodes race, each on a datastore client of its own, until there
// were enough allocations.
func (r *race) run(seed uint64, open func() store.Store) (took time.Duration) {
	ctx, stop := context.WithCancel(context.Background())
	var all, background sync.WaitGroup
	for i := range r.racers {
		n := &racer{race: r, id: i, node: fmt.Sprint("n", i), rng: rand.New(rand.NewPCG(seed, uint64(i))), client: r.client(open())}
		if i < r.reserves {
			n.reserve = ipam.NewReserve(ipam.ReserveConfig{
				Client: n.client, Node: n.node, InstanceUID: fmt.Sprint("uid-", i), BootID: "boot", Size: 2, Log: slog.New(slog.DiscardHandler),
			})
			n.reserve.Adopt(nil)
			background.Go(func() { _ = n.reserve.Run(ctx) })
		}
		if _, err := n.client.EnsureBlock(ctx, n.node, 4); err != nil && i < r.reserves {
			r.t.Errorf("first block of %s: %v", n.node, err)
		}
		all.Go(func() { n.work(ctx) })
	}
	begin := time.Now()
	all.Wait()
	took = time.Since(begin)
	stop()
	background.Wait()
	return took
}

// work assigns and releases until the race is over, then releases the rest.
func (n *racer) work(ctx context.Context) {
	for n.done.Load() < n.want && n.history.now() < int64(n.limit) {
		if len(n.held) < podsEach && n.rng.IntN(3) > 0 || len(n.held) == 0 {
			n.assign(ctx)
		} else {
			n.drop(ctx, n.rng.IntN(len(n.held)))
		}
		if n.reserve == nil && n.rng.IntN(100) == 0 {
			_ = n.client.ReleaseHostAffinities(ctx, n.node, n.rng.IntN(2) == 0)
		}
	}
	for len(n.held) > 0 {
		n.drop(ctx, 0)
	}
}

// assign is one ADD with the retries of a runtime; one that ran out of
// patience is followed by a DEL.
func (n *racer) assign(ctx context.Context) {
	n.n++
	n.attempts.Add(1)
	handle := fmt.Sprintf("pod-%d-%d", n.id, n.n)
	try, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := n.history.now()
	for {
		addr, err := n.ask(try, handle)
		if err == nil {
			n.history.note(n.id, holding{addr, handle, false}, began)
			n.held = append(n.held, holding{addr: addr, handle: handle})
			n.completed.Add(1)
			n.done.Add(1)
			return
		}
		if !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.Exhausted) {
			n.t.Errorf("assign to %s: %v", handle, err)
		}
		if pause(try, 50*time.Millisecond) != nil {
			n.t.Logf("assign to %s: given up: %v", handle, err)
			n.free(ctx, handle, netip.Addr{})
			return
		}
	}
}

// ask asks once for an address.
func (n *racer) ask(ctx context.Context, handle string) (netip.Addr, error) {
	if n.reserve != nil {
		return n.reserve.Take(ctx, ipam.Claim{Handle: handle})
	}
	got, err := n.client.AutoAssign(ctx, ipam.AssignRequest{Node: n.node, Handle: handle, Use: ipam.Workload, Family: 4, Num: 1, MaxPerHandle: 1})
	if len(got) == 0 {
		if err == nil {
			err = fault.New(fault.Unavailable, "no address and no error")
		}
		return netip.Addr{}, err
	}
	return got[0], nil
}

// drop releases one of the node's addresses.
func (n *racer) drop(ctx context.Context, i int) {
	h := n.held[i]
	n.held = append(n.held[:i:i], n.held[i+1:]...)
	began := n.history.now()
	n.free(ctx, h.handle, h.addr)
	h.release = true
	n.history.note(n.id, h, began)
}

// free releases a handle and tries again until that was answered.
func (n *racer) free(ctx context.Context, handle string, addr netip.Addr) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if n.reserve != nil && addr.IsValid() {
		released := make(chan struct{})
		n.reserve.Release(handle, addr, func() { close(released) })
		select {
		case <-released:
		case <-ctx.Done():
			n.stuck.Add(1)
		}
		return
	}
	for {
		err := n.client.ReleaseByHandle(ctx, handle)
		if err == nil || fault.Is(err, fault.NotFound) {
			return
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			n.stuck.Add(1)
			return
		}
	}
}

// sweep releases what the reserves held ready and all blocks, and lists what
// is left then.
func (r *race) sweep(s store.Store) (left []string) {
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	c := r.client(s)
	for i := range r.racers {
		if err := c.ReleaseByHandle(ctx, names.ReserveHandle(fmt.Sprint("uid-", i))); err != nil && !fault.Is(err, fault.NotFound) {
			left = append(left, err.Error())
		}
	}
	uses, err := c.Utilization(ctx)
	if err != nil || uses[0].InUse > 0 {
		left = append(left, fmt.Sprintf("in use: %+v, %v", uses, err))
	}
	for i := range r.racers {
		if err := c.RemoveHost(ctx, fmt.Sprint("n", i)); err != nil {
			left = append(left, err.Error())
		}
	}
	for _, kind := range []store.Kind{store.Handle, store.Block, store.Affinity} {
		entries, _, err := s.List(ctx, kind, "")
		if err != nil {
			left = append(left, err.Error())
		}
		for _, e := range entries {
			left = append(left, fmt.Sprintf("%s: %s", e.Key, e.Value))
		}
	}
	return left
}

// TestRaceOnDyingEtcd races fifty nodes for one small pool while etcd is
// killed every 2.5 seconds.
func TestRaceOnDyingEtcd(t *testing.T) {
	rows := []*chaos.Record{
		chaos.Begin(t, "B1", "50 nodes, 256 addresses, real etcd; history checked by porcupine", "0 duplicates, 0 leaks"),
		chaos.Begin(t, "B2", "the same, etcd killed every 2.5 s; history checked by porcupine", "0 duplicates, 0 leaks, at least 95 % of attempts completing"),
	}
	first := chaos.Seed(t)
	all := 0
	for round := range chaos.Scale(1, 10) {
		seed := first + uint64(round)
		var r *race
		var kills int64
		var took time.Duration
		t.Run(fmt.Sprint("race ", round+1), func(t *testing.T) { r, kills, took = raceOnDyingEtcd(t, seed) })
		if t.Failed() {
			return
		}
		if r == nil {
			continue // another was asked for by -run
		}
		all += int(r.completed.Load())
		share := 100 * float64(r.completed.Load()) / float64(r.attempts.Load())
		for _, row := range rows {
			row.Measuredf("0 duplicates and 0 leaks in %d allocations, %d operations, %d kills, seed %d; %.2f %% of %d attempts completed, %.0f allocations/s",
				r.completed.Load(), len(r.history.ops), kills, seed, share, r.attempts.Load(), float64(r.completed.Load())/took.Seconds())
		}
		t.Logf("%d allocations in %v, %d kills, %.2f %% of attempts, seed %d", r.completed.Load(), took, kills, share, seed)
	}
	for _, row := range rows {
		row.Measuredf("%d allocations in sum", all)
	}
}

// raceOnDyingEtcd is one race. What it leaves behind or gives twice fails t.
func raceOnDyingEtcd(t *testing.T, seed uint64) (r *race, kills int64, took time.Duration) {
	t.Helper()
	etcd := startEtcd(t, 1)
	r = newRace(t, chaos.Scale(10_000, 100_000))
	killed, stop := etcd.torment()
	took = r.run(seed, func() store.Store { return etcd.connect(etcd.urls()...) })
	stop()
	if got := r.history.linearizable(); got != porcupine.Ok {
		t.Errorf("seed %d: the history of addresses is %s", seed, got)
	}
	for _, l := range r.sweep(etcd.connect(etcd.urls()...)) {
		t.Errorf("seed %d: left: %s", seed, l)
	}
	share := 100 * float64(r.completed.Load()) / float64(r.attempts.Load())
	if share < 95 || r.stuck.Load() > 0 {
		t.Errorf("seed %d: %.1f %% of attempts completed, %d releases stuck", seed, share, r.stuck.Load())
	}
	return r, killed.Load(), took
}

// torment kills the first member when it has served for 2.5 s, again and again.
func (c *etcdCluster) torment() (kills *atomic.Int64, stop func()) {
	kills = new(atomic.Int64)
	ctx, cancel := context.WithCancel(context.Background())
	again := grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1, MaxDelay: 50 * time.Millisecond}})
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{c.members[0].client}, Logger: zap.NewNop(), DialOptions: []grpc.DialOption{again}})
	if err != nil {
		c.t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for pause(ctx, killing) == nil {
			c.members[0].kill()
			kills.Add(1)
			if err := c.members[0].start(); err != nil {
				c.t.Errorf("start etcd again: %v", err)
				return
			}
			forget(ctx, client)
		}
	})
	return kills, func() { cancel(); running.Wait(); _ = client.Close() }
}

// forget waits until etcd serves and drops its history but for the last 1,000
// revisions: it would read all of it at every start, in the end longer than it
// is let live.
func forget(ctx context.Context, client *clientv3.Client) {
	for ctx.Err() == nil {
		once, cancel := context.WithTimeout(ctx, time.Second)
		now, err := client.Get(once, "/")
		if err == nil && now.Header.Revision > 1000 {
			_, err = client.Compact(once, now.Header.Revision-1000)
		}
		cancel()
		if err == nil || errors.Is(err, rpctypes.ErrCompacted) {
			return
		}
		_ = pause(ctx, 10*time.Millisecond)
	}
}

// blind is a datastore client with a fault: now and then it writes a block
// without comparing, over what somebody else wrote.
type blind struct {
	store.Store
	rng *rand.Rand
	mu  *sync.Mutex
}

// Put writes an object.
func (b blind) Put(ctx context.Context, key store.Key, value []byte, prev store.Revision) (store.Revision, error) {
	b.mu.Lock()
	unseeing := key.Kind == store.Block && b.rng.IntN(20) == 0
	b.mu.Unlock()
	if unseeing {
		prev = store.AnyRevision
	}
	return b.Store.Put(ctx, key, value, prev)
}

// TestHistoryShowsLostUpdates is the race with clients that write blindly.
func TestHistoryShowsLostUpdates(t *testing.T) {
	row := chaos.Begin(t, "B1", "the race with clients that write a block in 20 without comparing", "the checker sees it")
	seed := chaos.Seed(t)
	etcd := startEtcd(t, 1)
	r := newRace(t, 500)
	r.pool = cluster.Pool{Name: "race", CIDR: netip.MustParsePrefix("10.9.0.0/25"), BlockSize: 25} // one block, for all
	r.racers, r.reserves = 12, 0
	rng, mu := rand.New(rand.NewPCG(seed, 99)), new(sync.Mutex)
	r.run(seed, func() store.Store { return blind{etcd.connect(etcd.urls()...), rng, mu} })
	got := r.history.linearizable()
	if got != porcupine.Illegal {
		t.Errorf("seed %d: the history is %s", seed, got)
	}
	row.Twinf("history %s after %d allocations, seed %d", got, r.completed.Load(), seed)
}
