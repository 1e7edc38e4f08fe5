// SPDX-License-Identifier: Apache-2.0

package table

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// wantChanged checks what a call reported.
func wantChanged(t *testing.T, what string, got []netip.Prefix, want ...netip.Prefix) {
	t.Helper()
	got = slices.SortedFunc(slices.Values(got), netip.Prefix.Compare)
	if !slices.Equal(got, want) {
		t.Errorf("%s: changed %v, want %v", what, got, want)
	}
}

func TestDumpShowsWhatWasLearned(t *testing.T) {
	table := New(self)
	table.Originate([]speaker.Advertisement{{Prefix: prefix("172.16.9.0/26"), NextHop: addr("192.168.0.1"), LocalPref: 7}})
	table.Update(member(2), announcing(path(via(65002, 70000), med(4), origin(message.OriginEGP)), block))
	table.MarkStale(member(2).Addr)
	want := []speaker.Path{
		{
			Prefix: block, NextHop: addr("192.168.0.9"), From: member(2).Addr, FromName: "node2",
			LocalPref: 100, MED: 4, ASPath: []speaker.ASN{65002, 70000}, Origin: "EGP",
			Stale: true, Best: true, Why: "chosen: only path",
		},
		{
			Prefix: prefix("172.16.9.0/26"), NextHop: addr("192.168.0.1"), LocalPref: 7, Origin: "IGP",
			Best: true, Why: "chosen: only path",
		},
	}
	compareAddr := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if d := cmp.Diff(want, table.Dump(), compareAddr, equal); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	if table.Paths(prefix("1.2.3.0/24")) != nil {
		t.Error("paths to a prefix nobody announced")
	}
}

func TestChangesAreReportedOnce(t *testing.T) {
	table := New(self)
	other := prefix("172.16.0.128/26")
	wantChanged(t, "new", table.Update(member(0), announcing(path(), block, other)), block, other)
	wantChanged(t, "same again", table.Update(member(0), announcing(path(), block)))
	wantChanged(t, "worse", table.Update(member(3), announcing(path(localPref(50)), block)))
	wantChanged(t, "worse goes", table.Update(member(3), &message.Update{Withdrawn: []netip.Prefix{block}}))
	wantChanged(t, "other attributes", table.Update(member(0), announcing(path(med(1)), block)), block)
	wantChanged(t, "withdrawn and announced as before", table.Update(member(0), &message.Update{
		Withdrawn: []netip.Prefix{block}, NLRI: []netip.Prefix{block}, Attrs: path(med(1))}))
	wantChanged(t, "never announced", table.Update(member(0), &message.Update{Withdrawn: []netip.Prefix{prefix("1.2.3.0/24")}}))
	wantChanged(t, "dropped", table.DropPeer(member(0).Addr), block, other)
	wantChanged(t, "dropped again", table.DropPeer(member(0).Addr))
	if table.Received(member(0).Addr) != 0 || len(table.Dump()) != 0 {
		t.Errorf("%v is left", table.Dump())
	}
}

func TestUnusableRoutesAreKeptButNotChosen(t *testing.T) {
	table := New(self)
	wantChanged(t, "next hop is ours", table.Update(member(0), announcing(path(nextHop("192.168.0.77")), block)), block)
	local := self
	local.Addrs = append(slices.Clone(self.Addrs), addr("192.168.0.77"))
	wantChanged(t, "address added", table.SetLocal(local), block)
	if _, ok := table.Best(block); ok || table.Received(member(0).Addr) != 1 || table.Snapshot().Len() != 0 {
		t.Errorf("%v", table.Dump())
	}
	wantChanged(t, "address removed", table.SetLocal(self), block)
	if _, ok := table.Best(block); !ok {
		t.Error("the route did not come back")
	}
	local.ClusterID = addr("10.77.0.1")
	table.SetLocal(local)
	table.Update(member(0), announcing(path(reflected("10.9.9.9", "10.77.0.1")), block))
	if why := table.Paths(block)[0].Why; why != "unusable: own cluster 10.77.0.1 is in the cluster list" {
		t.Errorf("why: %q", why)
	}
}

// A peer that restarts and says the same again causes no route event at all:
// this is what makes a restart lossless.
func TestGracefulRestartWithoutChange(t *testing.T) {
	table := New(self)
	p, other := member(0), prefix("172.16.0.128/26")
	table.Update(p, announcing(path(), block, other))
	before := table.Snapshot()
	wantChanged(t, "session lost", table.MarkStale(p.Addr))
	if !table.Stale(p.Addr) || !table.Paths(block)[0].Stale {
		t.Error("not marked")
	}
	wantChanged(t, "said again", table.Update(p, announcing(path(), block, other)))
	if table.Stale(p.Addr) {
		t.Error("still stale although all was said again")
	}
	wantChanged(t, "End-of-RIB", table.Update(p, &message.Update{EndOfRIB: true}))
	if table.Snapshot() != before {
		t.Error("another snapshot although nothing changed")
	}
}

func TestGracefulRestartWithFewerRoutes(t *testing.T) {
	table := New(self)
	p, other := member(0), prefix("172.16.0.128/26")
	table.Update(p, announcing(path(), block, other))
	table.MarkStale(p.Addr)
	wantChanged(t, "one said again", table.Update(p, announcing(path(), block)))
	if !table.Stale(p.Addr) {
		t.Error("not stale although a route is missing")
	}
	wantChanged(t, "End-of-RIB", table.Update(p, &message.Update{EndOfRIB: true}), other)
	if table.Stale(p.Addr) || table.Received(p.Addr) != 1 {
		t.Errorf("stale %v, %d routes", table.Stale(p.Addr), table.Received(p.Addr))
	}
}

func TestStaleRoutesDoNotOutliveASecondRestart(t *testing.T) {
	table := New(self)
	p, other := member(0), prefix("172.16.0.128/26")
	table.Update(p, announcing(path(), block, other))
	table.MarkStale(p.Addr)
	table.Update(p, announcing(path(), block))
	wantChanged(t, "died again before End-of-RIB", table.MarkStale(p.Addr), other)
	wantChanged(t, "timer", table.SweepStale(p.Addr), block)
	wantChanged(t, "timer again", table.SweepStale(p.Addr))
	wantChanged(t, "unknown peer", table.MarkStale(addr("1.2.3.4")))
}

func TestPeerThatComesBackAsAnother(t *testing.T) {
	table := New(self)
	p := member(0) // router ID 10.9.0.255
	table.Update(p, announcing(path(), block))
	table.Update(member(1), announcing(path(), block)) // 10.9.0.254 is better
	table.Snapshot()
	p.RouterID = addr("10.9.0.1")
	wantChanged(t, "better router ID", table.Update(p, &message.Update{}), block)
	p.Name = "renamed"
	before := table.Snapshot()
	wantChanged(t, "name", table.Update(p, &message.Update{}), block)
	for r := range table.Snapshot().All() {
		if r.FromName != "renamed" || table.Snapshot() == before {
			t.Errorf("snapshot has %+v", r)
		}
	}
}

func TestOriginateIsTheWholeSet(t *testing.T) {
	table := New(self)
	other, third := prefix("172.16.0.128/26"), prefix("172.16.0.192/26")
	ad := func(p netip.Prefix) speaker.Advertisement {
		return speaker.Advertisement{Prefix: p, NextHop: addr("192.168.0.1")}
	}
	wantChanged(t, "two", table.Originate([]speaker.Advertisement{ad(block), ad(other)}), block, other)
	wantChanged(t, "same", table.Originate([]speaker.Advertisement{ad(other), ad(block)}))
	table.Update(member(0), announcing(path(), other))
	if table.Snapshot().Len() != 0 {
		t.Error("a prefix of ours is in the snapshot of learned ones")
	}
	wantChanged(t, "one other", table.Originate([]speaker.Advertisement{ad(block), ad(third)}), other, third)
	if best, _ := table.Best(other); best.From != member(0) {
		t.Errorf("best path %+v, want the learned one", best)
	}
	twice := []speaker.Advertisement{ad(block), {Prefix: block, NextHop: addr("192.168.0.2")}}
	wantChanged(t, "none but one twice", table.Originate(twice), block, third)
	wantChanged(t, "none", table.Originate(nil), block)
}

func TestSnapshotNeverChanges(t *testing.T) {
	table := New(self)
	var all []netip.Prefix
	for i := range 1000 {
		all = append(all, blockNumber(i))
	}
	table.Update(member(0), announcing(path(), all...))
	before := table.Snapshot()
	table.Update(member(0), announcing(path(nextHop("192.168.0.8")), all[:500]...))
	table.Update(member(0), &message.Update{Withdrawn: all[500:]})
	n := 0
	for r := range before.All() {
		n++
		if r.NextHop != addr("192.168.0.9") {
			t.Fatalf("%+v in the old snapshot", r)
		}
	}
	if n != 1000 || before.Len() != 1000 || table.Snapshot().Len() != 500 {
		t.Errorf("%d of %d, now %d", n, before.Len(), table.Snapshot().Len())
	}
	for range before.All() {
		break // an iterator must take no for an answer
	}
	for range table.BestPaths() {
		break
	}
}

// blockNumber is the ith /26 from 10.0.0.0 on.
func blockNumber(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10 + byte(i>>18), byte(i >> 10), byte(i >> 2), byte(i << 6)}), 26)
}

func TestShardsAreEven(t *testing.T) {
	var count [shardCount]int
	for i := range 100_000 {
		count[shardOf(blockNumber(i))]++
	}
	if most := slices.Max(count[:]); most > 2*100_000/shardCount {
		t.Errorf("%d of 100000 blocks in one of %d parts", most, shardCount)
	}
}
