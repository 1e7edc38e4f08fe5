// SPDX-License-Identifier: Apache-2.0

package trace_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/trace"
)

// To an address outside the walk ends where the packet leaves the node: with
// the node's address where it is masqueraded, with the pod's where not.
func TestPredictOutside(t *testing.T) {
	world := article()
	world.neigh(master, host.Neigh{Dev: "ens160", IP: netip.MustParseAddr("192.168.0.2"), MAC: mustMAC("00:50:56:e0:1b:11"), State: "REACHABLE"})
	for _, c := range []struct{ masquerades, to, source, want string }{
		{"yes", "192.0.2.1", "192.168.0.11", `pod devops/fv298 eth0 | 0e:1c:2c:f6:2a:f9 → ee:ee:ee:ee:ee:ee | ttl 64 | default via 169.254.1.1 dev eth0 (permanent neighbour)
k8s-master-1 cali1dadcdd5b31 | 0e:1c:2c:f6:2a:f9 → ee:ee:ee:ee:ee:ee | ttl 64 | default via 192.168.0.2 dev ens160 proto static metric 100
k8s-master-1 ens160 | 00:0c:29:b1:02:f0 → 00:50:56:e0:1b:11 | ttl 63 | natOutgoing: source becomes 192.168.0.11; neighbour 192.168.0.2 by ARP
`},
		{"", "192.168.0.99", "172.16.196.1", `pod devops/fv298 eth0 | 0e:1c:2c:f6:2a:f9 → ee:ee:ee:ee:ee:ee | ttl 64 | default via 169.254.1.1 dev eth0 (permanent neighbour)
k8s-master-1 cali1dadcdd5b31 | 0e:1c:2c:f6:2a:f9 → ee:ee:ee:ee:ee:ee | ttl 64 | 192.168.0.0/24 dev ens160 proto kernel scope link
k8s-master-1 ens160 | 00:0c:29:b1:02:f0 →  | ttl 63 | neighbour 192.168.0.99 by ARP
`},
		{"yes", "192.168.0.11", "172.16.196.1", `pod devops/fv298 eth0 | 0e:1c:2c:f6:2a:f9 → ee:ee:ee:ee:ee:ee | ttl 64 | default via 169.254.1.1 dev eth0 (permanent neighbour)
k8s-master-1 cali1dadcdd5b31 | 0e:1c:2c:f6:2a:f9 → ee:ee:ee:ee:ee:ee | ttl 64 | delivered to the node itself
`},
	} {
		world[master].Sysctls["masquerades"] = c.masquerades
		p, err := trace.Predict(world, nodes, podA, trace.Outside(netip.MustParseAddr(c.to)))
		if err != nil || len(p.Findings) > 0 || !p.Delivered || !p.Outside || len(p.Reply) > 0 {
			t.Fatalf("%s: %v, %+v", c.to, err, p)
		}
		if diff := cmp.Diff(c.want, render(p.Request)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.to, diff)
		}
		for i, f := range p.Frames() {
			want := "172.16.196.1"
			if i == 2 {
				want = c.source
			}
			if f.Src.String() != want {
				t.Errorf("%s: frame %d has source %s, want %s", c.to, i, f.Src, want)
			}
		}
	}
}

// Where the packet cannot leave the node says so.
func TestPredictOutsideBroken(t *testing.T) {
	for _, c := range []struct {
		what  string
		harm  func(world)
		text  string
		shown int // hops
	}{
		{"no route", func(w world) {
			w.unroute(master, "0.0.0.0/0")
			delete(w[master].Routes, host.RouteKey{Dst: netip.MustParsePrefix("0.0.0.0/0"), Metric: 100})
		}, "no route to 192.0.2.1", 2},
		{"blackhole", func(w world) {
			w.route(master, host.Route{Dst: netip.MustParsePrefix("192.0.2.0/26"), Type: host.Blackhole})
		}, "is dropped by", 2},
		{"no carrier", func(w world) {
			l := w[master].Links["ens160"]
			l.Lower = false
			w[master].Links["ens160"] = l
		}, "without carrier", 2},
		{"nothing to masquerade as", func(w world) {
			l := w[master].Links["ens160"]
			l.Addrs = nil
			w[master].Links["ens160"] = l
		}, "has no address", 2},
		{"no host end", func(w world) { delete(w[master].Links, podA.HostIf) }, "host end is missing", 0},
	} {
		w := article()
		w[master].Sysctls["masquerades"] = "yes"
		c.harm(w)
		p, err := trace.Predict(w, nodes, podA, trace.Outside(netip.MustParseAddr("192.0.2.1")))
		if err != nil || p.Delivered || !slices.ContainsFunc(p.Findings, func(f trace.Finding) bool { return f.Severity == trace.Break && strings.Contains(f.Text, c.text) }) || len(p.Request) < c.shown {
			t.Errorf("%s: %v, delivered %v, findings %v, %d hops", c.what, err, p.Delivered, p.Findings, len(p.Request))
		}
	}
}

// What comes back from outside is no surprise; that nothing does is a finding,
// with the remedy for an address the world outside does not know.
func TestCompareOutside(t *testing.T) {
	for _, masquerades := range []string{"yes", ""} {
		w := article()
		w[master].Sysctls["masquerades"] = masquerades
		p, err := trace.Predict(w, nodes, podA, trace.Outside(netip.MustParseAddr("192.0.2.1")))
		if err != nil {
			t.Fatal(err)
		}
		captured := p.Frames()
		captured[2].DstMAC = mustMAC("00:50:56:e0:1b:11") // ARP found it
		p.Learn(captured)
		if p.Request[2].DstMAC != captured[2].DstMAC {
			t.Error("the next hop's MAC is not learned")
		}
		found := trace.Compare(p, captured)
		if len(found) != 1 || !strings.Contains(found[0].Text, "no reply from 192.0.2.1") || strings.Contains(found[0].Remedy, "natOutgoing") == (masquerades != "") {
			t.Errorf("no reply: %+v", found)
		}
		back := p.Request[2].Frame
		back.Reply, back.TTL, back.Src, back.Dst = true, 57, back.Dst, back.Src
		if found := trace.Compare(p, append(captured, back)); len(found) != 1 || !strings.Contains(found[0].Text, "did not reach the pod") {
			t.Errorf("reply at the node only: %+v", found)
		}
		inPod := back
		inPod.At, inPod.Dev, inPod.Dst, inPod.TTL = podA.Place, "eth0", podA.Addr, 56
		if found := trace.Compare(p, append(captured, back, inPod)); len(found) != 0 {
			t.Errorf("reply: %+v", found)
		}
		captured[2].Src = netip.MustParseAddr("198.51.100.1")
		if found := trace.Compare(p, append(captured, back, inPod)); len(found) != 1 || !strings.Contains(found[0].Text, "captured source 198.51.100.1") {
			t.Errorf("another source: %+v", found)
		}
	}
}
