// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/mem"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// counted is a store that counts what is asked of it.
type counted struct {
	store.Store
	mu     sync.Mutex
	calls  map[string]int // "put IPAMBlock": times
	writes int
	bytes  int // of values, both ways
}

func newCounted(s store.Store) *counted { return &counted{Store: s, calls: map[string]int{}} }

func (c *counted) count(op string, kind store.Kind, bytes int, write bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[op+" "+string(kind)]++
	c.bytes += bytes
	if write {
		c.writes++
	}
}

// reset forgets what was counted.
func (c *counted) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls, c.writes, c.bytes = map[string]int{}, 0, 0
}

// String lists the calls.
func (c *counted) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	for what, n := range c.calls {
		all = append(all, fmt.Sprintf("%d %s", n, what))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// Get reads one object.
func (c *counted) Get(ctx context.Context, key store.Key) (store.Entry, error) {
	e, err := c.Store.Get(ctx, key)
	c.count("get", key.Kind, len(e.Value), false)
	return e, err
}

// List reads the objects of a kind.
func (c *counted) List(ctx context.Context, kind store.Kind, prefix string) ([]store.Entry, store.Revision, error) {
	all, rev, err := c.Store.List(ctx, kind, prefix)
	n := 0
	for _, e := range all {
		n += len(e.Value)
	}
	op := "list"
	if prefix != "" {
		op = "search"
	}
	c.count(op, kind, n, false)
	return all, rev, err
}

// Put writes an object.
func (c *counted) Put(ctx context.Context, key store.Key, value []byte, prev store.Revision) (store.Revision, error) {
	c.count("put", key.Kind, len(value), true)
	return c.Store.Put(ctx, key, value, prev)
}

// Delete removes an object.
func (c *counted) Delete(ctx context.Context, key store.Key, prev store.Revision) error {
	c.count("delete", key.Kind, 0, true)
	return c.Store.Delete(ctx, key, prev)
}

// Commit carries out all writes as one.
func (c *counted) Commit(ctx context.Context, writes []store.Write) error {
	t, ok := c.Store.(interface {
		Commit(ctx context.Context, writes []store.Write) error
	})
	if !ok {
		return errors.ErrUnsupported
	}
	bytes := 0
	for _, w := range writes {
		bytes += len(w.Value)
	}
	c.count("commit", writes[len(writes)-1].Key.Kind, bytes, true)
	return t.Commit(ctx, writes)
}

// largePool has 65,536 blocks.
var largePool = cluster.Pool{Name: "large", CIDR: netip.MustParsePrefix("10.0.0.0/10"), BlockSize: 26}

func largeClient(s store.Store) *ipam.Client {
	return ipam.NewClient(ipam.ClientConfig{
		Store:      s,
		Pools:      func(context.Context) ([]cluster.Pool, error) { return []cluster.Pool{largePool}, nil },
		NodeLabels: func(context.Context, string) (map[string]string, error) { return nil, nil },
	})
}

// populate adds the blocks from up to to of the pool, each with the affinity
// of a node of its own.
func populate(tb testing.TB, s store.Store, from, to int) {
	tb.Helper()
	var all sync.WaitGroup
	for worker := range 32 {
		all.Go(func() {
			for i := from + worker; i < to; i += 32 {
				p := cidr.BlockAt(largePool.CIDR, largePool.BlockSize, big.NewInt(int64(i*6+1)))
				node := fmt.Sprint("other-", i)
				block, err := alloc.NewBlock(p, node, time.Now(), 1).Encode()
				if err == nil {
					_, err = s.Put(tb.Context(), store.Key{Kind: store.Block, Name: names.Block(p)}, block, 0)
				}
				if err == nil {
					_, err = s.Put(tb.Context(), store.Key{Kind: store.Affinity, Name: names.Affinity(node, p)}, []byte(`{"state":"confirmed"}`), 0)
				}
				if err != nil {
					tb.Errorf("block %s: %v", p, err)
					return
				}
			}
		})
	}
	all.Wait()
}

// cost is what one claim and one release of a block ask of the datastore.
type cost struct {
	claim, release             string
	claimWrites, releaseWrites int
	bytes                      int
}

func costOf(t *testing.T, s store.Store, node string) (c cost) {
	t.Helper()
	counting := newCounted(s)
	client := largeClient(counting)
	if _, err := client.EnsureBlock(t.Context(), node, 4); err != nil {
		t.Fatal(err)
	}
	c.claim, c.claimWrites, c.bytes = counting.String(), counting.writes, counting.bytes
	counting.reset()
	if err := client.ReleaseHostAffinities(t.Context(), node, true); err != nil {
		t.Fatal(err)
	}
	c.release, c.releaseWrites = counting.String(), counting.writes
	c.bytes += counting.bytes
	return c
}

// TestCostOfBlocks counts what a block's claim and release cost beside few
// and many other blocks, and on a real etcd how long they take.
func TestCostOfBlocks(t *testing.T) {
	row := chaos.Begin(t, "B21", "a block claimed and released beside 10 and 10,000 others, on etcd", "1 transaction each, without transactions at most 3 writes, no list of all blocks, the same calls and bytes, time flat")
	s := mem.New()
	populate(t, s, 0, 10)
	few := costOf(t, s, "n1")
	populate(t, s, 10, 10_000)
	many := costOf(t, s, "n1")
	if few != many {
		t.Errorf("beside 10 blocks: %+v\nbeside 10,000:   %+v", few, many)
	}
	if many.claimWrites != 1 || many.releaseWrites != 1 {
		t.Errorf("claim %d writes (%s), release %d (%s), want 1 each", many.claimWrites, many.claim, many.releaseWrites, many.release)
	}
	ordered := costOf(t, struct{ store.Store }{s}, "n1")
	if ordered.claimWrites > 3 || ordered.releaseWrites > 3 {
		t.Errorf("without transactions: claim %d writes (%s), release %d (%s)", ordered.claimWrites, ordered.claim, ordered.releaseWrites, ordered.release)
	}
	if strings.Contains(many.claim+many.release+ordered.claim+ordered.release, "list "+string(store.Block)) {
		t.Errorf("all blocks are listed: %s; %s", many.claim, many.release)
	}
	etcd := startEtcd(t, 1)
	onEtcd := etcd.connect(etcd.urls()...)
	populate(t, onEtcd, 0, 10)
	fast := medianClaim(t, onEtcd)
	apart := medianClaim(t, struct{ store.Store }{onEtcd})
	populate(t, onEtcd, 10, 10_000)
	slow := medianClaim(t, onEtcd)
	if slow > 3*fast+2*time.Millisecond {
		t.Errorf("claim and release: %v beside 10 blocks, %v beside 10,000", fast, slow)
	}
	row.Measuredf("claim: %s; release: %s; %d bytes; equal beside 10 and 10,000 blocks", many.claim, many.release, many.bytes)
	row.Measuredf("claim and release %v beside 10, %v beside 10,000 blocks (median)", fast.Round(10*time.Microsecond), slow.Round(10*time.Microsecond))
	row.Measuredf("without transactions %d and %d writes, %v beside 10", ordered.claimWrites, ordered.releaseWrites, apart.Round(10*time.Microsecond))
	t.Log(row.Measured)
}

// medianClaim is how long it takes to claim a block and release it.
func medianClaim(tb testing.TB, s store.Store) time.Duration {
	tb.Helper()
	c := largeClient(s)
	var all []time.Duration
	for range 31 {
		begin := time.Now()
		claimAndRelease(tb, c)
		all = append(all, time.Since(begin))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

func claimAndRelease(tb testing.TB, c *ipam.Client) {
	if _, err := c.EnsureBlock(tb.Context(), "n1", 4); err != nil {
		tb.Fatal(err)
	}
	if err := c.ReleaseHostAffinities(tb.Context(), "n1", true); err != nil {
		tb.Fatal(err)
	}
}

// BenchmarkClaimAndRelease claims and releases a block on a real etcd that
// holds others.
func BenchmarkClaimAndRelease(b *testing.B) {
	for _, blocks := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprint("blocks-", blocks), func(b *testing.B) {
			etcd := startEtcd(b, 1)
			s := etcd.connect(etcd.urls()...)
			populate(b, s, 0, blocks)
			c := largeClient(s)
			for b.Loop() {
				claimAndRelease(b, c)
			}
		})
	}
}

// TestCostOfAddresses counts what a burst of ADDs writes beside 10,000 blocks
// of others: the block once and each handle once.
func TestCostOfAddresses(t *testing.T) {
	row := chaos.Begin(t, "B22", "8 ADDs at once from the reserve, beside 10,000 blocks of others", "1 write of the block, 1 of each handle, no list of blocks")
	synctest.Test(t, func(t *testing.T) {
		s := mem.New()
		populate(t, s, 0, 10_000)
		counting := newCounted(s)
		r := ipam.NewReserve(ipam.ReserveConfig{
			Client: largeClient(counting), Node: "n1", InstanceUID: "uid", BootID: "boot", Size: 16, Log: slog.New(slog.DiscardHandler),
		})
		r.Adopt(nil)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = r.Run(ctx) })
		time.Sleep(time.Second)
		synctest.Wait()
		counting.reset()
		const n = 8
		for i := range n {
			if _, err := r.Take(ctx, ipam.Claim{Handle: fmt.Sprint("pod-", i)}); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		calls := counting.String()
		if counting.calls["put IPAMBlock"] > 1 || counting.calls["put IPAMHandle"] > n+1 || strings.Contains(calls, "list") {
			t.Errorf("%d ADDs: %s", n, calls)
		}
		row.Measuredf("%d ADDs: %s", n, calls)
		t.Log(calls)
		cancel()
		running.Wait()
	})
}
