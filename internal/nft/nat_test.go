// SPDX-License-Identifier: Apache-2.0

package nft_test

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/nstest"
)

// withPools is our table for pods in 172.16.0.0/16 and what else is a pool.
func withPools(nat bool, more ...cluster.Pool) host.Table {
	return core.Filter(&cluster.Snapshot{
		HadNAT:   true,
		Settings: cluster.Settings{InterfacePrefix: "cali"},
		Pools:    append([]cluster.Pool{{CIDR: prefix("172.16.0.0/16"), NATOutgoing: nat}}, more...),
	})
}

// newOutside is a LAN whose other host is outside the cluster: it knows a way
// to pods only if it has a route. No pod has its address.
func newOutside(t *testing.T, route bool) lan {
	t.Helper()
	l := newLAN(t)
	l.one.IP("addr del 192.168.0.12/32 dev eth0")
	if !route {
		l.other.IP("route del 172.16.0.0/16")
	}
	return l
}

// source sends a datagram and returns the address it is seen to come from.
func source(t *testing.T, from, to *nstest.NS, src, dst string) string {
	t.Helper()
	in := listenPacket(t, to, "udp4", wildcard(try{dst: dst}))
	defer in.Close()
	out := listenPacket(t, from, "udp4", net.JoinHostPort(src, "0"))
	defer out.Close()
	buf := make([]byte, 100)
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		if _, err := out.WriteTo([]byte("who am I"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(dst))); err != nil {
			t.Fatal(err)
		}
		_ = in.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, seen, err := in.ReadFrom(buf); err == nil {
			return seen.(*net.UDPAddr).IP.String()
		}
	}
	return "nothing"
}

// A pod of a pool with natOutgoing leaves with its node's address, and nowhere
// else; with natOutgoing off the world outside cannot even answer it. kube-proxy's
// tables stand beside ours.
func TestNATOutgoing(t *testing.T) {
	l := newOutside(t, false)
	load(t, l.node, foreign+`
		table inet kube-proxy { chain web { meta l4proto { tcp, udp } dnat ip to 172.16.0.2:80; }
			chain nat-postrouting { type nat hook postrouting priority srcnat; policy accept; meta mark and 0x4000 == 0x4000 masquerade fully-random; }
		}
		add element inet kube-proxy service-ips { 192.168.0.11 . tcp . 30080 : goto web, 192.168.0.11 . udp . 30080 : goto web }`)
	h := open(t, l.node)
	for _, c := range []struct {
		what     string
		table    host.Table
		from, to *nstest.NS
		src, dst string
		want     string
	}{
		{"outside", withPools(true), l.one, l.other, "172.16.0.1", "192.168.0.12:53", "192.168.0.11"},
		{"outside, off", withPools(false), l.one, l.other, "172.16.0.1", "192.168.0.12:53", "172.16.0.1"},
		{"outside, in a disabled pool", withPools(true, cluster.Pool{CIDR: prefix("192.168.0.0/24"), Disabled: true}), l.one, l.other, "172.16.0.1", "192.168.0.12:53", "172.16.0.1"},
		{"outside, own pool disabled", core.Filter(&cluster.Snapshot{Settings: cluster.Settings{InterfacePrefix: "cali"}, Pools: []cluster.Pool{{CIDR: prefix("172.16.0.0/16"), NATOutgoing: true, Disabled: true}}}), l.one, l.other, "172.16.0.1", "192.168.0.12:53", "192.168.0.11"},
		{"pod", withPools(true), l.one, l.two, "172.16.0.1", "172.16.0.2:53", "172.16.0.1"},
		{"pod of another pool", core.Filter(&cluster.Snapshot{Settings: cluster.Settings{InterfacePrefix: "cali"}, Pools: []cluster.Pool{{CIDR: prefix("172.16.0.0/31"), NATOutgoing: true}, {CIDR: prefix("172.16.0.2/32")}}}), l.one, l.two, "172.16.0.1", "172.16.0.2:53", "172.16.0.1"},
		{"pod in no pool", core.Filter(&cluster.Snapshot{Settings: cluster.Settings{InterfacePrefix: "cali"}, Pools: []cluster.Pool{{CIDR: prefix("172.16.0.0/31"), NATOutgoing: true}}}), l.one, l.two, "172.16.0.1", "172.16.0.2:53", "192.168.0.11"},
		{"service", withPools(true), l.one, l.two, "172.16.0.1", "192.168.0.11:30080", "172.16.0.1"},
		{"own node", withPools(true), l.one, l.node, "172.16.0.1", "192.168.0.11:53", "172.16.0.1"},
		{"node port from outside", withPools(true), l.other, l.two, "192.168.0.12", "192.168.0.11:30080", "192.168.0.12"},
	} {
		if _, err := h.Apply(c.table); err != nil {
			t.Fatal(err)
		}
		if got := source(t, c.from, c.to, c.src, c.dst); got != c.want {
			t.Errorf("%s: seen to come from %s, want %s", c.what, got, c.want)
		}
	}
	for _, c := range []struct {
		what string
		nat  bool
		try  try
		want bool
	}{
		{"outside", true, try{network: "tcp4", from: l.one, to: l.other, src: "172.16.0.1", dst: "192.168.0.12:81"}, true},
		{"outside, off", false, try{network: "tcp4", from: l.one, to: l.other, src: "172.16.0.1", dst: "192.168.0.12:82"}, false},
		{"node port from outside", true, try{network: "tcp4", from: l.other, to: l.two, src: "192.168.0.12", dst: "192.168.0.11:30080"}, true},
	} {
		if _, err := h.Apply(withPools(c.nat)); err != nil {
			t.Fatal(err)
		}
		if got := connects(t, c.try, 500*time.Millisecond); got != c.want {
			t.Errorf("%s: connects %v, want %v", c.what, got, c.want)
		}
	}
	l.other.IP("route add 172.16.0.0/16 via 192.168.0.11")
	apply(t, h, withPools(true), false)
	if !connects(t, try{network: "tcp4", from: l.other, to: l.one, src: "192.168.0.12", dst: "172.16.0.1:83"}, time.Second) {
		t.Error("a pod's answer to a connection from outside is masqueraded")
	}
}

// flow is a connection that says what it is asked to.
type flow struct {
	client, server net.Conn
	answers        *bufio.Reader
}

func newFlow(t *testing.T, l lan, port string) *flow {
	t.Helper()
	var listener net.Listener
	var err error
	l.other.Do(func() { listener, err = net.Listen("tcp4", ":"+port) })
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	f := &flow{}
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, _ := listener.Accept() // nil when the listener is closed
		accepted <- conn
	}()
	l.one.Do(func() {
		f.client, err = (&net.Dialer{Timeout: 5 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort("172.16.0.1:0"))}).Dial("tcp4", "192.168.0.12:"+port)
	})
	if err != nil {
		t.Fatal(err)
	}
	f.server = <-accepted
	f.answers = bufio.NewReader(f.client)
	t.Cleanup(func() { _, _ = f.client.Close(), f.server.Close() })
	return f
}

// alive says a line through the connection and waits for it at its other end,
// both ways.
func (f *flow) alive(within time.Duration) bool {
	deadline := time.Now().Add(within)
	_, _ = f.client.SetDeadline(deadline), f.server.SetDeadline(deadline)
	if _, err := fmt.Fprintln(f.client, "ping"); err != nil {
		return false
	}
	if line, err := bufio.NewReader(f.server).ReadString('\n'); err != nil || line != "ping\n" {
		return false
	}
	if _, err := fmt.Fprintln(f.server, "pong"); err != nil {
		return false
	}
	line, err := f.answers.ReadString('\n')
	return err == nil && line == "pong\n"
}

func (f *flow) source() string { return f.server.RemoteAddr().(*net.TCPAddr).IP.String() }

// A pool that changes under connections that exist leaves them as they are:
// also with no other program's NAT on the node. The twin takes our chain away.
func TestPoolFlippedUnderConnections(t *testing.T) {
	l := newOutside(t, true) // it can answer both sources
	h := open(t, l.node)
	apply(t, h, withPools(true), true)
	masqueraded := newFlow(t, l, "81")
	apply(t, h, withPools(false), true)
	plain := newFlow(t, l, "82")
	if masqueraded.source() != "192.168.0.11" || plain.source() != "172.16.0.1" {
		t.Fatalf("sources %s with natOutgoing, %s without", masqueraded.source(), plain.source())
	}
	for i := range 10 {
		apply(t, h, withPools(i%2 == 0, cluster.Pool{CIDR: prefix(fmt.Sprintf("10.%d.0.0/16", i)), NATOutgoing: true}), true)
		for what, f := range map[string]*flow{"masqueraded": masqueraded, "plain": plain} {
			if !f.alive(5 * time.Second) {
				t.Fatalf("change %d: the %s connection is broken", i, what)
			}
		}
	}
	l.node.Run("nft", "delete", "chain", "inet", "ocicat", "postrouting")
	if masqueraded.alive(300 * time.Millisecond) {
		t.Error("twin: a masqueraded connection goes on without NAT, so nothing was measured")
	}
	apply(t, h, withPools(true), true)
	if !newFlow(t, l, "83").alive(5 * time.Second) {
		t.Error("no new connection after the chain came back")
	}
}

// A thousand pools are written, compared and listed; the rule stays one.
func TestManyPools(t *testing.T) {
	ns := nstest.New(t)
	h := open(t, ns)
	var pools []cluster.Pool
	for i := range 1000 {
		cidr := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i / 64), byte(i % 64 * 4), 0}), 24-i%2)
		pools = append(pools, cluster.Pool{CIDR: cidr, NATOutgoing: i%3 != 0})
	}
	slices.Reverse(pools)
	want := withPools(true, pools...)
	start := time.Now()
	apply(t, h, want, true)
	wrote := time.Since(start)
	apply(t, h, want, false)
	t.Logf("1001 pools: written in %v, compared in %v", wrote, time.Since(start)-wrote)
	if listed := ns.Run("nft", "list", "table", "inet", core.FilterTable) + "\n"; listed != want.String() {
		t.Errorf("listed:\n%.500s", listed)
	}
	if rules := strings.Count(want.String(), "masquerade fully-random"); rules != 1 {
		t.Errorf("%d rules", rules)
	}
	apply(t, h, withPools(true, pools[1:]...), true)
}

// Every prefix of the address space becomes an interval the kernel takes.
func TestEdgesOfTheAddressSpace(t *testing.T) {
	ns := nstest.New(t)
	h := open(t, ns)
	for _, list := range [][]string{{"0.0.0.0/0"}, {"0.0.0.0/1", "128.0.0.0/1"}, {"0.0.0.0/32", "255.255.255.255/32"}, {"10.0.0.0/32", "10.0.0.1/32", "10.0.0.2/31"}} {
		var pools []cluster.Pool
		for _, p := range list {
			pools = append(pools, cluster.Pool{CIDR: prefix(p), NATOutgoing: true})
		}
		want := core.Filter(&cluster.Snapshot{HadNAT: true, Settings: cluster.Settings{InterfacePrefix: "cali"}, Pools: pools})
		apply(t, h, want, true)
		apply(t, h, want, false)
		if listed := ns.Run("nft", "list", "set", "inet", core.FilterTable, core.PoolsSet); !strings.Contains(listed, strings.TrimSuffix(list[0], "/32")) {
			t.Errorf("%v: listed:\n%s", list, listed)
		}
	}
}
