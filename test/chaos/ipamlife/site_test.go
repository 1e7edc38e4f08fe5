// SPDX-License-Identifier: Apache-2.0

// Package ipamlife tests what becomes of addresses later: nodes that die, are
// deleted, replaced, copied, frozen or rebooted, pods that nobody deleted, and
// a datastore that was restored. Time is that of a synctest bubble: hours pass
// in no time.
package ipamlife

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/mem"
	"github.com/ocicat-net/ocicat/internal/store/storetest"
)

// site is a datastore with one pool, and machines on it.
type site struct {
	t     *testing.T
	mem   *mem.Store
	pool  cluster.Pool
	start time.Time

	mu     sync.Mutex
	owners map[netip.Addr]string // which running pod has an address
	twice  []string              // addresses given to a pod while another had them
}

func newSite(t *testing.T, pool string, blockSize int) *site {
	return &site{
		t: t, mem: mem.New(), start: time.Now(), owners: map[netip.Addr]string{},
		pool: cluster.Pool{Name: "pool", CIDR: netip.MustParsePrefix(pool), BlockSize: blockSize},
	}
}

func (s *site) client(on store.Store) *ipam.Client {
	return ipam.NewClient(ipam.ClientConfig{
		Store:      on,
		Pools:      func(context.Context) ([]cluster.Pool, error) { return []cluster.Pool{s.pool}, nil },
		NodeLabels: func(context.Context, string) (map[string]string, error) { return nil, nil },
	})
}

// machine is one agent's IPAM on one machine, with what a journal would hold.
type machine struct {
	s     *site
	cfg   ipam.ReserveConfig
	r     *ipam.Reserve
	store *storetest.Faulty
	stop  func()
	pods  map[string]netip.Addr
}

// boot starts a machine; its Node exists from then on.
func (s *site) boot(node, instance, boot string) *machine {
	return s.bootWith(ipam.ReserveConfig{Node: node, InstanceUID: instance, BootID: boot, Size: 4}, nil)
}

func (s *site) bootWith(cfg ipam.ReserveConfig, pods map[string]netip.Addr) *machine {
	s.register(cfg.Node)
	m := &machine{s: s, store: storetest.NewFaulty(s.mem), pods: map[string]netip.Addr{}}
	cfg.Client, cfg.Log = s.client(m.store), slog.New(slog.DiscardHandler)
	if cfg.Boottime == nil {
		cfg.Boottime = func() time.Duration { return time.Since(s.start) }
	}
	m.cfg, m.r = cfg, ipam.NewReserve(cfg)
	var held []ipam.Held
	for pod, addr := range pods {
		held = append(held, ipam.Held{Handle: pod, Addr: addr})
		m.pods[pod] = addr
	}
	m.r.Adopt(held)
	m.stop = s.run(m.r)
	return m
}

// task is what runs until it is stopped.
type task interface {
	Run(ctx context.Context) error
}

func (s *site) run(t task) (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := t.Run(ctx); err != nil {
			s.t.Errorf("%v: %v", t, err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	s.t.Cleanup(stop)
	return stop
}

// register creates a Node, unregister deletes it.
func (s *site) register(node string) {
	if _, err := s.mem.Put(s.t.Context(), store.Key{Kind: store.Node, Name: node}, []byte("{}"), store.AnyRevision); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) unregister(node string) {
	if err := s.mem.Delete(s.t.Context(), store.Key{Kind: store.Node, Name: node}, store.AnyRevision); err != nil {
		s.t.Fatal(err)
	}
}

// collect starts the collector of one node.
func (s *site) collect(node string, times ipam.Times) (*ipam.Collector, func()) {
	k := ipam.NewCollector(ipam.CollectorConfig{Client: s.client(s.mem), Node: node, Session: node + "/1", Times: times, Log: slog.New(slog.DiscardHandler)})
	return k, s.run(k)
}

// add starts a pod, if there is an address for it.
func (m *machine) add(pod string) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(m.s.t.Context(), 5*time.Second)
	defer cancel()
	addr, err := m.r.Take(ctx, ipam.Claim{Handle: pod, Attrs: map[string]string{alloc.AttrPod: pod}})
	if err != nil {
		return addr, err
	}
	m.pods[pod] = addr
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	who := pod + " on " + m.cfg.Node
	if other, taken := m.s.owners[addr]; taken && other != who {
		m.s.twice = append(m.s.twice, fmt.Sprintf("%s of %s to %s after %s", addr, other, who, time.Since(m.s.start).Round(time.Second)))
	}
	m.s.owners[addr] = who
	return addr, nil
}

// mustAdd is add where it must succeed.
func (m *machine) mustAdd(pod string) netip.Addr {
	m.s.t.Helper()
	addr, err := m.add(pod)
	if err != nil {
		m.s.t.Fatalf("add %s: %v", pod, err)
	}
	return addr
}

// die ends a machine with all its pods, without a word to the datastore.
func (m *machine) die() {
	m.store.Inject(storetest.Rule{Effect: storetest.Refuse})
	m.stop()
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	for pod, addr := range m.pods {
		if m.s.owners[addr] == pod+" on "+m.cfg.Node {
			delete(m.s.owners, addr)
		}
	}
}

// cutOff keeps the machine running without its datastore.
func (m *machine) cutOff() { m.store.Inject(storetest.Rule{Effect: storetest.Refuse}) }

// holder says who holds addr in the datastore, "free" for nobody.
func (s *site) holder(addr netip.Addr) string {
	who, err := s.client(s.mem).Holder(s.t.Context(), addr)
	if fault.Is(err, fault.NotFound) {
		return "free"
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return who.Handle
}

// count is how many objects of each kind there are.
func (s *site) count(kinds ...store.Kind) map[store.Kind]int {
	found := map[store.Kind]int{}
	for _, kind := range kinds {
		entries, _, err := s.mem.List(s.t.Context(), kind, "")
		if err != nil {
			s.t.Fatal(err)
		}
		if len(entries) > 0 {
			found[kind] = len(entries)
		}
	}
	return found
}

// ipamKinds are the objects of which nothing may leak.
var ipamKinds = []store.Kind{store.Block, store.Affinity, store.Handle, store.Heartbeat}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// gated is a datastore that holds up its nth write once it is armed.
type gated struct {
	store.Store
	after         int
	reached, open chan struct{}

	mu    sync.Mutex
	armed bool
	count int
}

func (g *gated) arm() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.armed = true
}

func (g *gated) wait(key store.Key) {
	g.mu.Lock()
	here := false
	if g.armed && key.Kind != store.Election {
		here = g.count == g.after
		g.count++
	}
	g.mu.Unlock()
	if here {
		close(g.reached)
		<-g.open
	}
}

// Put writes, if it is not held up.
func (g *gated) Put(ctx context.Context, key store.Key, value []byte, prev store.Revision) (store.Revision, error) {
	g.wait(key)
	return g.Store.Put(ctx, key, value, prev)
}

// Delete deletes, if it is not held up.
func (g *gated) Delete(ctx context.Context, key store.Key, prev store.Revision) error {
	g.wait(key)
	return g.Store.Delete(ctx, key, prev)
}
