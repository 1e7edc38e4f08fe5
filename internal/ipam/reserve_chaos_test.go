// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/store/mem"
	record "github.com/ocicat-net/ocicat/test/chaos"
)

// TestReservesUnderChaos runs the reserves of two nodes beside a third that
// borrows from their blocks, as Calico does. Agents crash at any moment and
// come back, the datastore loses answers and is away for minutes or hours. At
// no moment do two pods hold one address, and in the end the datastore says
// exactly what the journals say.
func TestReservesUnderChaos(t *testing.T) {
	r := record.Begin(t, "B4", "reserves of two nodes and a borrower; answers lost, writes late, agents killed, the datastore away for hours", "0 addresses of two pods, the datastore says what the journals say")
	runs := 0
	defer func() { r.Measuredf("0 violations in %d lives of 30 events for each node", runs) }()
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		seed := rapid.Uint64().Draw(rt, "seed")
		dir := t.TempDir()
		var problems []string
		synctest.Test(t, func(t *testing.T) { problems = reservesUnderChaos(t, seed, dir) })
		for _, p := range problems {
			rt.Error(p)
		}
	})
}

// machine is a node: its journal and lease outlive its agent.
type machine struct {
	*ledger
	t       *testing.T
	rng     *rand.Rand
	base    *mem.Store
	pool    cluster.Pool
	cfg     ReserveConfig
	mu      sync.Mutex
	journal map[string]netip.Addr // attached
	leaving map[string]netip.Addr // detached, not yet released in the datastore

	agent *Reserve
	net   *chaos
	kill  func()
}

// boot starts an agent on what the journal says.
func (m *machine) boot() {
	net := newChaos(m.base, rand.New(rand.NewPCG(m.rng.Uint64(), 0)))
	cfg := m.cfg
	cfg.Client = NewClient(ClientConfig{
		Store:      net,
		Pools:      onePool(m.pool),
		NodeLabels: noLabels,
		Borrow:     true,
	})
	r := NewReserve(cfg)
	var held []Held
	m.mu.Lock()
	for _, pods := range []map[string]netip.Addr{m.journal, m.leaving} {
		for handle, addr := range pods {
			held = append(held, Held{Handle: handle, Addr: addr})
		}
	}
	leaving := maps.Clone(m.leaving)
	m.mu.Unlock()
	r.Adopt(held)
	ctx, cancel := context.WithCancel(m.t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = r.Run(ctx) })
	m.agent, m.net = r, net
	m.kill = func() {
		net.set(false, true) // a killed process sends nothing more
		cancel()
		running.Wait()
	}
	for handle, addr := range leaving {
		m.giveBack(handle, addr)
	}
}

func (m *machine) giveBack(handle string, addr netip.Addr) {
	agent := m.agent
	agent.Release(handle, addr, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if agent == m.agent { // else the process that would hear it is dead
			delete(m.leaving, handle)
		}
	})
}

// add attaches a pod; journalled false crashes before the journal has it.
func (m *machine) add(handle string, journalled bool) {
	ctx, cancel := context.WithTimeout(m.t.Context(), 5*time.Second)
	defer cancel()
	addr, err := m.agent.Take(ctx, Claim{Handle: handle})
	if err != nil || !journalled {
		return
	}
	m.mu.Lock()
	m.journal[handle] = addr
	m.mu.Unlock()
	m.given(handle, []netip.Addr{addr}, false)
}

// del detaches a pod: its link is gone, its address may be anybody's.
func (m *machine) del() {
	m.mu.Lock()
	all := slices.Sorted(maps.Keys(m.journal))
	if len(all) == 0 {
		m.mu.Unlock()
		return
	}
	handle := all[m.rng.IntN(len(all))]
	addr := m.journal[handle]
	delete(m.journal, handle)
	m.leaving[handle] = addr
	m.mu.Unlock()
	m.releasing(handle, []netip.Addr{addr})
	m.giveBack(handle, addr)
}

// live runs n steps of a node's life.
func (m *machine) live(n int) {
	for i := range n {
		handle := fmt.Sprintf("%s-%d", m.cfg.Node, i)
		switch m.rng.IntN(12) {
		case 0, 1, 2, 3:
			m.add(handle, true)
		case 4: // several at once
			var all sync.WaitGroup
			for j := range 4 {
				all.Go(func() { m.add(fmt.Sprintf("%s-%d", handle, j), true) })
			}
			all.Wait()
		case 5, 6, 7:
			m.del()
		case 8:
			m.crash(m.rng.IntN(3) == 0, handle)
		case 9:
			away := 2 * time.Minute
			if m.rng.IntN(8) == 0 {
				away = 2 * LeaseTime
			}
			m.net.set(false, true)
			time.Sleep(time.Duration(m.rng.IntN(int(away))))
			m.net.set(false, false)
		case 10:
			time.Sleep(time.Duration(m.rng.IntN(int(2 * time.Minute))))
		default:
			time.Sleep(time.Duration(m.rng.IntN(int(50 * time.Millisecond))))
		}
	}
}

// crash kills the agent, perhaps between taking an address and writing it
// down, and starts it again.
func (m *machine) crash(taking bool, handle string) {
	if taking {
		m.add(handle, false)
		time.Sleep(time.Duration(m.rng.IntN(int(10 * time.Millisecond))))
	}
	m.kill()
	time.Sleep(time.Duration(m.rng.IntN(int(time.Minute))))
	m.boot()
}

func reservesUnderChaos(t *testing.T, seed uint64, dir string) []string {
	rng := rand.New(rand.NewPCG(seed, 1))
	base := mem.New()
	start := time.Now()
	pool := cluster.Pool{Name: "p", CIDR: netip.MustParsePrefix("10.0.0.0/26"), BlockSize: 28}
	if rng.IntN(2) == 0 { // so small that nodes borrow, and addresses rest
		pool.CIDR, pool.BlockSize = netip.MustParsePrefix("10.0.0.0/28"), 30
		if err := NewClient(ClientConfig{Store: base}).SetConfig(t.Context(), alloc.Config{AutoAllocate: true, CooldownSecs: rng.IntN(2) * 60}); err != nil {
			t.Fatal(err)
		}
	}
	l := &ledger{held: map[netip.Addr]string{}, sure: map[string]int{}, owed: map[string]bool{}}
	var machines []*machine
	var lives sync.WaitGroup
	for n := range 2 {
		node := fmt.Sprint("n", n)
		m := &machine{
			ledger: l, t: t, rng: rand.New(rand.NewPCG(seed, uint64(n+2))), base: base, pool: pool,
			journal: map[string]netip.Addr{}, leaving: map[string]netip.Addr{},
			cfg: ReserveConfig{
				Node: node, InstanceUID: "uid-" + node, BootID: "boot-1", Size: []int{0, 2, 4}[rng.IntN(3)],
				LeaseFile: filepath.Join(dir, node), Boottime: func() time.Duration { return time.Since(start) }, Log: slog.New(slog.DiscardHandler),
			},
		}
		machines = append(machines, m)
		m.boot()
		lives.Go(func() { m.live(30) })
	}
	neighbour := &worker{
		ledger: l, rng: rand.New(rand.NewPCG(seed, 9)), name: "calico", node: "n9", pool: pool, mine: map[string][]netip.Addr{},
		c: NewClient(ClientConfig{Store: newChaos(base, rng), Pools: onePool(pool), NodeLabels: noLabels, Borrow: true}),
	}
	lives.Go(func() { neighbour.work(t.Context(), 15, 4*time.Minute) })
	lives.Wait()
	for _, m := range machines {
		m.net.set(true, false)
	}
	time.Sleep(10 * time.Minute) // retries, checks and late writes are over
	synctest.Wait()
	l.problems = append(l.problems, audit(t.Context(), base)...)
	for _, m := range machines {
		m.compare()
		m.kill()
	}
	return l.problems
}

// compare checks that the datastore says of this node what its journal says.
func (m *machine) compare() {
	for range 100 { // it may be in the middle of a look
		if m.agent.State().Pending == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	st := m.agent.State()
	st.Problems = slices.DeleteFunc(st.Problems, func(p problem.Problem) bool { return p.Code == problem.NoFreeAddress }) // the pool is small
	direct := NewClient(ClientConfig{Store: m.base})
	if st.Pending != 0 || len(st.Problems) != 0 || len(m.leaving) != 0 || st.Lease <= 0 {
		m.say("%s: state %+v, leaving %v", m.cfg.Node, st, m.leaving)
	}
	entries, _, _ := m.base.List(m.t.Context(), "IPAMBlock", "")
	found := map[string]netip.Addr{}
	held := 0
	for _, e := range entries {
		p, _ := names.ParseBlock(e.Key.Name)
		b, _, err := direct.block(m.t.Context(), p)
		if err != nil {
			m.say("%s: %v", p, err)
			continue
		}
		for _, addr := range b.HeldBy(m.agent.isMine) {
			who, _ := b.Holder(addr)
			if who.Handle == m.agent.handle {
				held++
				continue
			}
			if other, twice := found[who.Handle]; twice {
				m.say("%s holds %s and %s", who.Handle, other, addr)
			}
			found[who.Handle] = addr
		}
	}
	if !maps.Equal(found, m.journal) {
		m.say("%s: the datastore says %v, the journal %v", m.cfg.Node, found, m.journal)
	}
	if held != st.Held || held > m.cfg.Size {
		m.say("%s: the datastore holds %d ready, the reserve %d of %d", m.cfg.Node, held, st.Held, m.cfg.Size)
	}
}
