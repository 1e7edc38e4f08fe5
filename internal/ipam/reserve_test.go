// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/mem"
	"github.com/ocicat-net/ocicat/internal/store/storetest"
)

// site is a datastore with pools, and reserves of nodes on it.
type site struct {
	t      *testing.T
	mem    *mem.Store
	pools  []cluster.Pool
	kept   []netip.Prefix // reserved
	borrow bool
	start  time.Time
}

func newSite(t *testing.T, pools ...cluster.Pool) *site {
	if len(pools) == 0 {
		pools = []cluster.Pool{{Name: "default", CIDR: netip.MustParsePrefix("172.16.0.0/16"), BlockSize: 26}}
	}
	return &site{t: t, mem: mem.New(), pools: pools, start: time.Now()}
}

func (s *site) client(on store.Store) *Client {
	return NewClient(ClientConfig{
		Store:        on,
		Pools:        func(context.Context) ([]cluster.Pool, error) { return s.pools, nil },
		NodeLabels:   func(context.Context, string) (map[string]string, error) { return nil, nil },
		Reservations: func(context.Context) ([]netip.Prefix, error) { return s.kept, nil },
		Borrow:       s.borrow,
	})
}

// agent is one run of a node's reserve.
type agent struct {
	*Reserve
	store *storetest.Faulty
	stop  func()
}

// run starts a reserve and stops it at the end of the test, or by stop.
func (s *site) run(cfg ReserveConfig, held ...Held) *agent {
	faulty := storetest.NewFaulty(s.mem)
	return s.runOn(faulty, cfg, held...)
}

func (s *site) runOn(faulty *storetest.Faulty, cfg ReserveConfig, held ...Held) *agent {
	cfg.Client = s.client(faulty)
	if cfg.InstanceUID == "" {
		cfg.InstanceUID = "uid-" + cfg.Node
	}
	if cfg.BootID == "" {
		cfg.BootID = "boot-1"
	}
	cfg.Boottime = func() time.Duration { return time.Since(s.start) }
	cfg.Log = slog.New(slog.DiscardHandler)
	r := NewReserve(cfg)
	r.Adopt(held)
	ctx, cancel := context.WithCancel(s.t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.Run(ctx); err != nil {
			s.t.Errorf("run: %v", err)
		}
	})
	stop := sync.OnceFunc(func() { cancel(); running.Wait() })
	s.t.Cleanup(stop)
	return &agent{Reserve: r, store: faulty, stop: stop}
}

// take is a Take that must succeed.
func (s *site) take(a *agent, handle string) netip.Addr {
	s.t.Helper()
	addr, err := a.Take(s.t.Context(), Claim{Handle: handle, Attrs: map[string]string{alloc.AttrPod: handle}})
	if err != nil {
		s.t.Fatalf("take for %s: %v", handle, err)
	}
	return addr
}

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

func wantAddr(t *testing.T, what string, got netip.Addr, want string) {
	t.Helper()
	if got.String() != want {
		t.Errorf("%s: %s, want %s", what, got, want)
	}
}

// history gives a node the article's past: its tunnel address was assigned
// and released.
func (s *site) history(node string) {
	s.t.Helper()
	c := s.client(s.mem)
	handle := names.IPIPTunnelHandle(node)
	addrs, err := c.AutoAssign(s.t.Context(), AssignRequest{Node: node, Handle: handle, Use: Tunnel, Family: 4, Num: 1})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := c.ReleaseByHandle(s.t.Context(), handle); err != nil {
		s.t.Fatal(err)
	}
	s.t.Logf("%s had %v", node, addrs)
}

func TestArticlesAddresses(t *testing.T) {
	for _, size := range []int{DefaultReserve, 0} {
		t.Run(fmt.Sprint("size ", size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				s.history("k8s-master-1")
				s.history("k8s-node-1")
				master := s.run(ReserveConfig{Node: "k8s-master-1", Size: size})
				node := s.run(ReserveConfig{Node: "k8s-node-1", Size: size})
				wantAddr(t, "busybox", s.take(master, "busybox-1"), "172.16.196.1")
				wantAddr(t, "coredns", s.take(master, "coredns"), "172.16.196.2")
				wantAddr(t, "busybox", s.take(node, "busybox-2"), "172.16.109.65")
				wantAddr(t, "jenkins", s.take(node, "jenkins"), "172.16.109.66")
				settle()
				if got := s.holder(netip.MustParseAddr("172.16.196.2")); got != "coredns" {
					t.Errorf("the datastore says %q holds coredns' address", got)
				}
				if held := master.State().Held; held != size {
					t.Errorf("%d addresses held ready, want %d", held, size)
				}
				want := []cluster.Block{{CIDR: netip.MustParsePrefix("172.16.196.0/26"), Confirmed: true}}
				if diff := cmp.Diff(want, master.Blocks(), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
					t.Errorf("blocks -want +got:\n%s", diff)
				}
			})
		})
	}
}

func TestWarmTakeWaitsForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		a := s.run(ReserveConfig{Node: "n1", Size: DefaultReserve})
		synctest.Wait()
		a.store.Inject(storetest.Rule{Delay: time.Hour})
		before := time.Now()
		s.take(a, "pod")
		if took := time.Since(before); took != 0 {
			t.Errorf("took %s", took)
		}
	})
}

func TestDatastoreDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		a := s.run(ReserveConfig{Node: "n1", Size: DefaultReserve})
		synctest.Wait()
		a.store.Inject(storetest.Rule{Effect: storetest.Refuse})
		seen := map[netip.Addr]bool{}
		for i := range DefaultReserve {
			addr := s.take(a, fmt.Sprint("pod-", i))
			if seen[addr] {
				t.Fatalf("%s given twice", addr)
			}
			seen[addr] = true
		}
		if _, err := a.Take(t.Context(), Claim{Handle: "one-more"}); !fault.Is(err, fault.Unavailable) {
			t.Errorf("an empty reserve answers %v, want unavailable", err)
		}
		if err := a.Available(); !fault.Is(err, fault.Unavailable) {
			t.Errorf("available: %v", err)
		}
		a.store.Heal()
		time.Sleep(time.Minute)
		synctest.Wait()
		for i := range DefaultReserve {
			if ips, err := s.client(s.mem).IPsByHandle(t.Context(), fmt.Sprint("pod-", i)); err != nil || len(ips) != 1 || !seen[ips[0]] {
				t.Errorf("pod-%d has %v, %v in the datastore", i, ips, err)
			}
		}
		if st := a.State(); st.Held != DefaultReserve || st.Pending != 0 || len(st.Problems) != 0 {
			t.Errorf("state %+v", st)
		}
	})
}

func TestLeaseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		a := s.run(ReserveConfig{Node: "n1", Size: DefaultReserve})
		synctest.Wait()
		if left := a.State().Lease; left != LeaseTime {
			t.Errorf("lease of %s after the first heartbeat", left)
		}
		// Reads work, writes do not: the lease ends all the same.
		a.store.Inject(storetest.Rule{Op: storetest.OpPut, Effect: storetest.Refuse})
		time.Sleep(LeaseTime - time.Second)
		addr := s.take(a, "in-time")
		if err := a.Confirm(addr); err != nil {
			t.Errorf("within the lease: %v", err)
		}
		time.Sleep(time.Second)
		if err := a.Confirm(addr); !fault.Is(err, fault.Unavailable) {
			t.Errorf("taken in time, given after the lease: %v, want unavailable", err)
		}
		if _, err := a.Take(t.Context(), Claim{Handle: "late"}); !fault.Is(err, fault.Unavailable) {
			t.Errorf("after the lease: %v, want unavailable", err)
		}
		a.store.Heal()
		time.Sleep(beatRetry)
		s.take(a, "again")
		time.Sleep(time.Second)
		if err := a.Confirm(addr); err != nil {
			t.Errorf("written in the datastore: %v", err)
		}
	})
}

func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		cfg := ReserveConfig{Node: "n1", Size: 4, LeaseFile: filepath.Join(t.TempDir(), "lease")}
		a := s.run(cfg)
		synctest.Wait()
		a.store.Inject(storetest.Rule{Effect: storetest.Refuse})
		first := s.take(a, "first") // known to the journal alone
		a.stop()

		down := storetest.NewFaulty(s.mem)
		down.Inject(storetest.Rule{Effect: storetest.Refuse})
		b := s.runOn(down, cfg, Held{Handle: "first", Addr: first})
		var rest []string
		for i := range 3 {
			rest = append(rest, s.take(b, fmt.Sprint("rest-", i)).String())
		}
		if want := []string{"172.16.40.129", "172.16.40.130", "172.16.40.131"}; first.String() != "172.16.40.128" || !slices.Equal(rest, want) {
			t.Errorf("gave %s, then %v after the restart; want …128, then %v", first, rest, want)
		}
		if got := b.Blocks(); len(got) != 1 || !got[0].Confirmed {
			t.Errorf("blocks without the datastore: %v", got)
		}
		if _, err := b.Take(t.Context(), Claim{Handle: "more"}); !fault.Is(err, fault.Unavailable) {
			t.Errorf("the reserve was used up: %v", err)
		}
		down.Heal()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := s.holder(first); got != "first" {
			t.Errorf("the datastore says %q holds the first pod's address", got)
		}
		b.stop()

		// The same machine after a reboot: /run is of another boot.
		cfg.BootID = "boot-2"
		down.Inject(storetest.Rule{Effect: storetest.Refuse})
		c := s.runOn(down, cfg)
		if _, err := c.Take(t.Context(), Claim{Handle: "rebooted"}); !fault.Is(err, fault.Unavailable) {
			t.Errorf("a lease of another boot was used: %v", err)
		}
		down.Heal()
		time.Sleep(beatRetry)
		rebooted := s.take(c, "rebooted")
		// A copy of this machine's disk could still be giving what the last boot
		// held ready: that rests until the lease must be over.
		wantAddr(t, "after the reboot", rebooted, "172.16.40.136")
		time.Sleep(LeaseTime + 2*checkInterval)
		if st := c.State(); st.Held != 4 || s.holder(netip.MustParseAddr("172.16.40.128")) != "free" {
			t.Errorf("an hour later: %+v, first pod's address held by %q", st, s.holder(netip.MustParseAddr("172.16.40.128")))
		}
	})
}

func TestReleaseIsWrittenBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, cluster.Pool{Name: "small", CIDR: netip.MustParsePrefix("10.0.0.0/29"), BlockSize: 29})
		a := s.run(ReserveConfig{Node: "n1", Size: 2})
		synctest.Wait()
		addr := s.take(a, "pod")
		synctest.Wait()
		a.store.Inject(storetest.Rule{Effect: storetest.Refuse})
		told := 0
		a.Release("pod", addr, func() { told++ })
		time.Sleep(time.Second)
		if told != 0 || s.holder(addr) != "pod" {
			t.Errorf("told %d times, held by %q, with the datastore down", told, s.holder(addr))
		}
		a.store.Heal()
		time.Sleep(maxWriteRetry)
		synctest.Wait()
		if told != 1 || s.holder(addr) != "free" {
			t.Errorf("told %d times, held by %q", told, s.holder(addr))
		}
		if _, err := s.client(s.mem).IPsByHandle(t.Context(), "pod"); !fault.Is(err, fault.NotFound) {
			t.Errorf("the handle is still there: %v", err)
		}
		var order []string
		for i := range 8 {
			order = append(order, s.take(a, fmt.Sprint("next-", i)).String())
			synctest.Wait()
		}
		if got := order[7]; got != addr.String() {
			t.Errorf("order %v: the released address does not come last", order)
		}
	})
}

func TestReleaseBeforeItsAssignmentWasWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		a := s.run(ReserveConfig{Node: "n1", Size: 4})
		synctest.Wait()
		told := 0
		addr := s.take(a, "brief")
		a.Release("brief", addr, func() { told++ })
		time.Sleep(time.Second)
		synctest.Wait()
		if told != 1 || s.holder(addr) != "free" || a.State().Pending != 0 {
			t.Errorf("told %d times, held by %q, state %+v", told, s.holder(addr), a.State())
		}
	})
}

// TestWritesGoTogether: pods that come one after the other within a moment are
// one write of their block; one that somebody waits for is written at once.
func TestWritesGoTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		a := s.run(ReserveConfig{Node: "k8s-master-1", Size: 16})
		settle()
		before := a.store.Calls(storetest.OpPut)
		for i := range 4 {
			s.take(a, fmt.Sprint("pod-", i))
			time.Sleep(gatherTime / 10)
		}
		settle()
		if writes := a.store.Calls(storetest.OpPut) - before; writes != 1+4 {
			t.Errorf("%d writes for 4 pods, want 1 of the block and 4 of handles", writes)
		}
		begin := time.Now()
		if _, err := a.Take(t.Context(), Claim{Handle: "static", Want: netip.MustParseAddr("172.16.196.60")}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took >= gatherTime {
			t.Errorf("one who waits for the datastore waits %v for company", took)
		}
	})
}

func TestStaticAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		n1 := s.run(ReserveConfig{Node: "k8s-master-1", Size: 4})
		n2 := s.run(ReserveConfig{Node: "k8s-node-1", Size: 4})
		synctest.Wait()
		take := func(a *agent, handle, want string) (netip.Addr, error) {
			return a.Take(t.Context(), Claim{Handle: handle, Want: netip.MustParseAddr(want)})
		}
		for _, want := range []string{"172.16.196.2", "172.16.196.40", "172.16.200.3"} { // held ready; free; in a block nobody has
			addr, err := take(n1, "static-"+want, want)
			settle()
			if err != nil || addr.String() != want || s.holder(addr) != "static-"+want {
				t.Errorf("static %s: %s, %v, held by %q", want, addr, err, s.holder(addr))
			}
		}
		for _, c := range []struct {
			addr, text string
			kind       fault.Kind
		}{
			{"172.16.109.64", "held by the reserve on k8s-node-1", fault.Conflict},
			{"172.16.109.100", "belongs to node k8s-node-1", fault.Conflict},
			{"172.16.196.2", "held by handle static-172.16.196.2 on k8s-master-1", fault.Conflict},
			{"10.0.0.1", "in no pool", fault.Invalid},
		} {
			_, err := take(n1, "refused", c.addr)
			if !fault.Is(err, c.kind) || !strings.Contains(err.Error(), c.text) || fault.HintOf(err) == "" {
				t.Errorf("static %s: %v (%v, hint %q), want %v %q", c.addr, err, fault.KindOf(err), fault.HintOf(err), c.kind, c.text)
			}
		}
		if st := n2.State(); st.Held != 4 {
			t.Errorf("the other node's reserve: %+v", st)
		}
	})
}

func TestConcurrentTakesShareWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		a := s.run(ReserveConfig{Node: "n1", Size: 0})
		s.take(a, "first")
		synctest.Wait()
		a.store.Inject(storetest.Rule{Op: storetest.OpPut, Delay: 10 * time.Millisecond})
		before := a.store.Calls(storetest.OpPut)
		const pods = 40
		var all sync.WaitGroup
		seen := make([]netip.Addr, pods)
		for i := range pods {
			all.Go(func() { seen[i] = s.take(a, fmt.Sprint("pod-", i)) })
		}
		all.Wait()
		slices.SortFunc(seen, netip.Addr.Compare)
		if n := len(slices.Compact(seen)); n != pods {
			t.Errorf("%d different addresses for %d pods", n, pods)
		}
		if puts := a.store.Calls(storetest.OpPut) - before - pods; puts > 3 {
			t.Errorf("%d block writes for %d concurrent takes", puts, pods)
		}
	})
}
