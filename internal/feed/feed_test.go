// SPDX-License-Identifier: Apache-2.0

package feed_test

import (
	"iter"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/feed"
	"github.com/ocicat-net/ocicat/internal/host"
)

type learned []cluster.LearnedRoute

func (l learned) All() iter.Seq[cluster.LearnedRoute] { return slices.Values(l) }
func (l learned) Len() int                            { return len(l) }

func endpoint(id, addr string) cluster.Endpoint {
	return cluster.Endpoint{ID: cluster.EndpointID{ContainerID: id, IfName: "eth0"}, HostIf: "cali" + id, Addr: netip.MustParseAddr(addr), MTU: 1500}
}

// facts are the sources' last words; each is a whole value.
func facts(f *feed.Feed) []func() {
	return []func(){
		func() {
			f.SetCluster(feed.Cluster{
				Nodes:    map[cluster.NodeName]cluster.Node{"n1": {Name: "n1", Address: netip.MustParsePrefix("10.0.0.1/24")}},
				Pools:    []cluster.Pool{{Name: "b", CIDR: netip.MustParsePrefix("10.9.0.0/16"), BlockSize: 26}, {Name: "a", CIDR: netip.MustParsePrefix("10.8.0.0/16"), BlockSize: 26}},
				BGP:      cluster.BGP{AS: 64512, Mesh: true},
				Settings: cluster.Settings{RouteProtocol: host.ProtoBird, InterfacePrefix: "cali"},
				Synced:   true,
			})
		},
		func() {
			f.SetBlocks([]cluster.Block{{CIDR: netip.MustParsePrefix("10.9.0.64/26"), Confirmed: true}, {CIDR: netip.MustParsePrefix("10.9.0.0/26"), Confirmed: true}})
		},
		func() { f.SetEndpoint(endpoint("2", "10.9.0.2")) },
		func() { f.SetEndpoint(endpoint("3", "10.9.0.3")) },
		func() {
			f.SetLearned(learned{{Prefix: netip.MustParsePrefix("10.8.0.0/26"), NextHop: netip.MustParseAddr("10.0.0.2")}}, nil, nil)
		},
		func() { f.RememberPools([]netip.Prefix{netip.MustParsePrefix("10.5.0.0/16")}) },
		func() {
			f.SetHost(cluster.Host{Uplink: "eth0", DefaultRoute: true, Devices: []cluster.Device{{Name: "eth0", Up: true, MTU: 1500, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}}}})
		},
	}
}

// Any order of facts, each told once or more, gives the same Snapshot and so
// the same wanted state.
func TestOrderOfFactsDoesNotMatter(t *testing.T) {
	tell := func(order []int) *cluster.Snapshot {
		f := feed.New("n1", cluster.Settings{}, func(feed.Part) {})
		f.SetEndpoints(map[cluster.EndpointID]cluster.Endpoint{endpoint("1", "10.9.0.1").ID: endpoint("1", "10.9.0.1")})
		list := facts(f)
		for _, i := range order {
			list[i]()
		}
		return f.Snapshot()
	}
	all := []int{0, 1, 2, 3, 4, 5, 6}
	want := tell(all)
	wantHost, _ := core.Host(want)
	rapid.Check(t, func(t *rapid.T) {
		order := append(rapid.SliceOfN(rapid.IntRange(0, 6), 0, 10).Draw(t, "before"), rapid.Permutation(all).Draw(t, "order")...)
		got := tell(order)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("order %v:\n%+v\nwant\n%+v", order, got, want)
		}
		if gotHost, _ := core.Host(got); gotHost.String() != wantHost.String() {
			t.Fatalf("order %v: wanted state differs", order)
		}
	})
}

// A published Snapshot never changes, whatever comes later, and adding and
// deleting an endpoint leaves nothing.
func TestSnapshotsAreImmutable(t *testing.T) {
	f := feed.New("n1", cluster.Settings{}, func(feed.Part) {})
	for _, fact := range facts(f) {
		fact()
	}
	before := f.Snapshot()
	text, _ := core.Host(before)
	f.SetEndpoint(endpoint("9", "10.9.0.9"))
	if len(before.Endpoints) != 2 {
		t.Error("an endpoint appeared in a Snapshot published before")
	}
	f.DeleteEndpoint(endpoint("9", "10.9.0.9").ID)
	if after, _ := core.Host(f.Snapshot()); after.String() != text.String() {
		t.Error("adding and deleting an endpoint left something")
	}
}

// Every change is told, a repetition of what is known is not, and writers from
// everywhere lose nothing.
func TestChangesAreTold(t *testing.T) {
	var mu sync.Mutex
	told := map[feed.Part]int{}
	f := feed.New("n1", cluster.Settings{}, func(p feed.Part) {
		mu.Lock()
		defer mu.Unlock()
		told[p]++
	})
	for range 3 {
		f.SetBlocks([]cluster.Block{{CIDR: netip.MustParsePrefix("10.9.0.0/26")}})
		f.SetHost(cluster.Host{Uplink: "eth0"})
	}
	if told[feed.Blocks] != 1 || told[feed.Host] != 1 {
		t.Errorf("told %v", told)
	}
	var writers sync.WaitGroup
	for i := range 50 {
		writers.Go(func() {
			f.SetEndpoint(endpoint(string(rune('A'+i)), "10.9.0.1"))
			f.SetLearned(nil, nil, nil)
		})
	}
	writers.Wait()
	if n := len(f.Snapshot().Endpoints); n != 50 || told[feed.Endpoints] != 50 {
		t.Errorf("%d endpoints, %d changes told: want 50 of each", n, told[feed.Endpoints])
	}
}
