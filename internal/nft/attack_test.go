// SPDX-License-Identifier: Apache-2.0

package nft_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/test/chaos"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// lan is a node with two pods and a neighbour node.
type lan struct {
	node, one, two, other *nstest.NS
}

// newLAN wires them with nothing that would stop an attack but nftables: no
// rp_filter, and route_localnet as kube-proxy sets it.
func newLAN(t *testing.T) lan {
	t.Helper()
	l := lan{nstest.New(t), nstest.New(t), nstest.New(t), nstest.New(t)}
	for _, ns := range []*nstest.NS{l.node, l.other} {
		for _, sysctl := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/all/route_localnet", "net/ipv4/conf/default/accept_local"} {
			ns.SetSysctl(sysctl, "1")
		}
	}
	nstest.Veth(l.node, "ens160", l.other, "ens160")
	for ns, addr := range map[*nstest.NS]string{l.node: "192.168.0.11/24", l.other: "192.168.0.12/24"} {
		ns.IP("addr add " + addr + " dev ens160")
		ns.IP("link set ens160 up")
	}
	l.node.IP("-6 addr add fd01::11/64 dev ens160 nodad")
	l.other.IP("route add 172.16.0.0/16 via 192.168.0.11")
	for ns, i := range map[*nstest.NS]int{l.one: 1, l.two: 2} {
		dev := fmt.Sprintf("cali%d", i)
		nstest.Veth(l.node, dev, ns, "eth0")
		l.node.SetSysctl("net/ipv4/conf/"+dev+"/proxy_arp", "1")
		l.node.SetSysctl("net/ipv4/neigh/"+dev+"/proxy_delay", "0")
		l.node.SetSysctl("net/ipv4/conf/"+dev+"/rp_filter", "0")
		l.node.IP("link set " + dev + " up")
		l.node.IP("-6 addr add fe80::1/64 dev " + dev + " nodad")
		ns.IP("link set eth0 up")
		ns.IP(fmt.Sprintf("addr add 172.16.0.%d/32 dev eth0", i))
		ns.IP(fmt.Sprintf("-6 addr add fd00::%d/128 dev eth0 nodad", i))
		ns.IP("route add 169.254.1.1 dev eth0 scope link")
		ns.IP("route add default via 169.254.1.1 dev eth0")
		ns.IP("-6 route add default via fe80::1 dev eth0")
		l.node.IP(fmt.Sprintf("route add 172.16.0.%d dev %s scope link", i, dev))
		l.node.IP(fmt.Sprintf("-6 route add fd00::%d dev %s", i, dev))
	}
	l.node.IP("route add 169.254.1.1 dev lo scope link")
	l.node.IP("route add default via 192.168.0.12")
	// What the first pod makes up: addresses of its own, and a way out for 127/8.
	l.one.IP("addr add 172.16.0.99/32 dev eth0")
	l.one.IP("addr add 192.168.0.12/32 dev eth0") // the other node's
	l.one.IP("-6 addr add fd00::99/128 dev eth0 nodad")
	for _, local := range []string{"127.0.0.0/8", "127.0.0.1"} {
		l.one.IP("route del local " + local + " dev lo table local")
	}
	l.one.SetSysctl("net/ipv4/conf/eth0/route_localnet", "1")
	l.one.IP("addr add 127.9.9.9/32 dev eth0")
	l.one.IP("route add 127.0.0.1 via 169.254.1.1 dev eth0 src 172.16.0.1")
	return l
}

// try is one packet or connection and whether it must pass with our table.
type try struct {
	what     string
	network  string // of package net: udp4, udp6, tcp4, tcp6
	from, to *nstest.NS
	src, dst string // src without a port
	honest   bool
}

func tries(l lan) []try {
	list := []try{
		{"pod to pod", "udp4", l.one, l.two, "172.16.0.1", "172.16.0.2:5353", true},
		{"pod to pod, v6", "udp6", l.one, l.two, "fd00::1", "[fd00::2]:5353", true},
		{"pod to pod, tcp", "tcp4", l.one, l.two, "172.16.0.1", "172.16.0.2:179", true},
		{"pod to its node", "tcp4", l.one, l.node, "172.16.0.1", "192.168.0.11:10250", true},
		{"pod to its node, v6", "tcp6", l.one, l.node, "fd00::1", "[fd01::11]:10250", true},
		{"pod to its node, udp", "udp4", l.one, l.node, "172.16.0.1", "192.168.0.11:53", true},
		{"node to pod", "tcp4", l.node, l.two, "192.168.0.11", "172.16.0.2:80", true},
		{"node to node, BGP", "tcp4", l.other, l.node, "192.168.0.12", "192.168.0.11:179", true},
		{"node to node, etcd", "tcp4", l.other, l.node, "192.168.0.12", "192.168.0.11:2379", true},
		{"node to node, BFD", "udp4", l.other, l.node, "192.168.0.12", "192.168.0.11:3784", true},
		{"node to itself, etcd", "tcp4", l.node, l.node, "127.0.0.1", "127.0.0.1:2379", true},
		{"other node to pod", "tcp4", l.other, l.two, "192.168.0.12", "172.16.0.2:80", true},
		{"through a node port", "tcp4", l.other, l.two, "192.168.0.12", "192.168.0.11:30080", true},
		{"pod through a node port", "tcp4", l.one, l.two, "172.16.0.1", "192.168.0.11:30080", true},

		{"pod to 127.0.0.1", "udp4", l.one, l.node, "172.16.0.1", "127.0.0.1:5353", false},
		{"from 127.9.9.9", "udp4", l.one, l.node, "127.9.9.9", "192.168.0.11:5353", false},
		{"another's address", "udp4", l.one, l.two, "172.16.0.99", "172.16.0.2:5353", false},
		{"the other node's address", "udp4", l.one, l.two, "192.168.0.12", "172.16.0.2:5353", false},
		{"another's address, v6", "udp6", l.one, l.two, "fd00::99", "[fd00::2]:5353", false},
	}
	for _, port := range []string{"tcp 179", "tcp 2379", "tcp 2380", "udp 3784", "udp 3785", "udp 4784"} {
		list = append(list,
			try{"pod to its node, " + port, port[:3] + "4", l.one, l.node, "172.16.0.1", "192.168.0.11:" + port[4:], false},
			try{"pod to its node, v6, " + port, port[:3] + "6", l.one, l.node, "fd00::1", "[fd01::11]:" + port[4:], false})
	}
	return list
}

// Every attack reaches its goal without our table and none with it; what is
// honest passes both ways, through foreign tables too.
func TestAttacks(t *testing.T) {
	spoofing := chaos.Begin(t, "G2", "UDP from another pod's, the other node's and loopback addresses, IPv4 and IPv6; no rp_filter to help", "0 delivered, all that is honest passes")
	ports := chaos.Begin(t, "G5", "TCP 179, 2379, 2380, UDP 3784, 3785, 4784 and 127.0.0.1 of the node from a pod; IPv4 and IPv6", "0 delivered, all that is honest passes")
	l := newLAN(t)
	load(t, l.node, foreign+`
		table inet kube-proxy { chain web { meta l4proto tcp dnat ip to 172.16.0.2:80; }
		}
		add element inet kube-proxy service-ips { 192.168.0.11 . tcp . 30080 : goto web }`)
	h := open(t, l.node)
	for _, with := range []bool{false, true} {
		if with {
			apply(t, h, wanted(), true)
		}
		attacks, through := 0, 0
		for _, try := range tries(l) {
			want := try.honest || !with
			if got := delivered(t, try, want); got != want {
				t.Errorf("with our table: %v, %s: delivered %v, want %v", with, try.what, got, want)
			} else if !try.honest {
				attacks++
				if got {
					through++
				}
			}
		}
		for _, r := range []*chaos.Record{spoofing, ports} {
			if with {
				r.Measuredf("%d of all %d attacks of both kinds delivered", through, attacks)
			} else {
				r.Twinf("%d of %d without our table", through, attacks)
			}
		}
	}
}

// No spoofed packet slips through while the table is replaced.
func TestReplacingIsAtomic(t *testing.T) {
	l := newLAN(t)
	h, want := open(t, l.node), wanted()
	apply(t, h, want, true)
	spoofed := try{"another's address", "udp4", l.one, l.two, "172.16.0.99", "172.16.0.2:5353", false}
	in := listenPacket(t, spoofed.to, spoofed.network, spoofed.dst)
	out := listenPacket(t, spoofed.from, spoofed.network, spoofed.src+":0")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 40 {
			if _, err := h.Apply(want); err != nil {
				t.Errorf("apply: %v", err)
			}
			changed := wanted()
			changed.Chains[1].Drops = changed.Chains[1].Drops[:1]
			if wrote, err := h.Apply(changed); err != nil || !wrote {
				t.Errorf("apply: wrote %v, %v", wrote, err)
			}
		}
	}()
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(spoofed.dst))
	sent := 0
	for running := true; running; sent++ {
		select {
		case <-done:
			running = false
		default:
		}
		if _, err := out.WriteTo([]byte("spoofed"), to); err != nil {
			t.Fatal(err)
		}
	}
	if got := arrives(in, 100*time.Millisecond); got {
		t.Errorf("one of %d spoofed packets was delivered", sent)
	}
	if sent < 40 {
		t.Errorf("only %d packets were sent", sent)
	}
}

// delivered tries once, and longer where it should succeed.
func delivered(t *testing.T, try try, should bool) bool {
	t.Helper()
	wait := 150 * time.Millisecond
	if should {
		wait = 5 * time.Second
	}
	if try.network[:3] == "tcp" {
		return connects(t, try, wait)
	}
	in := listenPacket(t, try.to, try.network, wildcard(try))
	defer in.Close()
	out := listenPacket(t, try.from, try.network, net.JoinHostPort(try.src, "0"))
	defer out.Close()
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(try.dst))
	for deadline := time.Now().Add(wait); time.Now().Before(deadline); {
		if _, err := out.WriteTo([]byte(try.what), to); err != nil {
			t.Fatalf("%s: %v", try.what, err)
		}
		if arrives(in, 50*time.Millisecond) {
			return true
		}
	}
	return false
}

// wildcard is the target's port on every address; a node port's target is the
// pod's own.
func wildcard(try try) string {
	_, port, _ := net.SplitHostPort(try.dst)
	if port == "30080" {
		port = "80"
	}
	return ":" + port
}

func connects(t *testing.T, try try, wait time.Duration) bool {
	t.Helper()
	var listener net.Listener
	var err error
	try.to.Do(func() { listener, err = net.Listen(try.network, wildcard(try)) })
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	local, err := net.ResolveTCPAddr(try.network, net.JoinHostPort(try.src, "0"))
	if err != nil {
		t.Fatal(err)
	}
	var conn net.Conn
	try.from.Do(func() {
		conn, err = (&net.Dialer{Timeout: wait, LocalAddr: local}).Dial(try.network, try.dst)
	})
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

func listenPacket(t *testing.T, ns *nstest.NS, network, at string) net.PacketConn {
	t.Helper()
	var conn net.PacketConn
	var err error
	ns.Do(func() { conn, err = net.ListenPacket(network, at) })
	if err != nil {
		t.Fatalf("listen at %s: %v", at, err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func arrives(conn net.PacketConn, within time.Duration) bool {
	_ = conn.SetReadDeadline(time.Now().Add(within))
	_, _, err := conn.ReadFrom(make([]byte, 100))
	return err == nil
}
