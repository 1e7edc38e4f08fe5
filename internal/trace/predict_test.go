// SPDX-License-Identifier: Apache-2.0

package trace_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/trace"
)

// world is an oracle over plain host states: longest prefix first, as the
// kernel does.
type world map[trace.Place]host.State

func (w world) Route(at trace.Place, q trace.Query) (host.Route, bool, error) {
	var best host.Route
	found := false
	for _, r := range w[at].Routes {
		if !r.Dst.Contains(q.Dst) || (r.Type == host.Unicast && !w[at].Links[r.Dev].Up) {
			continue
		}
		if !found || r.Dst.Bits() > best.Dst.Bits() || (r.Dst.Bits() == best.Dst.Bits() && r.Metric < best.Metric) {
			best, found = r, true
		}
	}
	return best, found, nil
}

func (w world) Neigh(at trace.Place, dev string, ip netip.Addr) (host.Neigh, bool, error) {
	n, ok := w[at].Neighs[host.NeighKey{Dev: dev, IP: ip}]
	return n, ok, nil
}

func (w world) Link(at trace.Place, dev string) (host.Link, bool, error) {
	l, ok := w[at].Links[dev]
	return l, ok, nil
}

// Masquerades is so in this world for all that goes out from the article's
// pool, where a node has the setting "masquerades".
func (w world) Masquerades(at trace.Place, _, _ netip.Addr) (bool, error) {
	return w[at].Sysctls["masquerades"] != "", nil
}

func (w world) Sysctl(at trace.Place, path string) (string, error) { return w[at].Sysctls[path], nil }

var (
	master = trace.Place{Node: "k8s-master-1"}
	node1  = trace.Place{Node: "k8s-node-1"}
	podA   = trace.Endpoint{Place: trace.Place{Node: "k8s-master-1", Pod: "devops/fv298"}, Addr: netip.MustParseAddr("172.16.196.1"), IfName: "eth0", HostIf: "cali1dadcdd5b31"}
	podB   = trace.Endpoint{Place: trace.Place{Node: "k8s-node-1", Pod: "devops/s7zfv"}, Addr: netip.MustParseAddr("172.16.109.65"), IfName: "eth0", HostIf: "cali4e329df4a89"}
	podC   = trace.Endpoint{Place: trace.Place{Node: "k8s-node-1", Pod: "devops/jenkins"}, Addr: netip.MustParseAddr("172.16.109.66"), IfName: "eth0", HostIf: "cali523840de229"}
	nodes  = []trace.Node{
		{Name: "k8s-master-1", Addrs: []netip.Addr{netip.MustParseAddr("192.168.0.11")}},
		{Name: "k8s-node-1", Addrs: []netip.Addr{netip.MustParseAddr("192.168.0.12")}},
		{Name: "k8s-node-2", Addrs: []netip.Addr{netip.MustParseAddr("192.168.0.13")}},
	}
)

const gatewayMAC = "ee:ee:ee:ee:ee:ee"

// article is the state of the article's two nodes.
func article() world {
	w := world{}
	w.node(master, "192.168.0.11/24", "00:0c:29:b1:02:f0", "172.16.109.64/26 via 192.168.0.12")
	w.node(node1, "192.168.0.12/24", "00:0c:29:90:fa:e2", "172.16.196.0/26 via 192.168.0.11")
	w.pod(podA, "0e:1c:2c:f6:2a:f9")
	w.pod(podB, "72:19:6b:9b:bf:e2")
	w.pod(podC, "aa:2d:89:c6:49:dd")
	return w
}

func (w world) node(at trace.Place, addr, mac, remote string) {
	s := host.NewState()
	w[at] = s
	own := netip.MustParsePrefix(addr)
	s.Links["ens160"] = host.Link{Name: "ens160", MAC: mustMAC(mac), MTU: 1500, Up: true, Lower: true, Addrs: []netip.Prefix{own}}
	w.route(at, host.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.168.0.2"), Dev: "ens160", Proto: host.ProtoStatic, Metric: 100})
	w.route(at, host.Route{Dst: own.Masked(), Dev: "ens160", Proto: host.ProtoKernel, Scope: host.ScopeLink})
	w.route(at, host.Route{Dst: netip.PrefixFrom(own.Addr(), 32), Type: host.Local, Dev: "ens160"})
	dst, via, _ := strings.Cut(remote, " via ")
	w.route(at, host.Route{Dst: netip.MustParsePrefix(dst), Via: netip.MustParseAddr(via), Dev: "ens160", Proto: host.ProtoBird})
	s.Sysctls["net/ipv4/conf/ens160/forwarding"] = "1"
	s.Sysctls["net/ipv4/conf/all/rp_filter"] = "0"
}

func (w world) pod(ep trace.Endpoint, mac string) {
	at := trace.Place{Node: ep.Node}
	w[at].Links[ep.HostIf] = host.Link{Name: ep.HostIf, MAC: mustMAC(gatewayMAC), MTU: 1500, Up: true, Lower: true}
	w.route(at, host.Route{Dst: netip.PrefixFrom(ep.Addr, 32), Dev: ep.HostIf, Scope: host.ScopeLink})
	w.neigh(at, host.Neigh{Dev: ep.HostIf, IP: ep.Addr, MAC: mustMAC(mac), State: host.Permanent})
	for name, value := range map[string]string{"proxy_arp": "1", "rp_filter": "1", "forwarding": "1"} {
		w[at].Sysctls["net/ipv4/conf/"+ep.HostIf+"/"+name] = value
	}
	s := host.NewState()
	w[ep.Place] = s
	gateway := netip.MustParseAddr("169.254.1.1")
	s.Links["eth0"] = host.Link{Name: "eth0", MAC: mustMAC(mac), MTU: 1500, Up: true, Lower: true, Addrs: []netip.Prefix{netip.PrefixFrom(ep.Addr, 32)}}
	w.route(ep.Place, host.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: gateway, Dev: "eth0"})
	w.neigh(ep.Place, host.Neigh{Dev: "eth0", IP: gateway, MAC: mustMAC(gatewayMAC), State: host.Permanent})
}

func (w world) route(at trace.Place, r host.Route) { w[at].Routes[r.Key()] = r }
func (w world) neigh(at trace.Place, n host.Neigh) { w[at].Neighs[n.Key()] = n }

func (w world) unroute(at trace.Place, dst string) {
	delete(w[at].Routes, host.RouteKey{Dst: netip.MustParsePrefix(dst)})
}

func mustMAC(s string) host.MAC {
	m, err := host.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return m
}

func render(hops []trace.Hop) string {
	var b strings.Builder
	for _, h := range hops {
		fmt.Fprintf(&b, "%s %s | %s → %s | ttl %d | %s\n", h.At, h.Dev, h.SrcMAC, h.DstMAC, h.TTL, h.Decision)
	}
	return b.String()
}

// The article's two walks, as WALK.md sections 5 and 6 tell them.
func TestPredictArticle(t *testing.T) {
	p, err := trace.Predict(article(), nodes, podA, podB)
	if err != nil || len(p.Findings) > 0 || !p.Delivered || p.MTU != 1500 {
		t.Fatalf("%v, findings %v, delivered %v, mtu %d", err, p.Findings, p.Delivered, p.MTU)
	}
	request := `pod devops/fv298 eth0 | 0e:1c:2c:f6:2a:f9 → ee:ee:ee:ee:ee:ee | ttl 64 | default via 169.254.1.1 dev eth0 (permanent neighbour)
k8s-master-1 cali1dadcdd5b31 | 0e:1c:2c:f6:2a:f9 → ee:ee:ee:ee:ee:ee | ttl 64 | 172.16.109.64/26 via 192.168.0.12 dev ens160 proto bird (node k8s-node-1)
k8s-master-1 ens160 | 00:0c:29:b1:02:f0 → 00:0c:29:90:fa:e2 | ttl 63 | neighbour 192.168.0.12 by ARP
k8s-node-1 ens160 | 00:0c:29:b1:02:f0 → 00:0c:29:90:fa:e2 | ttl 63 | 172.16.109.65 dev cali4e329df4a89 scope link
k8s-node-1 cali4e329df4a89 | ee:ee:ee:ee:ee:ee → 72:19:6b:9b:bf:e2 | ttl 62 | neighbour 172.16.109.65 permanent
pod devops/s7zfv eth0 | ee:ee:ee:ee:ee:ee → 72:19:6b:9b:bf:e2 | ttl 62 | delivered
`
	if diff := cmp.Diff(request, render(p.Request)); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	if last := p.Reply[len(p.Reply)-1]; last.TTL != 62 || last.At != podA.Place || last.DstMAC.String() != "0e:1c:2c:f6:2a:f9" {
		t.Errorf("reply ends %+v", last)
	}

	p, err = trace.Predict(article(), nodes, podB, podC)
	if err != nil || len(p.Findings) > 0 || !p.Delivered {
		t.Fatalf("same host: %v, findings %v", err, p.Findings)
	}
	same := `pod devops/s7zfv eth0 | 72:19:6b:9b:bf:e2 → ee:ee:ee:ee:ee:ee | ttl 64 | default via 169.254.1.1 dev eth0 (permanent neighbour)
k8s-node-1 cali4e329df4a89 | 72:19:6b:9b:bf:e2 → ee:ee:ee:ee:ee:ee | ttl 64 | 172.16.109.66 dev cali523840de229 scope link
k8s-node-1 cali523840de229 | ee:ee:ee:ee:ee:ee → aa:2d:89:c6:49:dd | ttl 63 | neighbour 172.16.109.66 permanent
pod devops/jenkins eth0 | ee:ee:ee:ee:ee:ee → aa:2d:89:c6:49:dd | ttl 63 | delivered
`
	if diff := cmp.Diff(same, render(p.Request)); diff != "" {
		t.Errorf("same host (-want +got):\n%s", diff)
	}
}

// Every break names its node and interface, on either side.
func TestPredictNamesTheBreak(t *testing.T) {
	tests := map[string]struct {
		do        func(world)
		want      string // prefix of the first finding
		delivered bool
	}{
		"route missing on the sender's node": {func(w world) { w.unroute(master, "172.16.109.64/26") },
			"k8s-master-1 ens160: no route to 172.16.109.65: the packet leaves by the default route via 192.168.0.2", false},
		"route missing on the receiver's node": {func(w world) { w.unroute(node1, "172.16.196.0/26") },
			"k8s-node-1 ens160: no route to 172.16.196.1: the packet leaves by the default route", false},
		"next hop nobody has": {func(w world) {
			w.route(master, host.Route{Dst: netip.MustParsePrefix("172.16.109.64/26"), Via: netip.MustParseAddr("192.168.0.99"), Dev: "ens160", Proto: host.ProtoBird})
		}, "k8s-master-1 ens160: next hop 192.168.0.99 of 172.16.109.64/26 is the address of no node", false},
		"pod's route missing on its node": {func(w world) {
			w.unroute(node1, "172.16.109.65/32")
			w.route(node1, host.Route{Dst: netip.MustParsePrefix("172.16.109.64/26"), Type: host.Blackhole, Proto: host.ProtoBird})
		}, `k8s-node-1 cali4e329df4a89: the route to the pod is missing: 172.16.109.65 is dropped by "blackhole 172.16.109.64/26 proto bird"`, false},
		"proxy_arp 0, pod has to ask": {func(w world) {
			w[master].Sysctls["net/ipv4/conf/cali1dadcdd5b31/proxy_arp"] = "0"
			clear(w[podA.Place].Neighs)
		}, "k8s-master-1 cali1dadcdd5b31: proxy_arp is 0", false},
		"proxy_arp 0, pod has a permanent neighbour": {func(w world) {
			w[master].Sysctls["net/ipv4/conf/cali1dadcdd5b31/proxy_arp"] = "0"
		}, "k8s-master-1 cali1dadcdd5b31: proxy_arp is 0", true},
		"no default route, no cure, pod has to ask": {func(w world) {
			delete(w[node1].Routes, host.RouteKey{Dst: netip.MustParsePrefix("0.0.0.0/0"), Metric: 100})
			clear(w[podB.Place].Neighs)
		}, "k8s-node-1 cali4e329df4a89: the node has no route for 169.254.1.1", false},
		"sender's host end down": {func(w world) { w.down(master, "cali1dadcdd5b31") },
			"k8s-master-1 cali1dadcdd5b31: the pod's host end is down", false},
		"receiver's host end down": {func(w world) { w.down(node1, "cali4e329df4a89") },
			"k8s-node-1 cali4e329df4a89: the pod's host end is down: no route to 172.16.109.65", false},
		"uplink of the sender down": {func(w world) { w.down(master, "ens160") },
			"k8s-master-1 ens160: the interface with address 192.168.0.11 is down", false},
		"uplink of the receiver down": {func(w world) { w.down(node1, "ens160") },
			"k8s-node-1 ens160: the interface with address 192.168.0.12 is down", false},
		"uplink of the sender without carrier": {func(w world) {
			l := w[master].Links["ens160"]
			l.Lower = false
			w[master].Links["ens160"] = l
		}, "k8s-master-1 ens160: the outgoing interface is without carrier", false},
		"receiver's node in another network": {func(w world) {
			w.unroute(master, "172.16.109.64/26")
			w.unroute(master, "192.168.0.0/24")
		}, "k8s-master-1 ens160: no route to 172.16.109.65: the packet leaves by the default route via 192.168.0.2; OC1003 next hop not on the link: its node k8s-node-1 has address 192.168.0.12", false},
		"stale neighbour with a wrong MAC": {func(w world) {
			w.neigh(master, host.Neigh{Dev: "ens160", IP: netip.MustParseAddr("192.168.0.12"), MAC: mustMAC("02:00:00:00:00:01"), State: "STALE"})
		}, "k8s-master-1 ens160: the neighbour entry of 192.168.0.12 says 02:00:00:00:00:01", false},
		"address of the receiver's node gone": {func(w world) { w.unroute(node1, "192.168.0.12/32") },
			"k8s-node-1: the node does not have its address 192.168.0.12 any more", false},
		"remote pod's interface gone": {func(w world) { delete(w[podB.Place].Links, "eth0") },
			"k8s-node-1 pod devops/s7zfv eth0: the pod's interface is missing", false},
		"remote pod gone": {func(w world) {
			delete(w, podB.Place)
			delete(w[node1].Links, podB.HostIf)
			w.unroute(node1, "172.16.109.65/32")
		}, "k8s-node-1 cali4e329df4a89: the pod's host end is missing: no route to 172.16.109.65", false},
		"forwarding off": {func(w world) { w[node1].Sysctls["net/ipv4/conf/ens160/forwarding"] = "0" },
			"k8s-node-1 ens160: forwarding is off", false},
		"wrong permanent neighbour": {func(w world) {
			w.neigh(node1, host.Neigh{Dev: podB.HostIf, IP: podB.Addr, MAC: mustMAC("02:00:00:00:00:01"), State: host.Permanent})
		}, "k8s-node-1 cali4e329df4a89: the neighbour entry of 172.16.109.65 says 02:00:00:00:00:01", false},
		"spoofing filter against a moved route": {func(w world) {
			w.route(master, host.Route{Dst: netip.MustParsePrefix("172.16.196.1/32"), Dev: "ens160", Scope: host.ScopeLink})
		}, "k8s-master-1 cali1dadcdd5b31: rp_filter drops packets from 172.16.196.1", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := article()
			test.do(w)
			p, err := trace.Predict(w, nodes, podA, podB)
			if err != nil || len(p.Findings) == 0 {
				t.Fatalf("no finding: %v", err)
			}
			if got := p.Findings[0]; !strings.HasPrefix(got.String(), test.want) || (got.Severity == trace.Deviation) != test.delivered {
				t.Errorf("first finding %q (%s)\nwant %q", got, got.Severity, test.want)
			}
			if p.Delivered != test.delivered {
				t.Errorf("delivered %v", p.Delivered)
			}
		})
	}
}

func (w world) down(at trace.Place, dev string) {
	l := w[at].Links[dev]
	l.Up = false
	w[at].Links[dev] = l
}

// A wrong next hop that is another node is named, and the walk goes on there.
func TestPredictWrongNode(t *testing.T) {
	w := article()
	node2 := trace.Place{Node: "k8s-node-2"}
	w.node(node2, "192.168.0.13/24", "00:0c:29:00:00:13", "172.16.109.64/26 via 192.168.0.12")
	w.route(node2, host.Route{Dst: netip.MustParsePrefix("172.16.196.0/26"), Via: netip.MustParseAddr("192.168.0.11"), Dev: "ens160", Proto: host.ProtoBird})
	w.route(master, host.Route{Dst: netip.MustParsePrefix("172.16.109.64/26"), Via: netip.MustParseAddr("192.168.0.13"), Dev: "ens160", Proto: host.ProtoBird})
	p, err := trace.Predict(w, nodes, podA, podB)
	if err != nil || len(p.Findings) != 1 || !p.Delivered {
		t.Fatalf("%v, findings %v, delivered %v", err, p.Findings, p.Delivered)
	}
	if got := p.Findings[0].String(); !strings.HasPrefix(got, "k8s-master-1 ens160: next hop 192.168.0.13 is node k8s-node-2, but the pod is on k8s-node-1") {
		t.Errorf("finding %q", got)
	}
	if last := p.Request[len(p.Request)-1]; last.TTL != 61 {
		t.Errorf("ttl %d at the end of a path over three nodes, want 61", last.TTL)
	}
}

// Two nodes that send a packet to each other are a loop, not an endless walk.
func TestPredictLoop(t *testing.T) {
	w := article()
	w.unroute(node1, "172.16.109.65/32")
	w.route(node1, host.Route{Dst: netip.MustParsePrefix("172.16.109.64/26"), Via: netip.MustParseAddr("192.168.0.11"), Dev: "ens160", Proto: host.ProtoBird})
	p, err := trace.Predict(w, nodes, podA, podB)
	if err != nil || p.Delivered {
		t.Fatalf("%v, delivered %v", err, p.Delivered)
	}
	var all strings.Builder
	for _, f := range p.Findings {
		fmt.Fprintln(&all, f)
	}
	if !strings.Contains(all.String(), "a routing loop") {
		t.Errorf("findings:\n%s", &all)
	}
}

func TestCompare(t *testing.T) {
	p, err := trace.Predict(article(), nodes, podA, podB)
	if err != nil {
		t.Fatal(err)
	}
	if got := trace.Compare(p, p.Frames()); len(got) != 0 {
		t.Errorf("equal frames differ: %v", got)
	}
	frames := p.Frames()
	frames[3].TTL = 60
	if got := trace.Compare(p, frames); len(got) != 1 || got[0].String() != "k8s-node-1 ens160: captured ttl 60, predicted 63" {
		t.Errorf("changed TTL: %v", got)
	}
	if got := trace.Compare(p, p.Frames()[:3]); len(got) != 1 || got[0].String() != "k8s-node-1 ens160: the probe was predicted here and not seen; last seen on k8s-master-1 ens160" {
		t.Errorf("lost on the wire: %v", got)
	}
	if got := trace.Compare(p, append(p.Frames(), p.Frames()[0])); len(got) != 1 {
		t.Errorf("a frame too many: %v", got)
	}
	lost := p
	lost.Request, lost.Reply, lost.Delivered = p.Request[:3], nil, false
	if got := trace.Compare(lost, p.Frames()); len(got) != 1 || got[0].Text != "a reply arrived, though the packet was predicted to be lost" {
		t.Errorf("an unexpected reply: %v", got)
	}
}
