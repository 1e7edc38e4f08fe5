// SPDX-License-Identifier: Apache-2.0

package ipamlife

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// reports says whether a machine reports a problem.
func (m *machine) reports(code problem.Code) bool {
	for _, p := range m.r.State().Problems {
		if p.Code == code {
			return true
		}
	}
	return false
}

// assign gives an address as Calico would: without instance and boot.
func assign(t *testing.T, s *site, handle string, attrs map[string]string) netip.Addr {
	t.Helper()
	addrs, err := s.client(s.mem).AutoAssign(t.Context(), ipam.AssignRequest{Node: "n1", Handle: handle, Attrs: attrs, Use: ipam.Workload, Family: 4, Num: 1})
	if err != nil {
		t.Fatal(err)
	}
	return addrs[0]
}

func TestLeakedAddress(t *testing.T) {
	r := chaos.Begin(t, "B14", "half of the pods are gone from the journal without a DEL; the agent restarts", "all leaked addresses back after two looks, 0 of living pods")
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/22", 26)
		m := s.boot("n1", "i1", "b1")
		time.Sleep(time.Second)
		for i := range 40 {
			m.mustAdd(fmt.Sprint("pod-", i))
		}
		time.Sleep(time.Second)
		m.stop()
		kept := map[string]netip.Addr{}
		for pod, addr := range m.pods {
			if len(kept) < 20 {
				kept[pod] = addr
			}
		}
		all := m.pods
		next := s.bootWith(m.cfg, kept)
		time.Sleep(time.Second)
		early := released(s, all)
		start := time.Now()
		for released(s, all) < 20 && time.Since(start) < time.Hour {
			time.Sleep(time.Second)
		}
		lifetime := time.Since(start)
		time.Sleep(time.Hour)
		wrong := 0
		for pod, addr := range kept {
			if s.holder(addr) != pod {
				wrong++
			}
		}
		if early > 0 || wrong > 0 || lifetime > 5*time.Minute || next.r.State().Pending > 0 {
			t.Errorf("%d released at the first look, %d of living pods, leak lifetime %s", early, wrong, lifetime)
		}
		r.Measuredf("20 of 20 leaked back after %s, %d at the first look, %d of 20 living released", lifetime.Round(time.Second), early, wrong)
	})
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/22", 26)
		m := s.boot("n1", "i1", "b1")
		time.Sleep(time.Second)
		for i := range 20 {
			m.mustAdd(fmt.Sprint("pod-", i))
		}
		time.Sleep(time.Second)
		m.stop()
		s.bootWith(m.cfg, nil)
		time.Sleep(time.Hour)
		if released(s, m.pods) != 20 {
			t.Errorf("%d of 20 released by an agent that lost its journal", released(s, m.pods))
		}
		r.Twinf("journal lost and not rebuilt: %d of 20 living released", released(s, m.pods))
	})
}

// released counts those of the pods whose address they hold no more.
func released(s *site, pods map[string]netip.Addr) int {
	n := 0
	for pod, addr := range pods {
		if s.holder(addr) != pod {
			n++
		}
	}
	return n
}

func TestHandleOfSeveral(t *testing.T) {
	r := chaos.Begin(t, "B15", "a living pod's handle holds two more addresses", "none released while the pod lives, all after its DEL")
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/22", 26)
		m := s.boot("n1", "i1", "b1")
		time.Sleep(time.Second)
		addr := m.mustAdd("pod")
		time.Sleep(time.Second)
		attrs := map[string]string{alloc.AttrNode: "n1", alloc.AttrInstance: "i1", alloc.AttrBoot: "b1"}
		more := []netip.Addr{assign(t, s, "pod", attrs), assign(t, s, "pod", attrs)}
		time.Sleep(time.Hour)
		wrong := 0
		for _, a := range append(more, addr) {
			if s.holder(a) != "pod" {
				wrong++
			}
		}
		m.r.Release("pod", addr, nil)
		time.Sleep(10 * time.Minute)
		left, err := s.client(s.mem).IPsByHandle(t.Context(), "pod")
		if wrong > 0 || !fault.Is(err, fault.NotFound) {
			t.Errorf("%d released while the pod lived; after its DEL %v, %v", wrong, left, err)
		}
		r.Measuredf("%d of 3 released in an hour while the pod lives, %d left after its DEL", wrong, len(left))
	})
}

func TestLateRelease(t *testing.T) {
	rounds := chaos.Scale(2000, 100000)
	seed := chaos.Seed(t)
	r := chaos.Begin(t, "B16", "releases of allocations seen earlier, in between their addresses are given anew to the same handle or another", "0 wrong releases")
	late := func(guarded bool) (wrong, refused int) {
		s := newSite(t, "10.0.0.0/28", 28)
		s.register("n1")
		c := s.client(s.mem)
		dice := rand.New(rand.NewPCG(seed, 2))
		type allocation struct {
			rel      alloc.Release
			sequence uint64
		}
		var remembered []allocation
		live := map[netip.Addr]uint64{}
		for range rounds {
			if dice.IntN(2) == 0 || len(remembered) == 0 {
				addrs, err := c.AutoAssign(t.Context(), ipam.AssignRequest{Node: "n1", Handle: fmt.Sprint("h", dice.IntN(3)), Use: ipam.Workload, Family: 4, Num: 1})
				if err != nil {
					continue // full
				}
				who, seq, err := c.Allocation(t.Context(), addrs[0])
				if err != nil {
					t.Fatal(err)
				}
				live[addrs[0]] = seq
				seen := allocation{alloc.Release{Addr: addrs[0], Handle: who.Handle}, seq}
				if guarded {
					seen.rel.Sequence = &seq
				}
				remembered = append(remembered[max(0, len(remembered)-64):], seen)
				continue
			}
			seen := remembered[dice.IntN(len(remembered))]
			done, err := c.ReleaseIPs(t.Context(), []alloc.Release{seen.rel})
			switch {
			case err != nil:
				refused++
			case len(done.Freed) == 1:
				if live[seen.rel.Addr] != seen.sequence {
					wrong++
				}
				delete(live, seen.rel.Addr)
			}
		}
		return wrong, refused
	}
	wrong, refused := late(true)
	if wrong > 0 || refused == 0 {
		t.Errorf("seed %d: %d wrong releases, %d refused", seed, wrong, refused)
	}
	r.Measuredf("%d operations (seed %d): %d wrong releases, %d refused", rounds, seed, wrong, refused)
	twin, _ := late(false)
	if twin == 0 {
		t.Error("without sequence numbers nothing wrong is seen")
	}
	r.Twinf("without the sequence number: %d wrong releases", twin)
}

func TestTwoMachinesOfOneName(t *testing.T) {
	r := chaos.Begin(t, "F7", "a second machine is given a living node's name", "it refuses and says why (OC5004), 0 addresses given twice")
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/22", 26)
		first, second := s.boot("n1", "i1", "b1"), (*machine)(nil)
		time.Sleep(time.Second)
		first.mustAdd("first")
		second = s.boot("n1", "i2", "b2")
		given, refused := 0, 0
		for i := range 60 {
			time.Sleep(time.Minute)
			if i%10 == 0 {
				first.mustAdd(fmt.Sprint("first-", i))
			}
			if _, err := second.add(fmt.Sprint("second-", i)); err == nil {
				given++
			} else if fault.Is(err, fault.Unavailable) && strings.Contains(err.Error(), "i1") {
				refused++
			}
		}
		if given > 0 || refused != 60 || !second.reports(problem.IdentityConflict) || first.reports(problem.IdentityConflict) || len(s.twice) > 0 {
			t.Errorf("the second gave %d and refused %d of 60, given twice %v", given, refused, s.twice)
		}
		r.Measuredf("%d of 60 ADDs refused by the second with the reason, OC5004 reported there, %d given twice", refused, len(s.twice))
	})
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/22", 26)
		first := s.boot("n1", "i1", "b1")
		time.Sleep(time.Second)
		second := s.bootWith(first.cfg, nil) // nothing tells it from the first
		time.Sleep(time.Second)
		_, _ = first.add("first")
		_, _ = second.add("second")
		if len(s.twice) == 0 {
			t.Error("two machines with one instance and boot id give nothing twice")
		}
		r.Twinf("instance and boot id of both the same: %d of 1 given twice", len(s.twice))
	})
}

func TestNodeAsleep(t *testing.T) {
	r := chaos.Begin(t, "F8", "a node silent for 5 min, and for 3 h, ADDs at once when it wakes", "0 addresses given twice; ADDs served again")
	for _, away := range []time.Duration{5 * time.Minute, 3 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			twice, took := sleepFor(t, away, true)
			if twice > 0 || took > 15*time.Minute { // its block may be another's by now, and come back only then
				t.Errorf("away %s: %d given twice, served again after %s", away, twice, took)
			}
			r.Measuredf("away %s: %d given twice, served again after %s", away, twice, took.Round(time.Second))
		})
	}
	synctest.Test(t, func(t *testing.T) {
		twice, _ := sleepFor(t, 3*time.Hour, false)
		if twice == 0 {
			t.Error("with a clock that stops in sleep nothing is given twice")
		}
		r.Twinf("lease on a clock that stops in sleep, away 3 h: %d given twice", twice)
	})
}

// sleepFor lets a node without pods sleep while another takes all it can get,
// and ADD at once when it wakes. Its lease runs on a clock that counts the
// sleep, or does not.
func sleepFor(t *testing.T, away time.Duration, counts bool) (twice int, took time.Duration) {
	s := newSite(t, "10.0.0.0/26", 28)
	s.collect("n2", ipam.DefaultTimes())
	var asleepSince time.Time
	var slept time.Duration
	clock := func() time.Duration {
		now := time.Since(s.start) - slept
		if !counts && !asleepSince.IsZero() {
			now = asleepSince.Sub(s.start)
		}
		return now
	}
	asleep := s.bootWith(ipam.ReserveConfig{Node: "n1", InstanceUID: "i1", BootID: "b1", Size: 4, Boottime: clock}, nil)
	other := s.boot("n2", "i2", "b2")
	time.Sleep(2 * time.Minute)
	asleep.cutOff()
	asleepSince = time.Now()
	for i := range 80 {
		_, _ = other.add(fmt.Sprint("other-", i))
		time.Sleep(away / 80)
	}
	if !counts {
		slept = time.Since(asleepSince)
	}
	asleepSince = time.Time{}
	start := time.Now()
	_, _ = asleep.add("at once")
	asleep.store.Heal()
	for pod, addr := range other.pods { // makes room
		other.r.Release(pod, addr, nil)
		s.mu.Lock()
		delete(s.owners, addr)
		s.mu.Unlock()
		if len(other.pods) > 8 {
			delete(other.pods, pod)
		}
	}
	for i := 0; time.Since(start) < time.Hour; i++ {
		if _, err := asleep.add(fmt.Sprint("woken-", i)); err == nil {
			break
		}
		time.Sleep(time.Second)
	}
	return len(s.twice), time.Since(start)
}

// backup and restore copy the datastore as an administrator does.
func (s *site) backup() map[store.Key][]byte {
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
	for key := range s.backup() {
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
	rounds := chaos.Scale(12, 200)
	seed := chaos.Seed(t)
	r := chaos.Begin(t, "E9", "8 nodes with pods; an old backup restored, or all of IPAM deleted; pods added all along", "0 addresses given twice; every pod's address held again")
	lost, twice := 0, 0
	for round := range rounds {
		synctest.Test(t, func(t *testing.T) {
			given, unsaid := restoreOnce(t, seed, round, "10.0.0.0/23", false)
			twice, lost = twice+given, lost+unsaid
			if given+unsaid > 0 {
				t.Errorf("seed %d round %d: %d given twice, %d pods whose address is not theirs and nobody says so", seed, round, given, unsaid)
			}
		})
	}
	r.Measuredf("%d restores (seed %d): %d given twice, %d pods whose address is not theirs and unreported", rounds, seed, twice, lost)
	twice, lost = 0, 0
	for round := range 4 {
		synctest.Test(t, func(t *testing.T) {
			given, unsaid := restoreOnce(t, seed, round, "10.0.0.0/24", true)
			twice, lost = twice+given, lost+unsaid
		})
	}
	if twice == 0 || lost > 0 {
		t.Errorf("seed %d: with agents away while the datastore is restored %d given twice, %d unreported", seed, twice, lost)
	}
	r.Twinf("2 of 8 agents away, their pods running, pool full, 4 restores: %d given twice, %d of them unreported (OC2006) once they are back", twice, lost)
}

// restoreOnce restores an old backup, or deletes all of IPAM, under nodes that
// go on adding pods. It returns how many addresses were given twice and how
// many pods do not hold theirs without a report. With absent the agents that
// joined after the backup are away meanwhile.
func restoreOnce(t *testing.T, seed uint64, round int, pool string, absent bool) (twice, unsaid int) {
	s := newSite(t, pool, 28)
	s.collect("n0", ipam.DefaultTimes())
	dice := rand.New(rand.NewPCG(seed, uint64(round)))
	var nodes []*machine
	join := func() {
		name := fmt.Sprint("n", len(nodes))
		nodes = append(nodes, s.boot(name, "i-"+name, "b-"+name))
		time.Sleep(time.Duration(dice.IntN(20)+1) * time.Second)
	}
	pods := 0
	churn := func(n int) {
		for range n {
			m := nodes[dice.IntN(len(nodes))]
			pods++
			_, _ = m.add(fmt.Sprint("pod-", pods))
			time.Sleep(time.Duration(dice.IntN(8)) * time.Second)
		}
	}
	for range 6 {
		join()
	}
	churn(60)
	backup := s.backup()
	join()
	join()
	churn(80)
	if round%3 == 0 {
		for key := range backup {
			switch key.Kind {
			case store.Block, store.Affinity, store.Handle, store.Heartbeat:
			default:
				continue
			}
			delete(backup, key)
		}
	}
	away := nodes[6:]
	if absent {
		for _, m := range away {
			m.stop()
		}
		nodes = nodes[:6]
	}
	s.restore(backup)
	churn(120)
	if absent {
		for _, m := range away {
			nodes = append(nodes, s.bootWith(m.cfg, m.pods))
		}
	}
	time.Sleep(10 * time.Minute)
	for _, m := range nodes {
		for pod, addr := range m.pods {
			if s.holder(addr) != pod && !m.reports(problem.AddressTaken) {
				unsaid++
			}
		}
	}
	return len(s.twice), unsaid
}
