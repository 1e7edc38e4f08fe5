// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/statefile"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/storetest"
	cases "github.com/ocicat-net/ocicat/test/chaos"
)

// heartbeatOf reads a node's stored heartbeat.
func (s *site) heartbeatOf(node string) Heartbeat {
	s.t.Helper()
	e, err := s.mem.Get(s.t.Context(), store.Key{Kind: store.Heartbeat, Name: node})
	if err != nil {
		s.t.Fatal(err)
	}
	h, err := ParseHeartbeat(e.Value)
	if err != nil {
		s.t.Fatal(err)
	}
	return h
}

func isHeartbeat(k store.Key) bool { return k.Kind == store.Heartbeat }

func hasProblem(a *agent, code problem.Code) bool {
	for _, p := range a.State().Problems {
		if p.Code == code {
			return true
		}
	}
	return false
}

// addrOf is the address that a pod of a holds.
func addrOf(a *agent, handle string) netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	for addr, p := range a.pods {
		if p.who.Handle == handle {
			return addr
		}
	}
	return netip.Addr{}
}

func TestHeartbeatEachMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.run(ReserveConfig{Node: "n1", Size: 4})
		time.Sleep(10*DefaultTimes().Beat + time.Second)
		if got, want := s.heartbeatOf("n1"), (Heartbeat{Counter: 11, InstanceUID: "uid-n1", BootID: "boot-1", Lease: LeaseTime}); got != want {
			t.Errorf("heartbeat %+v, want %+v", got, want)
		}
	})
}

func TestAnotherInstanceWaitsForStandstill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		old := s.run(ReserveConfig{Node: "n1", Size: 4, InstanceUID: "old"})
		synctest.Wait()
		held := s.take(old, "pod-old")
		synctest.Wait()
		next := s.run(ReserveConfig{Node: "n1", Size: 4, InstanceUID: "new"})
		time.Sleep(10*time.Minute + time.Second)
		_, err := next.Take(t.Context(), Claim{Handle: "too-early"})
		if !fault.Is(err, fault.Unavailable) || fault.HintOf(err) == "" || !hasProblem(next, problem.IdentityConflict) {
			t.Errorf("while the other lives: %v, state %+v", err, next.State())
		}
		if !strings.Contains(err.Error(), "instance old") {
			t.Errorf("%v does not name the other instance", err)
		}
		if hasProblem(old, problem.IdentityConflict) {
			t.Error("the living instance reports a conflict")
		}

		old.stop()
		time.Sleep(2 * time.Minute)
		if next.Available() == nil {
			t.Error("took over after 2 minutes")
		}
		time.Sleep(2 * time.Minute)
		addr := s.take(next, "pod-new")
		if addr == held || s.holder(held) != "pod-old" {
			t.Errorf("the new instance gave %s, the old one's pod holds %s (datastore: %q)", addr, held, s.holder(held))
		}
		if hasProblem(next, problem.IdentityConflict) {
			t.Error("the conflict is still reported")
		}

		// The old machine comes back: its name is another's now.
		back := s.run(ReserveConfig{Node: "n1", Size: 4, InstanceUID: "old"}, Held{Handle: "pod-old", Addr: held})
		time.Sleep(time.Minute)
		if _, err := back.Take(t.Context(), Claim{Handle: "back"}); !fault.Is(err, fault.Unavailable) {
			t.Errorf("the old instance gives addresses: %v", err)
		}
		if st := next.State(); hasProblem(next, problem.IdentityConflict) {
			t.Errorf("state %+v", st)
		}
	})
}

// TestTwoMachinesOfOneName runs two machines with copies of one disk: the
// second looks like the first after a reboot. The first sees that
// the heartbeat is not its own any more and gives nothing.
func TestTwoMachinesOfOneName(t *testing.T) {
	r := cases.Begin(t, "F7", "two machines with copies of one disk: one instance UID, two boots", "the first stops at once, 0 addresses given twice")
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		a := s.run(ReserveConfig{Node: "n1", Size: 4, InstanceUID: "clone", BootID: "boot-a"})
		synctest.Wait()
		addr := s.take(a, "pod-a")
		time.Sleep(25 * time.Second)
		b := s.run(ReserveConfig{Node: "n1", Size: 4, InstanceUID: "clone", BootID: "boot-b"})
		seen := map[netip.Addr]string{addr: "pod-a"}
		given := map[string]int{}
		for i := range 40 {
			time.Sleep(10 * time.Second)
			synctest.Wait()
			for name, agent := range map[string]*agent{"a": a, "b": b} {
				handle := fmt.Sprintf("pod-%s-%d", name, i)
				addr, err := agent.Take(t.Context(), Claim{Handle: handle})
				if err != nil {
					if !fault.Is(err, fault.Unavailable) {
						t.Errorf("%s: %v", handle, err)
					}
					continue
				}
				given[name]++
				if other, twice := seen[addr]; twice {
					t.Errorf("%s was given to %s and %s", addr, other, handle)
				}
				seen[addr] = handle
			}
		}
		if given["b"] != 40 || given["a"] > 1 {
			t.Errorf("given %v: the first machine should stop at once", given)
		}
		if !hasProblem(a, problem.IdentityConflict) {
			t.Errorf("the first machine does not report the second: %+v", a.State())
		}
		r.Measuredf("the first gave %d of 40 and then refused with OC5004, the second 40; 0 given twice", given["a"])
	})
}

// snapshot and restore are a backup of the datastore.
func (s *site) snapshot() map[store.Key][]byte {
	all := map[store.Key][]byte{}
	for _, kind := range store.Kinds() {
		entries, _, err := s.mem.List(s.t.Context(), kind, "")
		if err != nil {
			s.t.Fatal(err)
		}
		for _, e := range entries {
			all[e.Key] = e.Value
		}
	}
	return all
}

func (s *site) restore(backup map[store.Key][]byte) {
	for key := range s.snapshot() {
		if err := s.mem.Delete(s.t.Context(), key, store.AnyRevision); err != nil {
			s.t.Fatal(err)
		}
	}
	for key, value := range backup {
		if _, err := s.mem.Put(s.t.Context(), key, value, store.AnyRevision); err != nil {
			s.t.Fatal(err)
		}
	}
}

func TestRestoredDatastore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		a := s.run(ReserveConfig{Node: "n1", Size: 4})
		synctest.Wait()
		first := s.take(a, "first")
		synctest.Wait()
		backup := s.snapshot()
		var pods []netip.Addr
		for i := range 6 {
			pods = append(pods, s.take(a, fmt.Sprint("later-", i)))
			synctest.Wait()
		}
		s.restore(backup)
		// Another node took an address meanwhile that the backup calls free.
		thief := pods[5]
		if err := NewClient(ClientConfig{Store: s.mem, Pools: a.c.Pools, NodeLabels: a.c.NodeLabels, Borrow: true}).AssignIP(t.Context(),
			AssignIPRequest{Node: "n2", Addr: thief, Handle: "thief", Attrs: map[string]string{alloc.AttrNode: "n2"}}); err != nil {
			t.Fatal(err)
		}
		refusing := storetest.Rule{Op: storetest.OpPut, Match: func(k store.Key) bool { return k.Kind == store.Block }, Effect: storetest.Refuse}
		a.store.Inject(refusing)
		time.Sleep(DefaultTimes().Beat + time.Second)
		if _, err := a.Take(t.Context(), Claim{Handle: "doubtful"}); !fault.Is(err, fault.Unavailable) || !hasProblem(a, problem.StoreRolledBack) {
			t.Errorf("before everything is asserted: %v, %+v", err, a.State())
		}
		a.store.Heal()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		for i, addr := range append([]netip.Addr{first}, pods[:5]...) {
			if got := s.holder(addr); !strings.Contains(got, "first") && !strings.Contains(got, "later") {
				t.Errorf("pod %d: %s is held by %q", i, addr, got)
			}
			if ips, err := s.client(s.mem).IPsByHandle(t.Context(), s.holder(addr)); err != nil || len(ips) != 1 {
				t.Errorf("handle of %s: %v, %v", addr, ips, err)
			}
		}
		if got := s.holder(thief); got != "thief" {
			t.Errorf("%s is held by %q: a conflict was papered over", thief, got)
		}
		if !hasProblem(a, problem.AddressTaken) {
			t.Errorf("the conflict is not reported: %+v", a.State())
		}
		next := s.take(a, "after")
		if next == thief || next == first {
			t.Errorf("gave %s again", next)
		}
	})
}

func TestLateHeartbeatIsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		a := s.run(ReserveConfig{Node: "n1", Size: 4})
		synctest.Wait()
		for _, effect := range []storetest.Effect{storetest.Lose, storetest.Vanish, storetest.Late} {
			a.store.Inject(storetest.Rule{Op: storetest.OpPut, Match: isHeartbeat, Effect: effect, Times: 1})
			time.Sleep(DefaultTimes().Beat + time.Second)
			a.store.Flush(t.Context())
			time.Sleep(2 * DefaultTimes().Beat)
			a.store.Heal()
			if hasProblem(a, problem.IdentityConflict) || a.State().Lease < LeaseTime-2*DefaultTimes().Beat {
				t.Errorf("effect %v: %+v", effect, a.State())
			}
		}
	})
}

func TestReserveIsNeverTheLastOfAPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := cluster.Pool{Name: "two", CIDR: netip.MustParsePrefix("10.0.0.0/27"), BlockSize: 28}
		s := newSite(t, pool)
		a := s.run(ReserveConfig{Node: "n1", Size: DefaultReserve})
		synctest.Wait()
		if held := a.State().Held; held != 4 {
			t.Errorf("%d of a block of 16 held ready, want a quarter", held)
		}
		b := s.run(ReserveConfig{Node: "n2", Size: DefaultReserve})
		synctest.Wait()
		if len(b.Blocks()) != 0 {
			t.Errorf("the last block of the pool was claimed for a reserve: %v", b.Blocks())
		}
		s.take(b, "other") // a pod gets it
		synctest.Wait()
		if len(a.Blocks()) != 1 || len(b.Blocks()) != 1 {
			t.Fatalf("blocks %v and %v", a.Blocks(), b.Blocks())
		}
		for i := range 12 {
			s.take(a, fmt.Sprint("pod-", i))
			time.Sleep(time.Millisecond)
			uses, err := s.client(s.mem).Utilization(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range uses[0].Blocks {
				if u.Affinity == "host:n1" && u.Held > 0 && u.Available == 0 {
					t.Errorf("after %d pods: the reserve holds the last %d addresses", i+1, u.Held)
				}
			}
		}
		for i := range 4 { // still to be had, by a write before the answer
			s.take(a, fmt.Sprint("last-", i))
		}
		if _, err := a.Take(t.Context(), Claim{Handle: "too-many"}); !fault.Is(err, fault.Exhausted) || fault.HintOf(err) == "" {
			t.Errorf("a full pool answers %v, want exhausted with a hint", err)
		}
		if !hasProblem(a, problem.NoFreeAddress) {
			t.Errorf("a full pool is not reported: %+v", a.State())
		}
		a.Release("last-0", addrOf(a, "last-0"), nil)
		time.Sleep(2 * checkInterval)
		if hasProblem(a, problem.NoFreeAddress) {
			t.Errorf("still reported: %+v", a.State())
		}
	})
}

func TestStraysAreReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		a := s.run(ReserveConfig{Node: "n1", Size: 4})
		synctest.Wait()
		lost, kept := s.take(a, "lost"), s.take(a, "kept")
		synctest.Wait()
		a.stop()
		// The journal knows one of the two; Calico's and tunnels are not ours.
		c := s.client(s.mem)
		foreign, err := c.AutoAssign(t.Context(), AssignRequest{Node: "n1", Handle: "calico", Attrs: map[string]string{alloc.AttrNode: "n1"}, Use: Workload, Family: 4, Num: 1})
		if err != nil {
			t.Fatal(err)
		}
		b := s.run(ReserveConfig{Node: "n1", Size: 4}, Held{Handle: "kept", Addr: kept})
		time.Sleep(time.Second)
		if got := s.holder(lost); got != "lost" {
			t.Errorf("released after one look: %q", got)
		}
		time.Sleep(2 * checkInterval)
		synctest.Wait()
		if s.holder(lost) != "free" || s.holder(kept) != "kept" || s.holder(foreign[0]) != "calico" {
			t.Errorf("lost %q, kept %q, foreign %q", s.holder(lost), s.holder(kept), s.holder(foreign[0]))
		}
		if st := b.State(); st.Held != 4 || st.Pending != 0 {
			t.Errorf("state %+v", st)
		}
	})
}

func TestSmallerReserveGivesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		a := s.run(ReserveConfig{Node: "n1", Size: 8})
		synctest.Wait()
		a.stop()
		b := s.run(ReserveConfig{Node: "n1", Size: 0})
		synctest.Wait()
		uses, err := s.client(s.mem).Utilization(t.Context())
		if err != nil || uses[0].Held != 0 || uses[0].InUse != 0 {
			t.Errorf("with a size of 0: %+v, %v", uses, err)
		}
		if _, err := s.client(s.mem).IPsByHandle(t.Context(), b.handle); !fault.Is(err, fault.NotFound) {
			t.Errorf("the reserve's handle: %v", err)
		}
	})
}

// TestKilledBetweenHeartbeats ends an agent again and again after a heartbeat
// that arrived and before its lease was written down: each start knows the
// stored one for its own.
func TestKilledBetweenHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		cfg := ReserveConfig{Node: "n1", LeaseFile: filepath.Join(t.TempDir(), "lease")}
		first := s.run(cfg)
		synctest.Wait()
		first.stop()
		for i := range 5 {
			faulty := storetest.NewFaulty(s.mem)
			faulty.Inject(storetest.Rule{Op: storetest.OpPut, Match: func(k store.Key) bool { return k.Kind == store.Heartbeat }, Effect: storetest.Lose})
			a := s.runOn(faulty, cfg)
			synctest.Wait()
			if p := a.State().Problems; len(p) > 0 {
				t.Errorf("start %d: %v", i, p)
			}
			a.stop()
		}
		a := s.run(cfg)
		synctest.Wait()
		if got := a.State(); len(got.Problems) > 0 || got.Lease == 0 {
			t.Errorf("after five kills %+v", got)
		}
	})
}

func TestLeaseFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		path := filepath.Join(t.TempDir(), "run", "lease")
		a := s.run(ReserveConfig{Node: "n1", Size: 4, LeaseFile: path})
		synctest.Wait()
		s.take(a, "pod")
		synctest.Wait()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := statefile.Lease.Read(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := parseLease(body)
		if err != nil || !f.Valid || len(f.Held) != 4 || len(f.Blocks) != 1 {
			t.Errorf("lease file %s: %v", data, err)
		}
		if _, err := parseLease([]byte(`{"version":2}`)); !fault.Is(err, fault.Unsupported) {
			t.Errorf("a newer version: %v", err)
		}
	})
}

func FuzzParseLease(f *testing.F) {
	data, _ := json.Marshal(leaseFile{Version: 1, Held: []netip.Addr{netip.MustParseAddr("10.0.0.1")}})
	f.Add(data)
	f.Add([]byte(`{"counter":1,"instanceUID":"x"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if l, err := parseLease(data); err == nil && l.Version != leaseVersion {
			t.Errorf("version %d", l.Version)
		}
		if h, err := ParseHeartbeat(data); err != nil && h != (Heartbeat{}) && !json.Valid(data) {
			t.Errorf("half a heartbeat: %+v", h)
		}
	})
}
