// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/probe"
	"github.com/ocicat-net/ocicat/internal/trace"
)

// tracedPod is a pod of the article.
type tracedPod struct {
	trace.Endpoint
	mac string
}

// The article's pods and nodes.
var (
	podA = tracedPod{trace.Endpoint{Place: trace.Place{Node: "k8s-master-1", Pod: "devops/fv298"}, Addr: netip.MustParseAddr("172.16.196.1"), IfName: "eth0", HostIf: "cali1dadcdd5b31"}, "0e:1c:2c:f6:2a:f9"}
	podB = tracedPod{trace.Endpoint{Place: trace.Place{Node: "k8s-node-1", Pod: "devops/s7zfv"}, Addr: netip.MustParseAddr("172.16.109.65"), IfName: "eth0", HostIf: "cali4e329df4a89"}, "72:19:6b:9b:bf:e2"}
	both = []trace.Node{
		{Name: "k8s-master-1", Addrs: []netip.Addr{netip.MustParseAddr("192.168.0.11")}},
		{Name: "k8s-node-1", Addrs: []netip.Addr{netip.MustParseAddr("192.168.0.12")}},
	}
)

// articleNet is the kernels of the article's nodes and pods: what is sent goes
// where trace predicts it to go.
type articleNet struct {
	kernels map[trace.Place]host.State

	mu        sync.Mutex
	listeners []listener
}

type listener struct {
	tag  probe.Tag
	taps []probe.Tap
	each func(probe.Capture)
}

func newArticleNet() *articleNet {
	n := &articleNet{kernels: map[trace.Place]host.State{}}
	n.node("k8s-master-1", "192.168.0.11/24", "00:0c:29:b1:02:f0", "172.16.109.64/26", "192.168.0.12")
	n.node("k8s-node-1", "192.168.0.12/24", "00:0c:29:90:fa:e2", "172.16.196.0/26", "192.168.0.11")
	n.pod(podA)
	n.pod(podB)
	return n
}

func (n *articleNet) node(name, address, mac, block, via string) {
	s, own := host.NewState(), netip.MustParsePrefix(address)
	s.Links["ens160"] = host.Link{Name: "ens160", MAC: mustMAC(mac), MTU: 1500, Up: true, Lower: true, Addrs: []netip.Prefix{own}}
	for _, r := range []host.Route{
		{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.168.0.2"), Dev: "ens160", Metric: 100},
		{Dst: own.Masked(), Dev: "ens160", Proto: host.ProtoKernel, Scope: host.ScopeLink},
		{Dst: netip.PrefixFrom(own.Addr(), 32), Type: host.Local, Dev: "ens160"},
		{Dst: netip.MustParsePrefix(block), Via: netip.MustParseAddr(via), Dev: "ens160", Proto: host.ProtoBird},
	} {
		s.Routes[r.Key()] = r
	}
	s.Sysctls["net/ipv4/conf/ens160/forwarding"] = "1"
	s.Sysctls["net/ipv4/conf/all/rp_filter"] = "0"
	n.kernels[trace.Place{Node: name}] = s
}

func (n *articleNet) pod(p tracedPod) {
	gateway, gatewayMAC := netip.MustParseAddr("169.254.1.1"), mustMAC("ee:ee:ee:ee:ee:ee")
	node, pod := n.kernels[trace.Place{Node: p.Node}], host.NewState()
	node.Links[p.HostIf] = host.Link{Name: p.HostIf, MAC: gatewayMAC, MTU: 1500, Up: true, Lower: true}
	toPod := host.Route{Dst: netip.PrefixFrom(p.Addr, 32), Dev: p.HostIf, Scope: host.ScopeLink}
	node.Routes[toPod.Key()] = toPod
	addNeigh(node, host.Neigh{Dev: p.HostIf, IP: p.Addr, MAC: mustMAC(p.mac), State: host.Permanent})
	for _, name := range []string{"proxy_arp", "rp_filter", "forwarding"} {
		node.Sysctls["net/ipv4/conf/"+p.HostIf+"/"+name] = "1"
	}
	pod.Links["eth0"] = host.Link{Name: "eth0", MAC: mustMAC(p.mac), MTU: 1500, Up: true, Lower: true, Addrs: []netip.Prefix{netip.PrefixFrom(p.Addr, 32)}}
	out := host.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: gateway, Dev: "eth0"}
	pod.Routes[out.Key()] = out
	addNeigh(pod, host.Neigh{Dev: "eth0", IP: gateway, MAC: gatewayMAC, State: host.Permanent})
	n.kernels[p.Place] = pod
}

func addNeigh(s host.State, n host.Neigh) { s.Neighs[n.Key()] = n }

func mustMAC(s string) host.MAC {
	m, err := host.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return m
}

// Site opens places of one node alone, as an agent does.
func (n *articleNet) Site(_ context.Context, places []trace.Place) (probe.Site, func(), error) {
	for _, at := range places {
		if at.Node != places[0].Node {
			return nil, nil, fault.New(fault.Invalid, "an agent is asked about another node: %v", places)
		}
	}
	return n, func() {}, nil
}

func (n *articleNet) Route(at trace.Place, q trace.Query) (best host.Route, ok bool, err error) {
	for _, r := range n.kernels[at].Routes {
		if r.Dst.Contains(q.Dst) && (!ok || r.Dst.Bits() > best.Dst.Bits()) {
			best, ok = r, true
		}
	}
	return best, ok, nil
}

func (n *articleNet) Neigh(at trace.Place, dev string, ip netip.Addr) (host.Neigh, bool, error) {
	found, ok := n.kernels[at].Neighs[host.NeighKey{Dev: dev, IP: ip}]
	return found, ok, nil
}

func (n *articleNet) Link(at trace.Place, dev string) (host.Link, bool, error) {
	link, ok := n.kernels[at].Links[dev]
	return link, ok, nil
}

func (n *articleNet) Masquerades(trace.Place, netip.Addr, netip.Addr) (bool, error) {
	return false, nil
}

func (n *articleNet) Sysctl(at trace.Place, path string) (string, error) {
	return n.kernels[at].Sysctls[path], nil
}

func (n *articleNet) Send(_ context.Context, _ probe.Sender, _ netip.Addr, tag probe.Tag) (time.Time, error) {
	sent := time.Now()
	prediction, err := trace.Predict(n, both, podA.Endpoint, podB.Endpoint)
	if err != nil {
		return sent, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, frame := range prediction.Frames() {
		for _, l := range n.listeners {
			if l.tag == tag && slices.Contains(l.taps, probe.Tap{At: frame.At, Dev: frame.Dev}) {
				l.each(probe.Capture{Frame: frame, Time: time.Now()})
			}
		}
	}
	return sent, nil
}

func (n *articleNet) Listen(ctx context.Context, tag probe.Tag, taps []probe.Tap, ready func(), each func(probe.Capture)) error {
	n.mu.Lock()
	n.listeners = append(n.listeners, listener{tag, taps, each})
	n.mu.Unlock()
	ready()
	<-ctx.Done()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners = nil
	return nil
}
