// SPDX-License-Identifier: Apache-2.0

package ipamlife

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// cutOffAndDeleted cuts a node off, deletes its Node, lets it give out its
// reserve as long as it does, and another node take all it can get meanwhile.
// It returns how many were given twice within two hours, when the other node
// got the lost one's block, and how many the lost one gave.
func cutOffAndDeleted(t *testing.T, times ipam.Times) (twice int, reclaimed time.Duration, given int) {
	s := newSite(t, "10.0.0.0/27", 28)
	k, _ := s.collect("n2", times)
	lost, other := s.boot("n1", "i1", "b1"), s.boot("n2", "i2", "b2")
	synctest.Wait()
	lost.mustAdd("lost-0")
	for i := range 4 {
		other.mustAdd(fmt.Sprint("first-", i))
	}
	time.Sleep(10 * time.Minute)
	if !k.Leads() {
		t.Fatal("nobody collects")
	}
	lost.cutOff()
	s.unregister("n1")
	start := time.Now()
	for i := 0; time.Since(start) < 4*time.Hour; i++ {
		if i%3 == 0 {
			if _, err := lost.add(fmt.Sprint("lost-", i+1)); err == nil {
				given++
			}
		}
		_, err := other.add(fmt.Sprint("other-", i))
		if err == nil && reclaimed == 0 && len(other.r.Blocks()) > 1 {
			reclaimed = time.Since(start)
		}
		if time.Since(start) < 2*time.Hour {
			twice = len(s.twice)
		}
		time.Sleep(5 * time.Minute)
	}
	return twice, reclaimed, given
}

func TestNodeDeletedWhilePodsRun(t *testing.T) {
	r := chaos.Begin(t, "B12", "node cut off from the datastore, its Node deleted, another node takes every address it can get", "nothing given twice while the lost node's lease runs")
	synctest.Test(t, func(t *testing.T) {
		twice, reclaimed, given := cutOffAndDeleted(t, ipam.DefaultTimes())
		if reclaimed < 2*time.Hour || reclaimed > 2*time.Hour+20*time.Minute {
			t.Errorf("reclaimed after %s", reclaimed)
		}
		if given == 0 || given > 4 {
			t.Errorf("the lost node gave %d addresses of its reserve of 4", given)
		}
		if twice > 0 {
			t.Errorf("%d given twice", twice)
		}
		r.Measuredf("%d given twice in the 2 h before the reclaim, which came after %s; the lost node gave %d from its reserve", twice, reclaimed.Round(time.Minute), given)
	})
	synctest.Test(t, func(t *testing.T) {
		times := ipam.DefaultTimes()
		times.Reclaim = 10 * time.Minute
		twice, reclaimed, _ := cutOffAndDeleted(t, times)
		if twice == 0 || reclaimed > time.Hour {
			t.Errorf("with reclaim before the lease's end: %d given twice, reclaimed after %s", twice, reclaimed)
		}
		r.Twinf("reclaim after 10 min, within the lease: %d given twice", twice)
	})
}

func TestNodeOfTheSameNameAtOnce(t *testing.T) {
	rounds := chaos.Scale(40, 2000)
	r := chaos.Begin(t, "B13", "machine replaced by one of its name at once, again and again, the old pods run on for an hour", "0 addresses given twice; the old machines' addresses come back")
	synctest.Test(t, func(t *testing.T) {
		twice, left, lifetime := replace(t, rounds, "10.0.0.0/20", 26, ipam.DefaultTimes())
		if twice > 0 || left != 1+3 {
			t.Errorf("%d given twice, %d handles left, want the last machine's reserve and three pods", twice, left)
		}
		r.Measuredf("%d machines: %d given twice, all addresses of the old ones back %s after the last", rounds, twice, lifetime.Round(time.Minute))
	})
	synctest.Test(t, func(t *testing.T) {
		times := ipam.DefaultTimes()
		times.Reclaim = 10 * time.Minute
		twice, _, _ := replace(t, 20, "10.0.0.0/27", 28, times)
		if twice == 0 {
			t.Error("with the old machine's addresses freed after 10 min nothing is given twice")
		}
		r.Twinf("old machine's addresses freed after 10 min: %d given twice by 20 machines", twice)
	})
}

// replace replaces a machine by another of its name, again and again. The old
// one's pods run for an hour more. It returns how many addresses were given
// twice, how many handles are left at the end, and when no more of them went.
func replace(t *testing.T, rounds int, pool string, blockSize int, times ipam.Times) (twice, left int, lifetime time.Duration) {
	s := newSite(t, pool, blockSize)
	s.collect("watcher", times)
	var before *machine
	for i := range rounds {
		m := s.boot("n1", fmt.Sprint("instance-", i), fmt.Sprint("boot-", i))
		if before != nil {
			before.cutOff()
			before.stop() // the agent is gone, its pods are not
		}
		time.Sleep(4*time.Minute + 10*time.Second)
		for j := range 3 {
			m.mustAdd(fmt.Sprintf("pod-%d-%d", i, j))
		}
		if before != nil {
			for j := range 20 { // pods come and go while the old ones still run
				time.Sleep(3 * time.Minute)
				pod := fmt.Sprintf("short-%d-%d", i, j)
				addr := m.mustAdd(pod)
				m.r.Release(pod, addr, nil)
				delete(m.pods, pod)
				s.mu.Lock()
				delete(s.owners, addr)
				s.mu.Unlock()
			}
			before.die()
		}
		before = m
	}
	start := time.Now()
	for time.Since(start) < 5*time.Hour && len(holders(s)) > 1+3 {
		time.Sleep(5 * time.Minute)
	}
	return len(s.twice), len(holders(s)), time.Since(start)
}

func TestNodeChurn(t *testing.T) {
	nodes := chaos.Scale(300, 10000)
	seed := chaos.Seed(t)
	r := chaos.Begin(t, "B21", "nodes come, start pods, and die without a word; their Nodes are deleted", "0 blocks, affinities, handles or heartbeats left")
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/16", 26)
		s.collect("watcher", ipam.DefaultTimes())
		dice := rand.New(rand.NewPCG(seed, 1))
		alive := map[string]*machine{}
		most := 0
		for i := range nodes {
			node := fmt.Sprint("spot-", i)
			m := s.boot(node, "i-"+node, "b-"+node)
			alive[node] = m
			time.Sleep(time.Second)
			for j := range dice.IntN(8) {
				m.mustAdd(fmt.Sprintf("%s-pod-%d", node, j))
			}
			if dice.IntN(4) == 0 { // a pod deleted, its release perhaps cut off by the death
				for pod, addr := range m.pods {
					m.r.Release(pod, addr, nil)
					delete(m.pods, pod)
					s.mu.Lock()
					delete(s.owners, addr)
					s.mu.Unlock()
					break
				}
			}
			time.Sleep(time.Duration(dice.IntN(60)) * time.Second)
			for name, old := range alive {
				if len(alive) > 8 || dice.IntN(16) == 0 {
					old.die()
					s.unregister(name)
					delete(alive, name)
				}
			}
			most = max(most, s.count(ipamKinds...)["IPAMBlock"])
		}
		for name, old := range alive {
			old.die()
			s.unregister(name)
		}
		time.Sleep(4 * time.Hour)
		left := s.count(ipamKinds...)
		if len(left) > 0 || len(s.twice) > 0 {
			t.Errorf("seed %d: left %v, given twice %v", seed, left, s.twice)
		}
		r.Measuredf("%d nodes (seed %d): %d objects left, at most %d blocks at once, %d given twice", nodes, seed, len(left), most, len(s.twice))
	})
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/16", 26)
		for i := range 20 {
			node := fmt.Sprint("spot-", i)
			m := s.boot(node, "i-"+node, "b-"+node)
			time.Sleep(time.Second)
			m.mustAdd(node + "-pod")
			time.Sleep(time.Second)
			m.die()
			s.unregister(node)
		}
		time.Sleep(4 * time.Hour)
		left := s.count(ipamKinds...)
		if left["IPAMBlock"] != 20 {
			t.Errorf("without a collector %v is left of 20 nodes", left)
		}
		r.Twinf("no collector: %d blocks of 20 nodes left", left["IPAMBlock"])
	})
}

// holders are the handles that hold an address.
func holders(s *site) map[string]bool {
	found := map[string]bool{}
	for addr := s.pool.CIDR.Addr(); s.pool.CIDR.Contains(addr); addr = addr.Next() {
		if h := s.holder(addr); h != "free" {
			found[h] = true
		}
	}
	return found
}
