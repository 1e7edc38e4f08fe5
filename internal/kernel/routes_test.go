// SPDX-License-Identifier: Apache-2.0

package kernel_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/kernel"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/reconcile"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// masterNode is a namespace with the article's uplink, up.
func masterNode(t testing.TB) node {
	t.Helper()
	n, sw := newNode(t), nstest.NewSwitch(t)
	sw.Plug(n.NS, "ens160")
	n.IP("addr add 192.168.0.11/24 dev ens160")
	n.IP("route add default via 192.168.0.2 dev ens160 proto static metric 100")
	return n
}

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func blockRoute(dst string) host.Route {
	return host.Route{Dst: pfx(dst), Via: netip.MustParseAddr("192.168.0.12"), Dev: "ens160", Proto: host.ProtoBird}
}

func printed(routes []host.Route) string {
	lines := make([]string, len(routes))
	for i, r := range routes {
		lines[i] = r.String()
	}
	return strings.Join(lines, "\n")
}

func TestApplyRoutesPrintsTheArticle(t *testing.T) {
	n := masterNode(t)
	set := []host.Route{
		blockRoute("172.16.109.64/26"),
		{Dst: pfx("172.16.196.0/26"), Type: host.Blackhole, Proto: host.ProtoBird},
	}
	if err := n.kernel.ApplyRoutes(t.Context(), set, nil); err != nil {
		t.Fatal(err)
	}
	want := `default via 192.168.0.2 dev ens160 proto static metric 100
172.16.109.64/26 via 192.168.0.12 dev ens160 proto bird
blackhole 172.16.196.0/26 proto bird
192.168.0.0/24 dev ens160 proto kernel scope link src 192.168.0.11`
	if diff := cmp.Diff(want, n.IP("route show")); diff != "" {
		t.Errorf("ip route show (-want +got):\n%s", diff)
	}
	routes, err := n.kernel.Routes(t.Context(), kernel.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, printed(routes)); diff != "" {
		t.Errorf("Routes (-want +got):\n%s", diff)
	}
}

func TestRoutesReadsEveryShape(t *testing.T) {
	n := masterNode(t)
	for _, r := range []string{
		"10.1.0.0/16 via 192.168.0.3 dev ens160 proto static metric 20",
		"10.1.0.0/16 via 192.168.0.4 dev ens160 proto dhcp metric 30",
		"unreachable 10.2.0.0/16 proto 80",
		"prohibit 10.3.0.0/16 proto static",
		"10.4.0.0/16 via 10.99.0.1 dev ens160 proto bird onlink",
		"10.5.0.1 dev lo proto bird scope link",
		"10.6.0.0/16 dev ens160 scope link src 192.168.0.11",
	} {
		n.IP("route add " + r)
	}
	n.IP("route add 10.7.0.0/16 proto static nexthop via 192.168.0.3 dev ens160 nexthop via 192.168.0.4 dev ens160")
	n.IP("route add 10.8.0.0/16 dev ens160 table 7") // another table: not ours to see
	routes, err := n.kernel.Routes(t.Context(), kernel.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	var hops int
	for i, r := range routes {
		if r.Hops > 1 {
			hops = r.Hops
			routes[i].Via, routes[i].Dev = netip.Addr{}, ""
		}
	}
	if hops != 2 {
		t.Errorf("the multipath route has %d next hops, want 2", hops)
	}
	want := strings.ReplaceAll(n.IP("route show"), "\n\tnexthop via 192.168.0.3 dev ens160 weight 1", "")
	want = strings.ReplaceAll(want, "\n\tnexthop via 192.168.0.4 dev ens160 weight 1", "")
	if diff := cmp.Diff(want, printed(routes)); diff != "" {
		t.Errorf("(-ip route show +Routes):\n%s", diff)
	}
	for filter, lines := range map[kernel.Filter]string{
		{Dev: "lo"}:    "10.5.0.1 dev lo proto bird scope link",
		{Proto: 80}:    "unreachable 10.2.0.0/16 proto 80",
		{Proto: 12}:    "10.4.0.0/16 via 10.99.0.1 dev ens160 proto bird onlink\n10.5.0.1 dev lo proto bird scope link",
		{Dev: "br-no"}: "",
	} {
		routes, err := n.kernel.Routes(t.Context(), filter)
		if got := printed(routes); got != lines || (err != nil) != (filter.Dev == "br-no") {
			t.Errorf("%+v: %v\n%s\nwant\n%s", filter, err, got, lines)
		}
	}
}

func TestApplyRoutesDoesAllItCan(t *testing.T) {
	n := masterNode(t)
	n.IP("route add 10.9.0.0/16 via 192.168.0.3 dev ens160 proto static")
	unreachable := blockRoute("10.1.1.0/26")
	unreachable.Via = netip.MustParseAddr("192.0.2.1")
	noDevice := blockRoute("10.1.2.0/26")
	noDevice.Dev = "ens999"
	gone := blockRoute("10.1.3.0/26")
	notThisOne := blockRoute("10.9.0.0/16") // there is one, of another protocol
	err := n.kernel.ApplyRoutes(t.Context(),
		[]host.Route{blockRoute("10.1.0.0/26"), unreachable, noDevice, blockRoute("10.1.4.0/26")},
		[]host.Route{gone, notThisOne})
	failed := reconcile.Failures(err)
	if len(failed) != 2 || !fault.Is(failed["route 10.1.1.0/26"], fault.Unavailable) || !fault.Is(failed["route 10.1.2.0/26"], fault.NotFound) {
		t.Errorf("failures: %v", failed)
	}
	for key, want := range map[string]string{
		"route 10.1.1.0/26": "set route 10.1.1.0/26: network is unreachable (Nexthop has invalid gateway)",
		"route 10.1.2.0/26": "set route 10.1.2.0/26: find link ens999: no such device",
	} {
		if got := fmt.Sprint(failed[key]); got != want {
			t.Errorf("error %q, want %q", got, want)
		}
	}
	got := n.IP("route show")
	for _, want := range []string{"10.1.0.0/26 via", "10.1.4.0/26 via", "10.9.0.0/16 via 192.168.0.3 dev ens160 proto static"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

// More routes than fit one send, and every one an error of its own.
func TestApplyRoutesInManySends(t *testing.T) {
	n := masterNode(t)
	var good, bad []host.Route
	for i := range 3000 {
		r := blockRoute(fmt.Sprintf("10.%d.%d.0/26", 1+i/250, i%250))
		good = append(good, r)
		r.Dst = pfx(fmt.Sprintf("11.%d.%d.0/26", 1+i/250, i%250))
		r.Via = netip.MustParseAddr("192.0.2.1")
		bad = append(bad, r)
	}
	err := n.kernel.ApplyRoutes(t.Context(), append(bad, good...), nil)
	if got := len(reconcile.Failures(err)); got != len(bad) {
		t.Errorf("%d failures, want %d", got, len(bad))
	}
	routes, err := n.kernel.Routes(t.Context(), kernel.Filter{Proto: host.ProtoBird})
	if err != nil || len(routes) != len(good) {
		t.Fatalf("%d routes (%v), want %d", len(routes), err, len(good))
	}
	if err := n.kernel.ApplyRoutes(t.Context(), nil, routes); err != nil {
		t.Fatal(err)
	}
	if got := n.IP("route show proto bird"); got != "" {
		t.Errorf("not deleted:\n%.200s", got)
	}
}

func TestDumpsUnderChurnAreWholeOrRepeated(t *testing.T) {
	r := chaos.Begin(t, "D9", "routes dumped while others come and go", "0 dumps that miss a route that stood all the time")
	n := masterNode(t)
	stop := make(chan struct{})
	churned := make(chan error, 1)
	other := open(t, n.NS)
	go func() {
		var err error
		for i := 0; ; i++ {
			select {
			case <-stop:
				churned <- err
				return
			default:
			}
			r := []host.Route{blockRoute(fmt.Sprintf("10.0.%d.0/26", i%200))}
			err = errors.Join(err, other.ApplyRoutes(t.Context(), r, nil), other.ApplyRoutes(t.Context(), nil, r))
		}
	}()
	for range 200 {
		seen, err := n.kernel.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(seen.Links) != 2 || len(seen.Links["ens160"].Addrs) != 1 {
			t.Fatalf("links %v", seen.Links)
		}
		if len(seen.Routes) < 2 || len(seen.Routes) > 3 {
			t.Fatalf("%d routes", len(seen.Routes))
		}
	}
	close(stop)
	if err := <-churned; err != nil {
		t.Fatal(err)
	}
	r.Measuredf("0 of 200 dumps incomplete")
}

func TestLookup(t *testing.T) {
	n, pod := masterNode(t), nstest.New(t)
	mustAttach(t, n, attachment(article(), pod))
	for _, r := range []string{"blackhole 172.16.196.0/26 proto bird", "172.16.109.64/26 via 192.168.0.12 dev ens160 proto bird", "unreachable 10.2.0.0/16"} {
		n.IP("route add " + r)
	}
	pods := netip.MustParseAddr("172.16.196.1")
	for name, c := range map[string]struct {
		query kernel.Query
		want  string
	}{
		"a pod":              {kernel.Query{Dst: pods}, "172.16.196.1 dev cali1dadcdd5b31 scope link"},
		"another node's pod": {kernel.Query{Dst: netip.MustParseAddr("172.16.109.65")}, "172.16.109.64/26 via 192.168.0.12 dev ens160 proto bird"},
		"from a pod":         {kernel.Query{Dst: netip.MustParseAddr("172.16.109.65"), Src: pods, Iif: "cali1dadcdd5b31"}, "172.16.109.64/26 via 192.168.0.12 dev ens160 proto bird"},
		"no pod":             {kernel.Query{Dst: netip.MustParseAddr("172.16.196.2")}, "blackhole 172.16.196.0/26 proto bird"},
		"unreachable":        {kernel.Query{Dst: netip.MustParseAddr("10.2.3.4")}, "unreachable 10.2.0.0/16"},
		"outside":            {kernel.Query{Dst: netip.MustParseAddr("8.8.8.8")}, "default via 192.168.0.2 dev ens160 proto static metric 100"},
		"itself":             {kernel.Query{Dst: netip.MustParseAddr("192.168.0.11")}, "local 192.168.0.11 dev ens160 proto kernel scope host src 192.168.0.11"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := n.kernel.Lookup(t.Context(), c.query)
			if err != nil {
				t.Fatal(err)
			}
			if r.Type == host.Local { // String leaves its device out
				r.Type = host.Unicast
				if got := "local " + r.String(); got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
			} else if r.String() != c.want {
				t.Errorf("got %q, want %q", r, c.want)
			}
		})
	}
	n.IP("route del default")
	if r, err := n.kernel.Lookup(t.Context(), kernel.Query{Dst: netip.MustParseAddr("8.8.8.8")}); !fault.Is(err, fault.NotFound) {
		t.Errorf("without a route: %v, %v", r, err)
	}
}

func TestNeighbour(t *testing.T) {
	n, pod := newNode(t), nstest.New(t)
	a := attachment(article(), pod)
	mustAttach(t, n, a)
	got, err := n.kernel.Neighbour(t.Context(), a.Want.Link.Name, a.Endpoint.Addr)
	if err != nil || got.String() != n.IP("neigh show nud permanent") {
		t.Errorf("%v, %v", got, err)
	}
	for dev, ip := range map[string]string{a.Want.Link.Name: "172.16.196.9", "cali-none": "172.16.196.1"} {
		if _, err := n.kernel.Neighbour(t.Context(), dev, netip.MustParseAddr(ip)); !fault.Is(err, fault.NotFound) {
			t.Errorf("%s on %s: %v", ip, dev, err)
		}
	}
	if all, err := n.kernel.Neighbours(t.Context(), a.Want.Link.Name); err != nil || len(all) != 1 {
		t.Errorf("%v, %v", all, err)
	}
}

func TestSysctl(t *testing.T) {
	n := newNode(t)
	if err := n.kernel.SetSysctl("net/ipv4/ip_forward", "0"); err != nil || n.Sysctl("net/ipv4/ip_forward") != "0" {
		t.Errorf("set: %v", err)
	}
	n.SetSysctl("net/ipv4/ip_forward", "1")
	if v, err := n.kernel.Sysctl("net/ipv4/ip_forward"); err != nil || v != "1" {
		t.Errorf("read: %q, %v", v, err)
	}
	if _, err := n.kernel.Sysctl("net/ipv4/conf/none/proxy_arp"); !fault.Is(err, fault.NotFound) || err.Error() != "read sysctl net/ipv4/conf/none/proxy_arp: no such file or directory" {
		t.Errorf("missing: %v", err)
	}
	for _, bad := range []string{"kernel/panic", "net/../kernel/panic", "/net/ipv4/ip_forward", ""} {
		if err := n.kernel.SetSysctl(bad, "1"); !fault.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := n.kernel.SetSysctl("net/ipv4/ip_forward", "maybe"); err == nil {
		t.Error("a value the kernel refuses is no error")
	}
}
