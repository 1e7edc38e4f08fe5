// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/kernel"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/test/chaos"
	"github.com/ocicat-net/ocicat/test/flow"
)

// One route of each kind is deleted, again and again, under traffic that
// needs it.
func TestRouteDeleted(t *testing.T) {
	w := up(t)
	h := w.handle()
	for _, c := range []struct {
		kind string
		dst  netip.Prefix
		flow func(*world) *flow.Flow
	}{
		{"route to a pod", netip.PrefixFrom(w.m.Address.Addr(), 32), (*world).flow},
		{"learned route", workerBlock, (*world).back},
		{"blackhole of a block", masterBlock, (*world).flow},
	} {
		t.Run(strings.ReplaceAll(c.kind, " ", "-"), func(t *testing.T) {
			w := w.of(t)
			id := "D1"
			if c.dst == masterBlock {
				id = "D18"
			}
			r := chaos.Begin(t, id, c.kind+", ip route del under a flow", "back in 20 ms (p99)")
			var times []time.Duration
			f := c.flow(w)
			rounds := chaos.Scale(20, 200)
			for range rounds {
				route := w.route(h, c.dst)
				back := w.returns(h, c.dst, 1)
				if err := h.ApplyRoutes(t.Context(), nil, []host.Route{route}); err != nil {
					t.Fatal(err)
				}
				times = append(times, back())
				f.Await(t, 50*time.Millisecond)
			}
			sent, lost := f.End()
			r.Measuredf("%d times: median %s, p99 %s", rounds, percentile(times, 50), percentile(times, 99))
			r.Measuredf("%d of %d packets lost, longest silence %d ms", lost, sent, f.LongestMS())
			if p99 := percentile(times, chaos.Scale(75, 99)); p99 > 20*time.Millisecond*slack() {
				t.Errorf("p99 %s", p99)
			}
			if c.dst == masterBlock && lost > 0 {
				t.Errorf("%d packets lost for a route they do not use", lost)
			}
		})
	}
}

// Everything is flushed at once, as networkd does to routes it does not know.
func TestRoutesFlushed(t *testing.T) {
	w := up(t)
	h := w.handle()
	peers := w.bird(64)
	nstest.Eventually(t, 30*time.Second, func() bool { return len(w.via(h, gateway)) == peers }, "64 routes")
	for _, how := range []string{"ip route flush proto bird", "ip route flush dev " + w.m.HostIf, "ip route flush dev ens160 proto bird"} {
		t.Run(strings.ReplaceAll(how, " ", "-"), func(t *testing.T) {
			w := w.of(t)
			r := chaos.Begin(t, "D2", how+", 66 routes under a flow both ways", "back in 100 ms (p99), 0 of others' routes touched")
			before := w.routes(h)
			there, back := w.flow(), w.back()
			var times []time.Duration
			rounds := chaos.Scale(5, 50)
			for range rounds {
				begin := time.Now()
				w.sh(how)
				nstest.Eventually(t, 10*time.Second, func() bool { return w.routes(h) == before }, func() string { return "all routes are back: want\n" + before + "got\n" + w.routes(h) })
				times = append(times, time.Since(begin))
				there.Await(t, 50*time.Millisecond)
			}
			sent, lost := there.End()
			sentBack, lostBack := back.End()
			r.Measuredf("%d times: median %s, p99 %s, the command itself and a look at the table included", rounds, percentile(times, 50), percentile(times, 99))
			r.Measuredf("%d of %d and %d of %d packets lost, longest silences %d and %d ms", lost, sent, lostBack, sentBack, there.LongestMS(), back.LongestMS())
			if p99 := percentile(times, chaos.Scale(75, 99)); p99 > 100*time.Millisecond*slack() {
				t.Errorf("p99 %s", p99)
			}
		})
	}
}

// A better route of somebody else to one of our prefixes is reported at once,
// and left alone; ours is back when it goes.
func TestForeignRouteShadows(t *testing.T) {
	w := up(t)
	h := w.handle()
	for _, c := range []struct{ name, set, del string }{
		{"replaced", "ip route replace " + workerBlock.String() + " via 192.168.0.2 dev ens160 proto static", "ip route del " + workerBlock.String() + " proto static"},
		{"more specific", "ip route add 172.16.109.64/27 via 192.168.0.2 dev ens160 proto static", "ip route del 172.16.109.64/27 proto static"},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			w := w.of(t)
			r := chaos.Begin(t, "D3", "static route by another program: "+c.name, "reported in 100 ms, never touched, ours back after it")
			var times []time.Duration
			for range chaos.Scale(3, 20) {
				w.sh(c.set)
				times = append(times, w.problem("OC4004", "static"))
				if !strings.Contains(w.routes(h), "proto static") {
					t.Fatal("the foreign route is gone")
				}
				w.sh(c.del)
				w.solved("OC4004")
				nstest.Eventually(t, 5*time.Second, func() bool { return w.route(h, workerBlock).Via.String() == workerAddr }, "our route")
			}
			r.Measuredf("reported after %s (median), %s (worst)", percentile(times, 50), percentile(times, 100))
			if worst := percentile(times, chaos.Scale(50, 100)); worst > 100*time.Millisecond*slack() {
				t.Errorf("reported after %s", worst)
			}
		})
	}
}

// Routes of our protocol that nobody wants go if they lie in a pool; whatever
// is not ours stays.
func TestForeignRoutes(t *testing.T) {
	w := up(t)
	h := w.handle()
	r := chaos.Begin(t, "D4", "routes of protocol 12 in and out of the pools, of other protocols, and of another network's pod on a device called as ours are", "0 wrong deletions; unwanted ones of ours removed")
	stay := []string{
		"10.9.0.0/16 via 192.168.0.2 dev ens160 proto bird",
		"172.16.77.0/26 via 192.168.0.2 dev ens160 proto static",
		"10.10.0.0/16 via 192.168.0.2 dev ens160 proto 80",
		"blackhole 172.16.78.0/26 proto static",
		"172.16.196.60 dev cali99999999999 scope link",
	}
	w.sh("ip link add cali99999999999 type veth peer name foreign; ip link set cali99999999999 up; ip link set foreign up")
	for _, route := range stay {
		w.sh("ip route add " + route)
	}
	w.sh("ip route add 172.16.200.0/26 via 192.168.0.2 dev ens160 proto bird; ip route add blackhole 172.16.201.0/26 proto bird")
	nstest.Eventually(t, 5*time.Second, func() bool {
		routes := w.routes(h)
		return !strings.Contains(routes, "172.16.200.0/26") && !strings.Contains(routes, "172.16.201.0/26")
	}, "what nobody wants is removed")
	if err := w.RestartAgent(t.Context(), master); err != nil {
		t.Fatal(err)
	}
	kept := 0
	for _, route := range stay {
		if strings.Contains(w.sh("ip route show"), route) {
			kept++
		} else {
			t.Errorf("%s: gone", route)
		}
	}
	r.Measuredf("%d of %d foreign routes kept, also over a restart; 2 of 2 unwanted ones removed", kept, len(stay))
}

// An agent starts among right, wrong, missing and foreign state and writes the
// differences only.
func TestStartWritesOnlyDifferences(t *testing.T) {
	w := up(t)
	h := w.handle()
	peers := w.bird(64)
	nstest.Eventually(t, 30*time.Second, func() bool { return len(w.via(h, gateway)) == peers }, "64 routes")
	r := chaos.Begin(t, "D11", "66 routes right, 2 missing, 1 wrong, 2 foreign, 1 left over; agent started", "6 route events: deletions and additions of the differences; 0 lost")
	before := w.routes(h)
	if err := w.KillAgent(t.Context(), master); err != nil {
		t.Fatal(err)
	}
	w.sh("ip route add 10.9.0.0/16 via 192.168.0.2 proto bird; ip route add 172.16.77.0/26 via 192.168.0.2 proto static")
	w.sh("ip route del blackhole " + masterBlock.String() + "; ip route del 10.244.0.0/26; ip route replace 10.244.0.64/26 via " + workerAddr + " proto bird")
	w.sh("ip route add 10.244.99.0/26 via " + workerAddr + " proto bird")
	f := w.flow()
	events := flow.WatchRoutes(t, w.Netns(master), netip.Prefix{})
	if err := w.RestartAgent(t.Context(), master); err != nil {
		t.Fatal(err)
	}
	want := before + "10.9.0.0/16"
	nstest.Eventually(t, 20*time.Second, func() bool {
		now := strings.Split(w.routes(h), "\n")
		n := 0
		for _, route := range now {
			if route != "" && !strings.Contains(before, route) {
				n++
			}
		}
		return n == 2 && len(now) == len(strings.Split(before, "\n"))+2
	}, func() string { return "only the foreign ones differ: want " + want + "\ngot " + w.routes(h) })
	sent, lost := f.End()
	r.Measuredf("%d route events, %d of %d packets lost", events.Load(), lost, sent)
	if events.Load() > 6 || lost > 0 {
		t.Errorf("%d events, %d packets lost", events.Load(), lost)
	}
}

// handle reaches the master's kernel.
func (w *world) handle() *kernel.Handle {
	w.t.Helper()
	h, err := kernel.OpenAt(w.Netns(master))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { h.Close() })
	return h
}

// route is the master's route to dst, of the agent's.
func (w *world) route(h *kernel.Handle, dst netip.Prefix) (found host.Route) {
	w.t.Helper()
	all, err := h.Routes(w.t.Context(), kernel.Filter{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range all {
		if r.Dst == dst {
			found = r
		}
	}
	return found
}

// via are the routes through a gateway.
func (w *world) via(h *kernel.Handle, gw netip.Addr) (found []host.Route) {
	w.t.Helper()
	all, err := h.Routes(w.t.Context(), kernel.Filter{Proto: 12})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range all {
		if r.Via == gw {
			found = append(found, r)
		}
	}
	return found
}

// routes are all routes as text, in the kernel's order.
func (w *world) routes(h *kernel.Handle) string {
	w.t.Helper()
	all, err := h.Routes(w.t.Context(), kernel.Filter{})
	if err != nil {
		w.t.Fatal(err)
	}
	var b strings.Builder
	for _, r := range all {
		fmt.Fprintln(&b, r)
	}
	return b.String()
}

// returns begins to watch for count new routes to dst; the function it
// returns waits for them and says how long that took since it was called.
func (w *world) returns(h *kernel.Handle, dst netip.Prefix, count int) func() time.Duration {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	started, all := make(chan struct{}), make(chan struct{})
	first, seen := true, 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := h.Monitor(ctx, func(ev kernel.Event) {
			switch {
			case first:
				first = false
				close(started)
			case ev.Route != nil && !ev.Deleted && ev.Route.Dst == dst:
				if seen++; seen == count {
					close(all)
				}
			}
		})
		if err != nil {
			w.t.Error(err)
		}
	}()
	<-started
	return func() time.Duration {
		begin := time.Now()
		defer func() { cancel(); <-done }()
		select {
		case <-all:
			return time.Since(begin)
		case <-time.After(10 * time.Second):
			w.t.Fatalf("the route to %s did not come back", dst)
			return 0
		}
	}
}

// slack is by how much a bound is stretched in CI, whose machine does other
// things too.
func slack() time.Duration { return time.Duration(chaos.Scale(5, 1)) }
