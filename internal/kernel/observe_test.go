// SPDX-License-Identifier: Apache-2.0

package kernel_test

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/kernel"
	"github.com/ocicat-net/ocicat/internal/nstest"
)

// always is a Judge for a namespace in which protocol 12 and the cali devices
// are ours.
func always() kernel.Judge {
	return kernel.Judge{
		Ours:      func(r host.Route) bool { return r.Proto == host.ProtoBird || strings.HasPrefix(r.Dev, "cali") },
		Deletable: func(host.Route) bool { return true },
		Skip:      func(string) bool { return false },
	}
}

// snapshot wants one pod, one own block and one of another node.
func snapshot(endpoints ...cluster.Endpoint) *cluster.Snapshot {
	s := &cluster.Snapshot{
		Settings:  cluster.Settings{RouteProtocol: host.ProtoBird, InterfacePrefix: "cali"},
		Blocks:    []cluster.Block{{CIDR: pfx("172.16.196.0/26"), Confirmed: true}},
		Endpoints: map[cluster.EndpointID]cluster.Endpoint{},
		Host:      cluster.Host{DefaultRoute: true},
	}
	for _, ep := range endpoints {
		s.Endpoints[ep.ID] = ep
	}
	return s
}

func wanted(s *cluster.Snapshot) host.State {
	want, _ := core.Host(s)
	r := blockRoute("172.16.109.64/26")
	want.Routes[r.Key()] = r
	return want
}

func observe(t testing.TB, n node) host.State {
	t.Helper()
	s, err := n.kernel.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// converge applies what is missing and returns what that was.
func converge(t *testing.T, n node, want host.State) kernel.Changes {
	t.Helper()
	ch := kernel.Diff(want, observe(t, n), always())
	if err := n.kernel.Apply(t.Context(), ch); err != nil {
		t.Fatal(err)
	}
	return ch
}

func TestObserveSeesWhatAttachMade(t *testing.T) {
	n, pod := masterNode(t), nstest.New(t)
	ep := article()
	mustAttach(t, n, attachment(ep, pod))
	if ch := converge(t, n, wanted(snapshot(ep))); ch.String() != "route replace 172.16.109.64/26 via 192.168.0.12 dev ens160 proto bird\nroute replace blackhole 172.16.196.0/26 proto bird\n" {
		t.Errorf("first changes:\n%s", ch)
	}
	if ch := converge(t, n, wanted(snapshot(ep))); ch.Len() != 0 {
		t.Errorf("changes of a right state:\n%s", ch)
	}
	want := `default via 192.168.0.2 dev ens160 proto static metric 100
172.16.109.64/26 via 192.168.0.12 dev ens160 proto bird
blackhole 172.16.196.0/26 proto bird
172.16.196.1 dev cali1dadcdd5b31 scope link
192.168.0.0/24 dev ens160 proto kernel scope link src 192.168.0.11`
	if diff := cmp.Diff(want, n.IP("route show")); diff != "" {
		t.Errorf("ip route show (-want +got):\n%s", diff)
	}
}

// Each damage done by hand is mended by one pass, and nothing else is touched.
func TestApplyMends(t *testing.T) {
	const dev = "cali1dadcdd5b31"
	for name, c := range map[string]struct {
		damage, changes string
	}{
		"mac":       {"ip link set " + dev + " address 02:00:00:00:00:01", "link set " + dev},
		"mtu":       {"ip link set " + dev + " mtu 1400", "link set " + dev},
		"alias":     {"ip link set " + dev + " alias ", "link set " + dev},
		"down":      {"ip link set " + dev + " down", "link set " + dev},
		"route":     {"ip route del 172.16.196.1", "route replace 172.16.196.1"},
		"next hop":  {"ip route replace 172.16.109.64/26 via 192.168.0.13 proto bird", "route replace 172.16.109.64/26"},
		"stray":     {"ip route add 172.16.7.0/26 via 192.168.0.13 proto bird", "route del 172.16.7.0/26"},
		"stray pod": {"ip route add 172.16.196.9 dev " + dev, "route del 172.16.196.9"},
		"neighbour": {"ip neigh replace 172.16.196.1 dev " + dev + " lladdr 02:00:00:00:00:01", "neigh replace 172.16.196.1"},
		"proxy_arp": {"sysctl -qw net/ipv4/conf/" + dev + "/proxy_arp=0", "sysctl net/ipv4/conf/" + dev + "/proxy_arp=1"},
		"delay":     {"sysctl -qw net/ipv4/neigh/" + dev + "/proxy_delay=80", "sysctl net/ipv4/neigh/" + dev + "/proxy_delay=0"},
		"accept_ra": {"sysctl -qw net/ipv6/conf/" + dev + "/accept_ra=2", "sysctl net/ipv6/conf/" + dev + "/accept_ra=0"},
		"forward":   {"sysctl -qw net/ipv4/ip_forward=0", "sysctl net/ipv4/ip_forward=1"},
	} {
		t.Run(name, func(t *testing.T) {
			n, pod := masterNode(t), nstest.New(t)
			ep := article()
			a := attachment(ep, pod)
			mustAttach(t, n, a)
			want := wanted(snapshot(ep))
			converge(t, n, want)
			before, settings := seen(n, pod), sysctls(n, a.Want)
			args := strings.Split(c.damage, " ")
			n.Run(args[0], args[1:]...)
			ch := converge(t, n, want)
			if !strings.Contains(ch.String(), c.changes) {
				t.Errorf("changes:\n%swant among them %q", ch, c.changes)
			}
			if left := converge(t, n, want); left.Len() != 0 {
				t.Errorf("left after one pass:\n%s", left)
			}
			// A link that was down has its carrier a moment later.
			nstest.Eventually(t, 2*time.Second, func() bool { return !strings.Contains(seen(n, pod), "linkdown") }, "carrier")
			if diff := cmp.Diff(before, seen(n, pod)); diff != "" {
				t.Errorf("(-before +after):\n%s", diff)
			}
			if diff := cmp.Diff(settings, sysctls(n, a.Want)); diff != "" {
				t.Errorf("settings (-before +after):\n%s", diff)
			}
		})
	}
}

func TestApplyLeavesForeignThingsAlone(t *testing.T) {
	n := masterNode(t)
	n.IP("route add 172.16.109.64/26 via 192.168.0.99 dev ens160 proto static")
	n.IP("route add 10.0.0.0/8 via 192.168.0.99 dev ens160 proto static")
	before := n.IP("route show")
	want := wanted(snapshot())
	delete(want.Routes, host.RouteKey{Dst: pfx("172.16.196.0/26")})
	ch := converge(t, n, want)
	if len(ch.Conflicts) != 1 || ch.Conflicts[0].Seen.Proto != host.ProtoStatic || ch.Len() != 0 {
		t.Errorf("conflicts %v, changes:\n%s", ch.Conflicts, ch)
	}
	if diff := cmp.Diff(before, n.IP("route show")); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

func TestDiffReportsARouteThatHidesOurs(t *testing.T) {
	want, seen := host.NewState(), host.NewState()
	ours := blockRoute("172.16.109.64/26")
	ours.Metric = 1024
	better := host.Route{Dst: ours.Dst, Dev: "ens160", Proto: host.ProtoStatic, Metric: 5}
	worse := host.Route{Dst: ours.Dst, Dev: "ens160", Proto: host.ProtoStatic, Metric: 2000}
	want.Routes[ours.Key()] = ours
	part := host.Route{Dst: netip.MustParsePrefix("172.16.109.64/27"), Dev: "ens160", Proto: host.ProtoStatic, Metric: 3000}
	around := host.Route{Dst: netip.MustParsePrefix("172.16.0.0/16"), Dev: "ens160", Proto: host.ProtoStatic}
	for _, r := range []host.Route{ours, better, worse, part, around} {
		seen.Routes[r.Key()] = r
	}
	ch := kernel.Diff(want, seen, always())
	slices.SortFunc(ch.Conflicts, func(a, b kernel.Conflict) int { return int(a.Seen.Metric) - int(b.Seen.Metric) })
	if diff := cmp.Diff([]kernel.Conflict{{Want: ours, Seen: better}, {Want: ours, Seen: part}}, ch.Conflicts, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || ch.Len() != 0 {
		t.Errorf("(-want +got):\n%s\n%s", diff, ch)
	}
}

func TestDiffLeavesMissingAndAlienLinks(t *testing.T) {
	ep := article()
	want, seen := wanted(snapshot(ep)), host.NewState()
	r := blockRoute("172.16.109.64/26")
	seen.Routes[r.Key()] = r
	ch := kernel.Diff(want, seen, always())
	if !slices.Equal(ch.LinksGone, []string{ep.HostIf}) || ch.String() != "route replace blackhole 172.16.196.0/26 proto bird\n" {
		t.Errorf("gone %v, changes:\n%s", ch.LinksGone, ch)
	}
	seen.Links[ep.HostIf] = host.Link{Name: ep.HostIf, Alias: "other/eth0"}
	ch = kernel.Diff(want, seen, always())
	if !slices.Equal(ch.LinksAlien, []string{ep.HostIf}) || ch.Len() != 1 {
		t.Errorf("alien %v, changes:\n%s", ch.LinksAlien, ch)
	}
	j := always()
	j.Skip = func(dev string) bool { return dev == ep.HostIf }
	if ch = kernel.Diff(want, seen, j); len(ch.LinksAlien)+len(ch.LinksGone) != 0 || ch.Len() != 1 {
		t.Errorf("a device being worked on is judged: %+v", ch)
	}
}

// model applies changes to a state as the kernel would.
func model(s host.State, ch kernel.Changes) host.State {
	out := host.State{Links: maps.Clone(s.Links), Routes: maps.Clone(s.Routes), Neighs: maps.Clone(s.Neighs), Sysctls: maps.Clone(s.Sysctls)}
	for _, l := range ch.Links {
		out.Links[l.Name] = l
	}
	for _, r := range ch.SetRoutes {
		out.Routes[r.Key()] = r
	}
	for _, r := range ch.DelRoutes {
		delete(out.Routes, r.Key())
	}
	for _, nb := range ch.SetNeighs {
		out.Neighs[nb.Key()] = nb
	}
	for _, set := range ch.Sysctls {
		out.Sysctls[set.Path] = set.Value
	}
	return out
}

// states draws states over a small universe, so that they collide; every
// device exists.
func states() *rapid.Generator[host.State] {
	return rapid.Custom(func(t *rapid.T) host.State {
		s := host.NewState()
		for _, dev := range []string{"cali1", "cali2"} {
			s.Links[dev] = host.Link{Name: dev, Up: rapid.Bool().Draw(t, "up"), MTU: rapid.SampledFrom([]int{1480, 1500}).Draw(t, "mtu"), Alias: dev}
			s.Sysctls["net/ipv4/conf/"+dev+"/proxy_arp"] = rapid.SampledFrom([]string{"0", "1"}).Draw(t, "proxy_arp")
		}
		for range rapid.IntRange(0, 12).Draw(t, "routes") {
			r := host.Route{
				Dst:    netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 5).Draw(t, "dst"))}), 32),
				Dev:    rapid.SampledFrom([]string{"cali1", "cali2", "lo"}).Draw(t, "dev"),
				Proto:  rapid.SampledFrom([]host.Protocol{host.ProtoBird, host.ProtoStatic}).Draw(t, "proto"),
				Metric: uint32(rapid.IntRange(0, 1).Draw(t, "metric")),
			}
			s.Routes[r.Key()] = r
		}
		for _, dev := range []string{"cali1", "cali2"} {
			nb := host.Neigh{Dev: dev, IP: netip.AddrFrom4([4]byte{10, 0, 0, 1}), MAC: host.MAC{2, byte(rapid.IntRange(1, 2).Draw(t, "mac"))}, State: host.Permanent}
			s.Neighs[nb.Key()] = nb
		}
		return s
	})
}

func onlyOurs(s host.State) host.State {
	out := host.State{Links: s.Links, Routes: map[host.RouteKey]host.Route{}, Neighs: s.Neighs, Sysctls: s.Sysctls}
	for k, r := range s.Routes {
		if always().Ours(r) {
			out.Routes[k] = r
		}
	}
	return out
}

// A state differs from itself in nothing; applying a difference leaves what is
// wanted and what is foreign, but for foreign routes in a wanted one's place,
// which are all reported; and a second pass finds nothing.
func TestDiffProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want, seen := onlyOurs(states().Draw(t, "want")), states().Draw(t, "seen")
		if ch := kernel.Diff(want, want, always()); ch.Len() != 0 {
			t.Fatalf("a state differs from itself:\n%s", ch)
		}
		ch := kernel.Diff(want, seen, always())
		after := model(seen, ch)
		expect := host.State{Links: want.Links, Routes: maps.Clone(want.Routes), Neighs: want.Neighs, Sysctls: want.Sysctls}
		conflicts := map[host.RouteKey]bool{}
		for _, c := range ch.Conflicts {
			conflicts[c.Seen.Key()] = true
		}
		for k, r := range seen.Routes {
			if always().Ours(r) {
				continue
			}
			if _, ok := want.Routes[k]; ok && !conflicts[k] {
				t.Fatalf("no word of the conflict with %s", r)
			}
			expect.Routes[k] = r
		}
		if diff := cmp.Diff(expect.String(), after.String()); diff != "" {
			t.Fatalf("(-want +after):\n%s", diff)
		}
		if again := kernel.Diff(want, after, always()); again.Len() != 0 {
			t.Fatalf("second pass:\n%s", again)
		}
	})
}
