// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/kernel"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/uplink"
	"github.com/ocicat-net/ocicat/test/chaos"
)

var update = flag.Bool("update", false, "rewrite testdata/layouts.txt")

// layout is one machine: commands of ip that make it from nothing, and the
// address a person would choose, "" for none. A word nic:NAME makes a device
// with a cable.
type layout struct {
	name, make, want string
}

const eth0 = "nic:eth0; addr add 192.168.0.11/24 dev eth0; "

var layouts = []layout{
	{"one NIC", eth0 + "route add default via 192.168.0.2", "192.168.0.11/24"},
	{"two NICs, the second with the default route", eth0 + "nic:eth1; addr add 10.1.0.11/24 dev eth1; route add default via 10.1.0.1", "10.1.0.11/24"},
	{"two NICs, no default route: ambiguous", eth0 + "nic:eth1; addr add 10.1.0.11/24 dev eth1", "192.168.0.11/24"},
	{"bridge with the uplink inside", "link add br0 type bridge; nic:eth0; link set eth0 master br0; link set br0 up; addr add 192.168.0.11/24 dev br0; route add default via 192.168.0.2", "192.168.0.11/24"},
	{"address left on a port of the bridge", "link add br0 type bridge; nic:eth0; addr add 192.168.0.99/24 dev eth0; link set eth0 master br0; link set br0 up; addr add 192.168.0.11/24 dev br0", "192.168.0.11/24"},
	{"MACVLAN on a NIC without address", "nic:eth0; link add link eth0 name eth0.7 type macvlan mode bridge; link set eth0.7 up; addr add 192.168.0.11/24 dev eth0.7; route add default via 192.168.0.2", "192.168.0.11/24"},
	{"docker0, cni0, br-… and virbr0 made first", "link add docker0 type bridge; addr add 172.17.0.1/16 dev docker0; link set docker0 up; link add cni0 type bridge; addr add 10.85.0.1/16 dev cni0; link set cni0 up; link add br-0123456789ab type bridge; addr add 172.18.0.1/16 dev br-0123456789ab; link set br-0123456789ab up; link add virbr0 type bridge; addr add 192.168.122.1/24 dev virbr0; link set virbr0 up; " + eth0, "192.168.0.11/24"},
	{"kube-ipvs0 with service addresses", "nic:kube-ipvs0; addr add 10.96.0.1/32 dev kube-ipvs0; addr add 10.96.0.10/32 dev kube-ipvs0; " + eth0 + "route add default via 192.168.0.2", "192.168.0.11/24"},
	{"VIP of keepalived before the node's own", "nic:eth0; addr add 192.168.0.100/32 dev eth0; addr add 192.168.0.11/24 dev eth0; route add default via 192.168.0.2", "192.168.0.11/24"},
	{"secondary addresses", eth0 + "addr add 192.168.0.12/24 dev eth0; addr add 10.9.0.1/24 dev eth0; route add default via 192.168.0.2", "192.168.0.11/24"},
	{"the default route's source is the second address", eth0 + "addr add 10.9.0.1/24 dev eth0; route add default via 10.9.0.2 src 10.9.0.1", "10.9.0.1/24"},
	{"anycast address on loopback", "addr add 203.0.113.53/32 dev lo; " + eth0 + "route add default via 192.168.0.2", "192.168.0.11/24"},
	{"default route through a tunnel", eth0 + "tuntap add tun0 mode tun; addr add 10.8.0.2/24 dev tun0; link set tun0 up; route add default dev tun0", "192.168.0.11/24"},
	{"default route through a veth", eth0 + "nic:veth7; addr add 10.7.0.2/24 dev veth7; route add default via 10.7.0.1", "192.168.0.11/24"},
	{"no default route", eth0, "192.168.0.11/24"},
	{"only link-local", "nic:eth0; addr add 169.254.7.7/16 dev eth0", ""},
	{"only IPv6", "nic:eth0; addr add fd00::11/64 dev eth0 nodad", ""},
	{"point-to-point /31", "nic:eth0; addr add 192.0.2.0/31 dev eth0; route add default via 192.0.2.1", "192.0.2.0/31"},
	{"/32 with a gateway onlink, as in clouds", "nic:eth0; addr add 10.240.0.5/32 dev eth0; route add default via 10.240.0.1 dev eth0 onlink", "10.240.0.5/32"},
	{"two default routes of different metrics", "nic:wlan0; addr add 10.2.0.11/24 dev wlan0; route add default via 10.2.0.1 metric 600; " + eth0 + "route add default via 192.168.0.2 metric 100", "192.168.0.11/24"},
	{"link down", eth0 + "nic:eth1; addr add 10.1.0.11/24 dev eth1; link set eth0 down", "10.1.0.11/24"},
	{"cable out", "nic:eth1; addr add 10.1.0.11/24 dev eth1; " + eth0 + "unplug:eth1", "192.168.0.11/24"},
	{"every link down", eth0 + "link set eth0 down", ""},
	{"policy routing: the other default route in another table", "nic:eth1; addr add 10.1.0.11/24 dev eth1; route add default via 10.1.0.1 table 100; rule add from 10.1.0.11 table 100; " + eth0 + "route add default via 192.168.0.2", "192.168.0.11/24"},
	{"pods attached", "nic:cali0123456789a; addr add 172.16.0.1/32 dev cali0123456789a; link add tunl9 type bridge; addr add 172.16.196.0/32 dev tunl9; link set tunl9 up; " + eth0, "192.168.0.11/24"},
}

// machine makes a layout in a namespace.
func machine(t *testing.T, l layout) *nstest.NS {
	t.Helper()
	ns, net := nstest.New(t), nstest.New(t)
	for command := range strings.SplitSeq(l.make, "; ") {
		if command == "" {
			continue
		}
		if nic, ok := strings.CutPrefix(command, "nic:"); ok {
			ns.IP(fmt.Sprintf("link add %s type veth peer name %s netns %s", nic, nic, net.Path()))
			net.IP("link set " + nic + " up")
			command = "link set " + nic + " up"
		}
		if nic, ok := strings.CutPrefix(command, "unplug:"); ok {
			net.IP("link set " + nic + " down")
			continue
		}
		ns.IP(command)
	}
	return ns
}

func choose(t *testing.T, ns *nstest.NS, had uplink.Had) uplink.Choice {
	t.Helper()
	handle, err := kernel.OpenAt(ns.File())
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	links, err := handle.Links(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	routes, err := handle.Routes(t.Context(), kernel.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	policy := uplink.Policy{IP: uplink.IP{Autodetect: true}, InterfacePrefix: "cali"}
	return policy.Choose(uplink.Facts{Links: links, Routes: routes}, had)
}

// TestLayouts compares what is chosen on each machine, and the reason printed,
// with testdata/layouts.txt; the twin is the machine's other address, which
// Calico's first-found takes.
func TestLayouts(t *testing.T) {
	nstest.RequireRoot(t)
	r := chaos.Begin(t, "F2", "machines of many layouts: bridges, VIPs, tunnels, clouds, pods", "the address a person would choose, with its reason")
	var golden strings.Builder
	right, others := 0, 0
	for _, l := range layouts {
		ns := machine(t, l)
		c := choose(t, ns, uplink.Had{})
		got := ""
		if c.Address.IsValid() {
			got = c.Address.String()
		}
		if got != l.want {
			t.Errorf("%s: chosen %q, want %q\n%s", l.name, got, l.want, c)
		} else {
			right++
		}
		if (c.Err == nil) != (l.want != "") {
			t.Errorf("%s: error %v", l.name, c.Err)
		}
		if first := firstFound(t, ns); first != l.want {
			others++
		}
		fmt.Fprintf(&golden, "# %s\n%s\n", l.name, c)
	}
	r.Measuredf("%d of %d machines right", right, len(layouts))
	r.Twinf("first-found, which looks at names and the order of devices, is wrong on %d", others)
	if others == 0 {
		t.Error("twin: first-found is never wrong: the layouts prove nothing")
	}
	compare(t, golden.String())
}

func compare(t *testing.T, got string) {
	t.Helper()
	const file = "testdata/layouts.txt"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("reasons differ (-want +got):\n%s", diff)
	}
}

func firstFound(t *testing.T, ns *nstest.NS) string {
	t.Helper()
	handle, err := kernel.OpenAt(ns.File())
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	links, err := handle.Links(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m, err := uplink.ParseMethod("first-found")
	if err != nil {
		t.Fatal(err)
	}
	a, err := m.Detect(uplink.Facts{Links: links}, nil)
	if err != nil {
		return ""
	}
	return a.String()
}

// TestKept changes a machine under an address in force.
func TestKept(t *testing.T) {
	nstest.RequireRoot(t)
	ns := machine(t, layout{make: eth0 + "nic:eth1; addr add 10.1.0.11/24 dev eth1; route add default via 192.168.0.2"})
	own := netip.MustParsePrefix("192.168.0.11/24")
	had := uplink.Had{Stored: own, Detected: true, InForce: own, Device: "eth0"}
	for _, step := range []struct {
		change, want string
		moved        bool
	}{
		{"route replace default via 10.1.0.1", "192.168.0.11/24", false},
		{"link set eth0 down", "192.168.0.11/24", false},
		{"link set eth0 up", "192.168.0.11/24", false},
		{"addr add 192.168.0.11/16 dev eth0", "192.168.0.11/24", false},
		{"addr del 192.168.0.11/24 dev eth0", "192.168.0.11/16", false},
		{"addr add 192.168.0.77/24 dev eth0", "192.168.0.11/16", false},
		{"addr del 192.168.0.11/16 dev eth0", "10.1.0.11/24", true},
	} {
		ns.IP(step.change)
		if c := choose(t, ns, had); c.Address.String() != step.want || c.Moved != step.moved {
			t.Errorf("after %s: moved %t, %swant %s, moved %t", step.change, c.Moved, c, step.want, step.moved)
		}
	}
	older := had
	older.Stored = netip.MustParsePrefix("10.1.0.11/24")
	ns.IP("addr add 192.168.0.11/24 dev eth0")
	if c := choose(t, ns, older); c.Address != own {
		t.Errorf("an older Node was restored: %s", c)
	}
}
