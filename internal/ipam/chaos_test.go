// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/mem"
	record "github.com/ocicat-net/ocicat/test/chaos"
)

// chaos is a datastore as a bad network shows it: every call takes its time,
// answers get lost, and writes whose sender gave up arrive later, or not at
// all. It runs in a synctest bubble.
type chaos struct {
	store.Store
	mu      sync.Mutex
	rng     *rand.Rand
	calm    bool // no more faults
	down    bool // refuses everything
	late    sync.WaitGroup
	commits bool   // has transactions
	fates   [4]int // how often each fate struck, for the log
}

func newChaos(inner store.Store, rng *rand.Rand) *chaos {
	return &chaos{Store: inner, rng: rng, commits: rng.IntN(2) == 0}
}

// roll draws what becomes of a call.
func (c *chaos) roll() (before, after time.Duration, fate int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, after = time.Duration(c.rng.IntN(3000))*time.Microsecond, time.Duration(c.rng.IntN(3000))*time.Microsecond
	if !c.calm && c.rng.IntN(4) == 0 {
		fate = 1 + c.rng.IntN(3)
	}
	if c.down {
		fate = refused
	}
	if fate < len(c.fates) {
		c.fates[fate]++
	}
	return before, after, fate
}

// The fates of a call.
const (
	fine     = iota
	answered // happens, the answer is lost
	delayed  // happens seconds later
	dropped  // never happens, nobody knows
	refused  // never happens, and that is known
)

func (c *chaos) set(calm, down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calm, c.down = calm, down
}

func (c *chaos) Get(ctx context.Context, key store.Key) (store.Entry, error) {
	if err := c.read(ctx); err != nil {
		return store.Entry{}, err
	}
	return c.Store.Get(ctx, key)
}

func (c *chaos) List(ctx context.Context, kind store.Kind, prefix string) ([]store.Entry, store.Revision, error) {
	if err := c.read(ctx); err != nil {
		return nil, 0, err
	}
	return c.Store.List(ctx, kind, prefix)
}

func (c *chaos) read(ctx context.Context) error {
	before, _, fate := c.roll()
	if err := nap(ctx, before); err != nil || fate == refused {
		return fault.New(fault.Unavailable, "chaos")
	}
	return nil
}

func (c *chaos) Put(ctx context.Context, key store.Key, value []byte, prev store.Revision) (store.Revision, error) {
	value = slices.Clone(value)
	written := make(chan store.Revision, 1)
	err := c.write(ctx, func() error {
		rev, err := c.Store.Put(context.Background(), key, value, prev)
		if err == nil {
			written <- rev
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	return <-written, nil
}

func (c *chaos) Delete(ctx context.Context, key store.Key, prev store.Revision) error {
	return c.write(ctx, func() error { return c.Store.Delete(context.Background(), key, prev) })
}

func (c *chaos) Commit(ctx context.Context, writes []store.Write) error {
	if !c.commits {
		return errors.ErrUnsupported
	}
	return c.write(ctx, func() error { return c.Store.(*mem.Store).Commit(context.Background(), writes) })
}

func (c *chaos) write(ctx context.Context, do func() error) error {
	unknown := fault.New(fault.Unavailable, "chaos: %w", store.ErrAmbiguous)
	before, after, fate := c.roll()
	if nap(ctx, before) != nil || fate == refused {
		return fault.New(fault.Unavailable, "chaos")
	}
	switch fate {
	case dropped:
		return unknown
	case delayed:
		c.late.Go(func() {
			time.Sleep(after * 1000)
			_ = do()
		})
		return unknown
	}
	err := do()
	if nap(ctx, after) != nil || fate == answered {
		return unknown
	}
	return err
}

func nap(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// audit checks what must hold of the stored objects at every moment at which
// no write is under way.
func audit(ctx context.Context, s store.Store) (problems []string) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	handles := map[string]*alloc.Handle{}
	entries, _, _ := s.List(ctx, store.Handle, "")
	for _, e := range entries {
		h, err := alloc.ParseHandle(e.Value)
		if err != nil {
			bad("%s: %v", e.Key, err)
			continue
		}
		handles[e.Key.Name] = h
	}
	blocks := map[netip.Prefix]*alloc.Block{}
	entries, _, _ = s.List(ctx, store.Block, "")
	for _, e := range entries {
		b, err := alloc.ParseBlock(e.Value)
		if err != nil {
			bad("%s: %v", e.Key, err)
			continue
		}
		blocks[b.CIDR] = b
		if n := b.InUse() + len(b.Unallocated); n != cidr.Size(b.CIDR) {
			bad("block %s accounts for %d addresses", b.CIDR, n)
		}
		count := map[string]int{}
		for _, addr := range b.HeldBy(func(alloc.Attribute) bool { return true }) {
			who, _ := b.Holder(addr)
			count[who.Handle]++
		}
		for handle, n := range count {
			if handle != "" && (handles[handle] == nil || handles[handle].Blocks[b.CIDR] < n) {
				bad("block %s holds %d for handle %s, which counts %v", b.CIDR, n, handle, handles[handle])
			}
		}
	}
	entries, _, _ = s.List(ctx, store.Affinity, "")
	for _, e := range entries {
		node, p, err := names.ParseAffinity(e.Key.Name)
		a, parseErr := alloc.ParseAffinity(e.Value)
		if err != nil || parseErr != nil {
			bad("%s: %v, %v", e.Key, err, parseErr)
			continue
		}
		if a.State == alloc.Confirmed && (blocks[p] == nil || !blocks[p].OwnedBy(node)) {
			bad("%s is confirmed, block %+v", e.Key, blocks[p])
		}
	}
	return problems
}

// TestClientsUnderChaos lets clients of three nodes work on one small pool at
// once, with answers lost, writes late and operations broken off half-way.
func TestClientsUnderChaos(t *testing.T) {
	r := record.Begin(t, "B3", "clients of three nodes, one small pool; answers lost, writes seconds late, operations broken off by their deadline", "0 duplicates, 0 leaks")
	runs := 0
	defer func() { r.Measuredf("0 violations in %d runs of 40 operations for each client", runs) }()
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		seed := rapid.Uint64().Draw(rt, "seed")
		var problems []string
		synctest.Test(t, func(t *testing.T) { problems = clientsUnderChaos(t, seed) })
		for _, p := range problems {
			rt.Error(p)
		}
	})
}

func onePool(p cluster.Pool) func(context.Context) ([]cluster.Pool, error) {
	return func(context.Context) ([]cluster.Pool, error) { return []cluster.Pool{p}, nil }
}

func noLabels(context.Context, string) (map[string]string, error) { return nil, nil }

// ledger is what operations answered: who was told to hold what.
type ledger struct {
	mu       sync.Mutex
	held     map[netip.Addr]string
	sure     map[string]int // handles that hold exactly so many addresses
	owed     map[string]bool
	problems []string
}

func (l *ledger) say(format string, args ...any) {
	l.problems = append(l.problems, fmt.Sprintf(format, args...))
}

// given notes addresses that handle was told to hold; exact says that it
// holds no others.
func (l *ledger) given(handle string, addrs []netip.Addr, exact bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.owed[handle] = true
	for _, addr := range addrs {
		if other := l.held[addr]; other != "" {
			l.say("%s was given to %s and %s", addr, other, handle)
		}
		l.held[addr] = handle
	}
	if exact {
		l.sure[handle] = len(addrs)
	}
}

// releasing notes that addresses of a handle may be anybody's from now on.
func (l *ledger) releasing(handle string, addrs []netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sure, handle)
	for _, addr := range addrs {
		delete(l.held, addr)
	}
}

// released notes that a handle is done with.
func (l *ledger) released(handle string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.owed, handle)
}

// settle compares the ledger with the datastore, then releases every handle
// that is owed one: nothing may be left.
func (l *ledger) settle(ctx context.Context, c *Client) {
	for addr, handle := range l.held {
		if who, err := c.Holder(ctx, addr); err != nil || who.Handle != handle {
			l.say("%s was given to %s, the datastore says %q, %v", addr, handle, who.Handle, err)
		}
	}
	for handle, n := range l.sure {
		if ips, err := c.IPsByHandle(ctx, handle); len(ips) != n {
			l.say("%s was given %d addresses, the datastore says %v, %v", handle, n, ips, err)
		}
	}
	for handle := range l.owed {
		if err := c.ReleaseByHandle(ctx, handle); err != nil && !fault.Is(err, fault.NotFound) {
			l.say("release %s: %v", handle, err)
		}
	}
	uses, err := c.Utilization(ctx)
	if err != nil || uses[0].InUse != 0 {
		l.say("leaked: %+v, %v", uses, err)
	}
}

// worker is one caller of a client; its operations come one after another.
type worker struct {
	*ledger
	c    *Client
	rng  *rand.Rand
	name string
	node string
	pool cluster.Pool
	mine map[string][]netip.Addr // addresses by handle
}

// work runs n operations, with pauses of up to idle between them.
func (w *worker) work(ctx context.Context, n int, idle time.Duration) {
	for i := range n {
		time.Sleep(time.Duration(w.rng.Int64N(int64(idle))))
		opCtx, cancel := ctx, context.CancelFunc(func() {})
		if w.rng.IntN(2) == 0 { // broken off half-way, unless it is quick
			opCtx, cancel = context.WithTimeout(ctx, time.Duration(w.rng.IntN(40))*time.Millisecond)
		}
		w.operate(ctx, opCtx, fmt.Sprintf("%s-%d", w.name, i))
		cancel()
	}
}

func (w *worker) operate(ctx, opCtx context.Context, handle string) {
	switch w.rng.IntN(8) {
	case 0, 1, 2:
		addrs, err := w.c.AutoAssign(opCtx, AssignRequest{Node: w.node, Handle: handle, Use: Workload, Family: 4, Num: 1 + w.rng.IntN(3)})
		w.given(handle, addrs, err == nil || fault.Is(err, fault.Exhausted))
		w.mine[handle] = addrs
		if fault.Is(err, fault.Unavailable) && w.rng.IntN(2) == 0 {
			w.release(ctx, handle) // as a runtime's DEL after a failed ADD
		}
	case 3:
		addr := cidr.At(w.pool.CIDR, w.rng.IntN(cidr.Size(w.pool.CIDR)))
		if w.c.AssignIP(opCtx, AssignIPRequest{Node: w.node, Addr: addr, Handle: handle}) == nil {
			w.given(handle, []netip.Addr{addr}, true)
			w.mine[handle] = []netip.Addr{addr}
		} else {
			w.given(handle, nil, false)
		}
	case 4, 5:
		if h, ok := w.pick(); ok {
			w.release(opCtx, h)
		}
	case 6:
		if h, ok := w.pick(); ok && len(w.mine[h]) > 0 {
			first := w.mine[h][0]
			w.releasing(h, []netip.Addr{first})
			_, _ = w.c.ReleaseIPs(opCtx, []alloc.Release{{Addr: first, Handle: h}})
			w.mine[h] = w.mine[h][1:]
		}
	default:
		_ = w.c.ReleaseHostAffinities(opCtx, w.node, w.rng.IntN(2) == 0)
	}
}

// pick chooses one of the worker's handles.
func (w *worker) pick() (string, bool) {
	all := slices.Sorted(maps.Keys(w.mine))
	if len(all) == 0 {
		return "", false
	}
	return all[w.rng.IntN(len(all))], true
}

func (w *worker) release(ctx context.Context, handle string) {
	w.releasing(handle, w.mine[handle])
	delete(w.mine, handle)
	if err := w.c.ReleaseByHandle(ctx, handle); err == nil || fault.Is(err, fault.NotFound) {
		w.released(handle)
	}
}

func clientsUnderChaos(t *testing.T, seed uint64) []string {
	ctx := t.Context()
	rng := rand.New(rand.NewPCG(seed, 1))
	base := mem.New()
	net := newChaos(base, rand.New(rand.NewPCG(seed, 0)))
	pool := cluster.Pool{Name: "p", CIDR: netip.MustParsePrefix("10.0.0.0/28"), BlockSize: 30}
	l := &ledger{held: map[netip.Addr]string{}, sure: map[string]int{}, owed: map[string]bool{}}
	client := func(on store.Store, borrow bool) *Client {
		return NewClient(ClientConfig{
			Store:      on,
			Pools:      onePool(pool),
			NodeLabels: noLabels,
			Borrow:     borrow,
		})
	}
	// In a busy store writes meet, in a quiet one late writes still land.
	idle := []time.Duration{time.Millisecond, 100 * time.Millisecond, 2 * time.Second}[rng.IntN(3)]
	var all sync.WaitGroup
	for n := range 1 + rng.IntN(6) {
		w := &worker{
			ledger: l, c: client(net, rng.IntN(2) == 0), rng: rand.New(rand.NewPCG(seed, uint64(n+2))),
			name: fmt.Sprint("h", n), node: fmt.Sprint("n", n%3), pool: pool, mine: map[string][]netip.Addr{},
		}
		all.Go(func() { w.work(ctx, 40, idle) })
	}
	all.Wait()
	net.late.Wait()
	l.problems = append(l.problems, audit(ctx, base)...)
	l.settle(ctx, client(base, false))
	t.Logf("fates %v", net.fates)
	return l.problems
}
