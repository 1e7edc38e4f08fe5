// SPDX-License-Identifier: Apache-2.0

package ipamlife

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// TestOneCollectorAtATime ends the collector that leads again and again: at
// most one leads at any second, and another takes over.
func TestOneCollectorAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", 28)
		collectors := map[*ipam.Collector]func(){}
		for i := range 5 {
			k, stop := s.collect(fmt.Sprint("n", i), ipam.DefaultTimes())
			collectors[k] = stop
		}
		led := map[*ipam.Collector]bool{}
		for range 4 * 60 * 20 {
			var leads []*ipam.Collector
			for k := range collectors {
				if k.Leads() {
					leads = append(leads, k)
				}
			}
			if len(leads) > 1 {
				t.Fatalf("%d collectors at once", len(leads))
			}
			if len(leads) == 1 && !led[leads[0]] {
				led[leads[0]] = true
				if len(led) < 5 {
					collectors[leads[0]]()
					delete(collectors, leads[0])
				}
			}
			time.Sleep(time.Second)
		}
		if len(led) != 5 {
			t.Errorf("%d of 5 collectors led in turn", len(led))
		}
	})
}

// TestOutageIsNoStandstill takes the datastore away for hours: no heartbeat
// could be written, and nobody is taken for gone because of that.
func TestOutageIsNoStandstill(t *testing.T) {
	r := chaos.Begin(t, "E1", "datastore away for 5 h, idle nodes and one whose Node is gone; the collector comes back first", "nothing reclaimed from nodes that live")
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", 28)
		flaky := s.boot("watcher", "iw", "bw")
		k := ipam.NewCollector(ipam.CollectorConfig{Client: s.client(flaky.store), Node: "watcher", Session: "w", Log: discard()})
		s.run(k)
		nodes := []*machine{s.boot("n1", "i1", "b1"), s.boot("n2", "i2", "b2")}
		time.Sleep(time.Minute)
		addr := nodes[1].mustAdd("pod")
		time.Sleep(110 * time.Minute)
		s.unregister("n2")
		for _, m := range append(nodes, flaky) {
			m.cutOff()
		}
		time.Sleep(5 * time.Hour)
		before := s.count(ipamKinds...)
		flaky.store.Heal()
		time.Sleep(11 * time.Minute) // it leads, and has looked twice, before anybody else is back
		for _, m := range nodes {
			m.store.Heal()
		}
		time.Sleep(time.Hour)
		after := s.count(ipamKinds...)
		if !k.Leads() || after[store.Block] != before[store.Block] || s.holder(addr) != "pod" {
			t.Errorf("leads %v, before %v, after %v, the pod's address is held by %q", k.Leads(), before, after, s.holder(addr))
		}
		r.Measuredf("%d of %d blocks reclaimed from living nodes", before[store.Block]-after[store.Block], before[store.Block])
		nodes[1].die()
		time.Sleep(3 * time.Hour)
		if s.holder(addr) != "free" {
			t.Error("what a dead node held is not reclaimed")
		}
		r.Twinf("the node without Node died after that: reclaimed")
	})
}

func TestCollectorRepairs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", 28)
		s.collect("n1", ipam.DefaultTimes())
		m := s.boot("n1", "i1", "b1")
		time.Sleep(time.Minute)
		addr := m.mustAdd("pod")
		time.Sleep(7 * time.Second) // all of it is written
		put := func(kind store.Kind, name, value string) {
			t.Helper()
			if _, err := s.mem.Put(t.Context(), store.Key{Kind: kind, Name: name}, []byte(value), store.AnyRevision); err != nil {
				t.Fatal(err)
			}
		}
		own := m.r.Blocks()[0].CIDR
		b := alloc.NewBlock(netip.MustParsePrefix("10.0.0.240/28"), "", s.start, 1)
		b.ClearAffinity()
		orphan, _ := b.Encode()
		put(store.Block, names.Block(b.CIDR), string(orphan))
		put(store.Affinity, names.Affinity("other", own), `{"state":"confirmed","deleted":false}`)
		put(store.Handle, "left-by-a-crash", fmt.Sprintf(`{"block":{%q:2},"deleted":false}`, own))
		put(store.Handle, "pod", fmt.Sprintf(`{"block":{%q:7},"deleted":false}`, own))
		if err := s.mem.Delete(t.Context(), store.Key{Kind: store.Affinity, Name: names.Affinity("n1", own)}, store.AnyRevision); err != nil {
			t.Fatal(err)
		}
		nobody := func(context.Context) ([]ipam.Pods, error) { return nil, nil }
		found, _, err := s.client(s.mem).Check(t.Context(), nobody)
		if err != nil || len(found) != 5 {
			t.Errorf("check found %+v, %v, want five things", found, err)
		}
		time.Sleep(3 * time.Hour)
		found, _, err = s.client(s.mem).Check(t.Context(), nobody)
		if err != nil || len(found) > 0 || s.holder(addr) != "pod" {
			t.Errorf("after three hours %+v, %v, the pod's address is held by %q", found, err, s.holder(addr))
		}
		if ips, err := s.client(s.mem).IPsByHandle(t.Context(), "pod"); err != nil || len(ips) != 1 {
			t.Errorf("the pod's handle: %v, %v", ips, err)
		}
	})
}

// TestNodeComesBackWhileReclaimed lets a node start again at every moment of
// its being reclaimed: between any two of the collector's writes.
func TestNodeComesBackWhileReclaimed(t *testing.T) {
	r := chaos.Begin(t, "B12", "the node starts again between any two writes of the reclaim", "0 addresses given twice, 0 of its pods lost unreported")
	twice, late, moments := 0, 0, 0
	for n := 0; n < 40; n++ {
		done := false
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, "10.0.0.0/27", 28) // two blocks: what is freed is wanted at once
			other := s.boot("n2", "i2", "b2")
			m := s.boot("n1", "i1", "b1")
			time.Sleep(time.Minute)
			for i := range 6 {
				m.mustAdd(fmt.Sprint("pod-", i))
			}
			for i := range 16 {
				other.mustAdd(fmt.Sprint("full-", i))
			}
			time.Sleep(time.Second)
			m.stop() // its pods run on
			s.unregister("n1")
			gate := &gated{Store: s.mem, after: n, reached: make(chan struct{}), open: make(chan struct{})}
			s.run(ipam.NewCollector(ipam.CollectorConfig{Client: s.client(gate), Node: "n2", Session: "k", Log: discard()}))
			time.Sleep(119 * time.Minute)
			gate.arm()
			select {
			case <-gate.reached:
			case <-time.After(30 * time.Minute):
				done = true // it has fewer writes than that
			}
			back := s.bootWith(m.cfg, m.pods)
			for i := range 8 {
				time.Sleep(7 * time.Second)
				if i == 2 {
					close(gate.open)
				}
				_, _ = back.add(fmt.Sprint("back-", i))
				_, _ = other.add(fmt.Sprint("other-", i))
			}
			for i := range 30 {
				time.Sleep(30 * time.Second)
				_, _ = back.add(fmt.Sprint("later-", i))
				_, _ = other.add(fmt.Sprint("others-", i))
			}
			for _, one := range s.twice {
				if strings.Contains(one, " of pod-") {
					late++ // of a pod whose node was reclaimed in full before it came back
					continue
				}
				twice++
				t.Errorf("write %d: given twice %s", n, one)
			}
			for pod, addr := range back.pods {
				if s.holder(addr) != pod && !back.reports(problem.AddressTaken) {
					t.Errorf("write %d: %s of %s is held by %q", n, addr, pod, s.holder(addr))
				}
			}
		})
		if done {
			break
		}
		moments++
	}
	if moments < 8 {
		t.Errorf("the reclaim has only %d writes", moments)
	}
	r.Measuredf("%d moments: %d given twice; %d of pods that were reclaimed before their node was back, all reported (OC2006)", moments, twice, late)
}

// TestBlocksDeleted deletes IPAM objects under living nodes.
func TestBlocksDeleted(t *testing.T) {
	r := chaos.Begin(t, "E9", "all blocks, affinities and handles deleted under 4 living nodes, heartbeats stay", "every pod's address and block asserted again, 0 given twice")
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/22", 26)
		var nodes []*machine
		for i := range 4 {
			name := fmt.Sprint("n", i)
			nodes = append(nodes, s.boot(name, "i-"+name, "b-"+name))
			time.Sleep(time.Minute)
			for j := range 12 {
				nodes[i].mustAdd(fmt.Sprintf("pod-%d-%d", i, j))
			}
		}
		time.Sleep(time.Minute)
		var all []store.Write
		for _, kind := range []store.Kind{store.Block, store.Affinity, store.Handle} {
			entries, _, err := s.mem.List(t.Context(), kind, "")
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				all = append(all, store.Write{Key: e.Key, Delete: true, Prev: e.Revision})
			}
		}
		if len(all) < 48+4+4 {
			t.Errorf("%d objects of 48 pods on 4 nodes", len(all))
		}
		if err := s.mem.Commit(t.Context(), all); err != nil { // at once: the nodes see it at once
			t.Fatal(err)
		}
		start := time.Now()
		missing := func() int {
			n := 0
			for _, m := range nodes {
				n += released(s, m.pods)
			}
			return n
		}
		for missing() > 0 && time.Since(start) < time.Hour {
			time.Sleep(time.Second)
		}
		took := time.Since(start)
		for i, m := range nodes {
			for j := range 12 {
				m.mustAdd(fmt.Sprintf("new-%d-%d", i, j))
			}
		}
		if len(s.twice) > 0 || took > 2*time.Minute {
			t.Errorf("given twice %v, asserted after %s", s.twice, took)
		}
		r.Measuredf("%d objects deleted: 48 of 48 pods asserted again after %s, %d given twice", len(all), took.Round(time.Second), len(s.twice))
	})
}
