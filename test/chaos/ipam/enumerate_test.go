// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// operation is one thing a client of the enumeration does.
type operation struct {
	name string
	do   func(*play, *actor) error
}

// The operations of which programs are made.
var (
	claim   = operation{"claim", (*play).claim}
	assign  = operation{"assign", (*play).assign}
	release = operation{"release", (*play).release}
	giveUp  = operation{"release block", (*play).giveUp}
	reclaim = operation{"reclaim", (*play).reclaim}
)

// scenario is programs that run side by side, on what a setup left.
type scenario struct {
	pool     cluster.Pool
	nodes    []string      // of the clients
	programs [][]operation // of the clients
	setup    []operation   // done first, by client 0
	faults   int           // how many answers of writes may be lost on one path
	commits  bool          // the datastore has transactions
	races    int           // how many comparisons a client may lose in one operation; where it loses more is not followed
}

func (s scenario) String() string {
	var all []string
	for i, program := range s.programs {
		var names []string
		for _, o := range program {
			names = append(names, o.name)
		}
		all = append(all, s.nodes[i]+": "+strings.Join(names, ", "))
	}
	return fmt.Sprintf("%s, after %d operations", strings.Join(all, "; "), len(s.setup))
}

// anyRaces is more than a client loses before it gives up.
const anyRaces = 1000

// play is one operation of one client being carried out.
type play struct {
	scenario
	who    string                  // the client
	mine   map[string][]netip.Addr // addresses by handle
	events []event
}

// event is what the checker must hear of an operation: a client was told that
// it holds addresses, or is about to release them.
type event struct {
	handle string
	addrs  []netip.Addr
	leaves bool
}

func (p *play) claim(a *actor) error {
	_, err := a.client.EnsureBlock(a.ctx, a.node, 4)
	return err
}

func (p *play) assign(a *actor) error {
	handle := p.who + "-0"
	got, err := a.client.AutoAssign(a.ctx, ipam.AssignRequest{Node: a.node, Handle: handle, Use: ipam.Workload, Family: 4, Num: 1})
	if !a.dead {
		p.mine[handle] = got
		p.events = append(p.events, event{handle: handle, addrs: got})
	}
	return err
}

func (p *play) release(a *actor) error {
	handle := p.who + "-0"
	if _, ok := p.mine[handle]; !ok {
		handle = "setup-0"
	}
	p.events = append(p.events, event{handle: handle, addrs: p.mine[handle], leaves: true})
	return a.client.ReleaseByHandle(a.ctx, handle)
}

func (p *play) giveUp(a *actor) error { return a.client.ReleaseHostAffinities(a.ctx, a.node, true) }

func (p *play) reclaim(a *actor) error { return a.client.RemoveHost(a.ctx, p.nodes[0]) }

// scenarios are all programs of one operation for three clients, on an empty
// pool of one block, and on one where the block has an owner and a borrower;
// and the same with two clients on one node.
func scenarios(faults int, commits bool, races int) []scenario {
	ops := []operation{claim, assign, release, giveUp, reclaim}
	var all []scenario
	for _, setup := range [][]operation{nil, {assign}} {
		for _, nodes := range [][]string{{"n0", "n1", "n2"}, {"n0", "n0", "n1"}} {
			for i, x := range ops {
				for j, y := range ops {
					for k, z := range ops {
						// Of clients with equal parts one order is enough.
						if nodes[0] == nodes[1] && j < i || nodes[0] != nodes[1] && k < j {
							continue
						}
						all = append(all, scenario{smallPool(30), nodes, [][]operation{{x}, {y}, {z}}, setup, faults, commits, races})
					}
				}
			}
		}
	}
	return all
}

// TestEveryInterleaving enumerates. In CI a scenario of more states than the
// limit is left unfinished, and counted as such.
func TestEveryInterleaving(t *testing.T) {
	rows := []*chaos.Record{
		chaos.Begin(t, "B7", "every interleaving of 3 clients that claim, assign, release and reclaim", "0 violations, 0 claims left half-way"),
		chaos.Begin(t, "B8", "every interleaving of 3 clients that claim, assign, release and reclaim", "0 allocations lost"),
	}
	report := func(what string, all []scenario, limit int) {
		begin := time.Now()
		sum := enumerateAll(t, all, limit)
		for _, r := range rows {
			r.Measuredf("0 violations of %s: %d programs, of them %d enumerated whole, %.3g interleavings after leaving out equivalent ones, %d states, of clients at %d places of their programs",
				what, len(all), len(all)-sum.cut, sum.ways, sum.states, sum.points)
		}
		t.Logf("%s: %d, %+v in %v", what, len(all), sum, time.Since(begin))
	}
	for _, commits := range []bool{true, false} {
		on := map[bool]string{true: " on a datastore with transactions", false: " on one without"}[commits]
		races := chaos.Scale(1, 2)
		one := fmt.Sprintf("3 clients with an operation each%s, up to %d lost races in it", on, races)
		report(one, scenarios(0, commits, races), chaos.Scale(5000, 300_000))
		report(one+" and a lost answer", scenarios(1, commits, races), chaos.Scale(2000, 100_000))
		four := []operation{claim, assign, release, giveUp}
		two := scenario{smallPool(30), []string{"n0", "n1"}, [][]operation{four, four}, nil, 0, commits, anyRaces}
		report("2 clients with 4 operations each"+on+", any number of lost races", []scenario{two}, 1_000_000)
		races = chaos.Scale(0, anyRaces)
		lost := map[bool]string{true: ", any number of lost races", false: ", no lost race"}[races == anyRaces]
		three := scenario{smallPool(30), []string{"n0", "n1", "n2"}, [][]operation{four, four, four}, nil, 0, commits, races}
		report("3 clients with 4 operations each"+on+lost, []scenario{three}, 30_000_000)
	}
}

// TestEnumerationSees breaks the datastore: some interleaving shows it.
func TestEnumerationSees(t *testing.T) {
	r := chaos.Begin(t, "B7", "every interleaving of two assignments on a datastore that compares nothing", "the checker sees it")
	s := scenario{smallPool(30), []string{"n0", "n1"}, [][]operation{{assign}, {assign}}, nil, 0, false, anyRaces}
	m, begin := newModel(s)
	m.blind, m.limit = true, 1<<20
	m.explore(begin)
	if len(m.problems) == 0 {
		t.Errorf("nothing seen in %d states", len(m.known))
	}
	r.Twinf("seen after %d states", len(m.known))
}

// enumerated sums enumerations up.
type enumerated struct {
	states int
	points int // places in programs where a client can stand
	cut    int // scenarios left unfinished
	ways   float64
}

// enumerateAll explores scenarios on all cores.
func enumerateAll(t *testing.T, all []scenario, limit int) (sum enumerated) {
	t.Helper()
	var mu sync.Mutex
	var running sync.WaitGroup
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	for _, s := range all {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			m, begin := newModel(s)
			m.limit = limit
			ways := m.explore(begin)
			mu.Lock()
			defer mu.Unlock()
			sum.states += len(m.known)
			sum.points += len(m.points)
			sum.ways += ways
			if m.cut {
				sum.cut++
			}
			if len(m.problems) > 0 {
				t.Errorf("%s\n%s, backwards:\n%s", strings.Join(m.problems, "\n"), s, strings.Join(m.path, "\n"))
			}
		})
	}
	running.Wait()
	return sum
}
