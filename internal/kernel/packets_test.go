// SPDX-License-Identifier: Apache-2.0

package kernel_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/kernel"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/test/chaos"
)

func ping(ns *nstest.NS, to string) (string, error) {
	out, err := ns.Command("busybox", "ping", "-c1", "-W2", to).CombinedOutput()
	return string(out), err
}

// mustPing takes the first answer: an entry that is failing at the moment takes
// the packet queued behind it along.
func mustPing(t *testing.T, ns *nstest.NS, to, part string) {
	t.Helper()
	var out string
	var err error
	nstest.Eventually(t, 15*time.Second, func() bool {
		out, err = ping(ns, to)
		return err == nil
	}, "ping ", to, ": ", func() string { return out })
	if !strings.Contains(out, part) {
		t.Errorf("ping %s lacks %q:\n%s", to, part, out)
	}
}

// second is a second pod of the article's node.
func second() cluster.Endpoint {
	ep := article()
	ep.ID.ContainerID, ep.HostIf = "5ec0nd", "cali42cd276b2be"
	ep.Addr, ep.MAC = netip.MustParseAddr("172.16.196.2"), host.MAC{0xaa, 0x2d, 0x89, 0xc6, 0x49, 0xdd}
	return ep
}

func TestPodsReachTheHostAndEachOther(t *testing.T) {
	for name, perm := range map[string]bool{"permanent gateway": true, "gateway by ARP": false} {
		t.Run(name, func(t *testing.T) {
			n, one, two := masterNode(t), nstest.New(t), nstest.New(t)
			for ep, ns := range map[cluster.Endpoint]*nstest.NS{article(): one, second(): two} {
				a := attachment(ep, ns)
				a.PermGateway = perm
				mustAttach(t, n, a)
			}
			mustPing(t, one, "192.168.0.11", "ttl=64")
			mustPing(t, one, "172.16.196.2", "ttl=63")
			mustPing(t, two, "172.16.196.1", "ttl=63")
			mustPing(t, n.NS, "172.16.196.1", "ttl=64")
			want := "169.254.1.1 dev eth0 lladdr ee:ee:ee:ee:ee:ee PERMANENT"
			if got := one.IP("neigh show"); (got == want) != perm || !strings.HasPrefix(got, "169.254.1.1 dev eth0 lladdr ee:ee:ee:ee:ee:ee ") {
				t.Errorf("ip neigh show in the pod: %s", got)
			}
		})
	}
}

// Proxy ARP answers for an address only if the host has a route to it.
func TestPodsNeedARouteForTheirGateway(t *testing.T) {
	r := chaos.Begin(t, "D17", "a node without a default route, a pod without a permanent neighbour", "answered")
	n, pod := masterNode(t), nstest.New(t)
	n.IP("route del default")
	a := attachment(article(), pod)
	a.PermGateway = false
	mustAttach(t, n, a)
	if out, err := ping(pod, "192.168.0.11"); err == nil {
		t.Fatalf("the trap this cures is gone; ping without a route to 169.254.1.1:\n%s", out)
	}
	s := snapshot(article())
	s.Host.DefaultRoute = false
	converge(t, n, wanted(s))
	if got := n.IP("route show 169.254.1.1"); got != "169.254.1.1 dev lo proto bird scope link" {
		t.Fatalf("ip route show: %s", got)
	}
	mustPing(t, pod, "192.168.0.11", "ttl=64")
	r.Measuredf("answered; twin: without 169.254.1.1/32 dev lo the pod is cut off")
}

// A pod sends from its own address only: rp_filter on its host end drops the
// rest.
func TestPodsCannotSpoof(t *testing.T) {
	n, one, two := masterNode(t), nstest.New(t), nstest.New(t)
	mustAttach(t, n, attachment(article(), one))
	mustAttach(t, n, attachment(second(), two))
	listener := listen(t, two, "172.16.196.2:5353")
	one.IP("addr add 172.16.196.77/32 dev eth0")
	send(t, one, "172.16.196.77:1000", "172.16.196.2:5353", "spoofed")
	send(t, one, "172.16.196.1:1000", "172.16.196.2:5353", "honest")
	if got := receive(t, listener); got != "honest from 172.16.196.1:1000" {
		t.Errorf("received %q", got)
	}
	n.SetSysctl("net/ipv4/conf/cali1dadcdd5b31/rp_filter", "0")
	n.IP("route add 172.16.196.77 dev cali1dadcdd5b31") // so that the answer's way does not matter
	send(t, one, "172.16.196.77:1000", "172.16.196.2:5353", "spoofed")
	if got := receive(t, listener); got != "spoofed from 172.16.196.77:1000" {
		t.Errorf("the twin without rp_filter received %q", got)
	}
}

// With route_localnet=0 a pod does not reach what listens on the host's
// 127.0.0.1.
func TestPodsCannotReachTheHostsLoopback(t *testing.T) {
	n, pod := masterNode(t), nstest.New(t)
	mustAttach(t, n, attachment(article(), pod))
	for _, local := range []string{"127.0.0.0/8", "127.0.0.1"} {
		pod.IP("route del local " + local + " dev lo table local")
	}
	pod.IP("route add 127.0.0.1 via 169.254.1.1 dev eth0")
	pod.SetSysctl("net/ipv4/conf/eth0/route_localnet", "1")
	listener := listen(t, n.NS, "0.0.0.0:5353")
	send(t, pod, "172.16.196.1:1000", "127.0.0.1:5353", "sneaked in")
	send(t, pod, "172.16.196.1:1000", "192.168.0.11:5353", "honest")
	if got := receive(t, listener); got != "honest from 172.16.196.1:1000" {
		t.Errorf("received %q", got)
	}
	n.SetSysctl("net/ipv4/conf/cali1dadcdd5b31/route_localnet", "1")
	send(t, pod, "172.16.196.1:1000", "127.0.0.1:5353", "sneaked in")
	if got := receive(t, listener); got != "sneaked in from 172.16.196.1:1000" {
		t.Errorf("the twin with route_localnet received %q", got)
	}
}

func listen(t *testing.T, ns *nstest.NS, at string) net.PacketConn {
	t.Helper()
	var conn net.PacketConn
	var err error
	ns.Do(func() { conn, err = net.ListenPacket("udp4", at) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func send(t *testing.T, ns *nstest.NS, from, to, text string) {
	t.Helper()
	conn := listen(t, ns, from)
	defer conn.Close()
	if _, err := conn.WriteTo([]byte(text), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, conn net.PacketConn) string {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 100)
	size, from, err := conn.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s from %s", buf[:size], from)
}

// events collects what a monitor with a receive buffer of so many bytes tells.
func events(t *testing.T, n node, monitor func(ctx context.Context, each func(kernel.Event)) error) <-chan kernel.Event {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	told := make(chan kernel.Event, 100_000)
	done := make(chan error, 1)
	go func() { done <- monitor(ctx, func(ev kernel.Event) { told <- ev }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("monitor: %v", err)
		}
	})
	if ev := next(t, told, func(kernel.Event) bool { return true }); !ev.Overflow {
		t.Fatalf("first event is %+v, not an overflow", ev)
	}
	return told
}

// next waits for an event that is as asked.
func next(t *testing.T, told <-chan kernel.Event, as func(kernel.Event) bool) kernel.Event {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case ev := <-told:
			if as(ev) {
				return ev
			}
		case <-timeout:
			t.Fatal("no such event")
		}
	}
}

func TestMonitor(t *testing.T) {
	n := masterNode(t)
	told := events(t, n, n.kernel.Monitor)
	const route = "172.16.109.64/26 via 192.168.0.12 dev ens160 proto bird"
	isRoute := func(deleted bool) func(kernel.Event) bool {
		return func(ev kernel.Event) bool {
			return ev.Route != nil && ev.Deleted == deleted && ev.Route.String() == route
		}
	}
	n.IP("route add " + route)
	next(t, told, isRoute(false))
	n.IP("route del " + route)
	next(t, told, isRoute(true))
	n.IP("link add br7 type bridge")
	next(t, told, func(ev kernel.Event) bool { return ev.Link != nil && ev.Link.Name == "br7" && !ev.Deleted })
	n.IP("addr add 10.9.9.9/24 dev br7")
	next(t, told, func(ev kernel.Event) bool { return ev.Device == "br7" && ev.Addr == pfx("10.9.9.9/24") && !ev.Deleted })
	n.IP("neigh add 10.9.9.1 dev br7 lladdr 02:00:00:00:00:01 nud permanent")
	next(t, told, func(ev kernel.Event) bool {
		return ev.Neigh != nil && ev.Neigh.String() == "10.9.9.1 dev br7 lladdr 02:00:00:00:00:01 PERMANENT"
	})
	n.SetSysctl("net/ipv4/conf/br7/rp_filter", "2")
	next(t, told, func(ev kernel.Event) bool { return ev.Device == "br7" && !ev.Addr.IsValid() })
	n.IP("link del br7")
	next(t, told, func(ev kernel.Event) bool { return ev.Link != nil && ev.Link.Name == "br7" && ev.Deleted })
}

func TestMonitorTellsThatItLostEvents(t *testing.T) {
	n := masterNode(t)
	release := make(chan struct{})
	first := true
	told := events(t, n, func(ctx context.Context, each func(kernel.Event)) error {
		return kernel.MonitorWithBuffer(n.kernel, ctx, 4096, func(ev kernel.Event) {
			each(ev)
			if !ev.Overflow && first { // a slow reader
				first = false
				<-release
			}
		})
	})
	var routes []host.Route
	for i := range 500 {
		routes = append(routes, blockRoute(fmt.Sprintf("10.1.%d.%d/32", i/250, i%250)))
	}
	if err := n.kernel.ApplyRoutes(t.Context(), routes, nil); err != nil {
		t.Fatal(err)
	}
	close(release)
	next(t, told, func(ev kernel.Event) bool { return ev.Overflow })
	n.IP("route add 10.200.0.0/16 via 192.168.0.12")
	next(t, told, func(ev kernel.Event) bool { return ev.Route != nil && ev.Route.Dst == pfx("10.200.0.0/16") })
}

func TestMonitorHoldsABurst(t *testing.T) {
	n := masterNode(t)
	told := events(t, n, n.kernel.Monitor)
	var routes []host.Route
	for i := range 20_000 {
		routes = append(routes, blockRoute(fmt.Sprintf("10.%d.%d.%d/32", 1+i/62500, i/250%250, i%250)))
	}
	if err := n.kernel.ApplyRoutes(t.Context(), routes, nil); err != nil {
		t.Fatal(err)
	}
	for left := len(routes); left > 0; left-- {
		if ev := next(t, told, func(ev kernel.Event) bool { return ev.Route != nil || ev.Overflow }); ev.Overflow {
			t.Fatalf("overflow with %d of %d events to come", left, len(routes))
		}
	}
}

// What ApplyRoutes does is no news to its own Handle, what others do to the
// same routes is; Monitor, the twin, tells both.
func TestMonitorOthersLeavesOutOwnRoutes(t *testing.T) {
	n := masterNode(t)
	others, all := events(t, n, n.kernel.MonitorOthers), events(t, n, n.kernel.Monitor)
	own := []host.Route{blockRoute("10.1.0.0/26"), blockRoute("10.2.0.0/26")}
	if err := n.kernel.ApplyRoutes(t.Context(), own, nil); err != nil {
		t.Fatal(err)
	}
	if err := n.kernel.ApplyRoutes(t.Context(), nil, own[1:]); err != nil {
		t.Fatal(err)
	}
	n.IP("route del 10.1.0.0/26")
	route := func(ev kernel.Event) bool { return ev.Route != nil }
	if ev := next(t, others, route); !ev.Deleted || ev.Route.Dst != own[0].Dst {
		t.Errorf("the first event of others is %+v of %v", ev, ev.Route)
	}
	if ev := next(t, all, route); ev.Deleted || ev.Route.Dst != own[0].Dst {
		t.Errorf("the first event of all is %+v of %v", ev, ev.Route)
	}
}
