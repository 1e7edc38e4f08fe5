// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/cli"
	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/trace"
	"github.com/ocicat-net/ocicat/test/labtest"
)

// The pods that the broken paths lie between, and their host ends.
const (
	sender, senderIf     = "devops/busybox-77649b9c55-fv298", "cali1dadcdd5b31"
	receiver, receiverIf = "devops/busybox-77649b9c55-s7zfv", "cali4e329df4a89"
)

// breakage is one thing wrong on the path from sender to receiver.
type breakage struct {
	name     string
	node     string // where the commands run
	commands []string
	undo     []string
	finding  string // the first one's place and the beginning of its text
	severity trace.Severity
	also     string // the beginning of a second one, "" when there is none
}

// breakages are those that need no change of a pod. The two nodes of the path
// stand for the two sides: what breaks the reply breaks the path.
func breakages() []breakage {
	return []breakage{
		{"route missing, sender's node", master, []string{"ip route del " + node1Block}, nil,
			"k8s-master-1 ens160: no route to 172.16.109.65: the packet leaves by the default route via 192.168.0.2", trace.Break, ""},
		{"route missing, receiver's node", node1, []string{"ip route del " + masterBlock}, nil,
			"k8s-node-1 ens160: no route to 172.16.196.1: the packet leaves by the default route via 192.168.0.2", trace.Break, ""},
		{"next hop nobody has, sender's node", master, []string{"ip route replace " + node1Block + " via 192.168.0.99 proto bird"}, nil,
			"k8s-master-1 ens160: next hop 192.168.0.99 of 172.16.109.64/26 is the address of no node", trace.Break, ""},
		{"next hop nobody has, receiver's node", node1, []string{"ip route replace " + masterBlock + " via 192.168.0.99 proto bird"}, nil,
			"k8s-node-1 ens160: next hop 192.168.0.99 of 172.16.196.0/26 is the address of no node", trace.Break, ""},
		{"next hop another node, sender's node", master, []string{"ip route replace " + node1Block + " via 192.168.0.13 proto bird"}, nil,
			"k8s-master-1 ens160: next hop 192.168.0.13 is node k8s-node-2, but the pod is on k8s-node-1", trace.Deviation, ""},
		{"next hop another node, receiver's node", node1, []string{"ip route replace " + masterBlock + " via 192.168.0.13 proto bird"}, nil,
			"k8s-node-1 ens160: next hop 192.168.0.13 is node k8s-node-2, but the pod is on k8s-master-1", trace.Deviation, ""},
		{"pod's route missing, sender's node", master, []string{"ip route del 172.16.196.1"}, nil,
			`k8s-master-1 cali1dadcdd5b31: rp_filter drops packets from 172.16.196.1: the way back is "blackhole 172.16.196.0/26 proto bird"`, trace.Break, ""},
		{"pod's route missing, receiver's node", node1, []string{"ip route del 172.16.109.65"}, nil,
			`k8s-node-1 cali4e329df4a89: the route to the pod is missing: 172.16.109.65 is dropped by "blackhole 172.16.109.64/26 proto bird"`, trace.Break, ""},
		{"proxy_arp 0, sender's node", master, []string{"sysctl -qw net.ipv4.conf.cali1dadcdd5b31.proxy_arp=0"}, []string{"sysctl -qw net.ipv4.conf.cali1dadcdd5b31.proxy_arp=1"},
			"k8s-master-1 cali1dadcdd5b31: proxy_arp is 0", trace.Deviation, ""},
		{"proxy_arp 0, receiver's node", node1, []string{"sysctl -qw net.ipv4.conf.cali4e329df4a89.proxy_arp=0"}, []string{"sysctl -qw net.ipv4.conf.cali4e329df4a89.proxy_arp=1"},
			"k8s-node-1 cali4e329df4a89: proxy_arp is 0", trace.Deviation, ""},
		{"host end down, sender's node", master, []string{"ip link set cali1dadcdd5b31 down"}, []string{"ip link set cali1dadcdd5b31 up"},
			"k8s-master-1 cali1dadcdd5b31: the pod's host end is down", trace.Break, ""},
		{"host end down, receiver's node", node1, []string{"ip link set cali4e329df4a89 down"}, []string{"ip link set cali4e329df4a89 up"},
			"k8s-node-1 cali4e329df4a89: the pod's host end is down", trace.Break, ""},
		{"uplink down, sender's node", master, []string{"ip link set ens160 down"}, []string{"ip link set ens160 up"},
			"k8s-master-1 ens160: the interface with address 192.168.0.11 is down", trace.Break,
			"k8s-master-1 cali1dadcdd5b31: the node has no route for 169.254.1.1"},
		{"uplink down, receiver's node", node1, []string{"ip link set ens160 down"}, []string{"ip link set ens160 up"},
			"k8s-node-1 ens160: the interface with address 192.168.0.12 is down", trace.Break,
			"k8s-node-1 cali4e329df4a89: the node has no route for 169.254.1.1"},
		{"wrong neighbour, sender's node", master, []string{"ip neigh replace 192.168.0.12 dev ens160 lladdr 02:00:00:00:00:01 nud stale"}, []string{"ip neigh flush dev ens160"},
			"k8s-master-1 ens160: the neighbour entry of 192.168.0.12 says 02:00:00:00:00:01, but ens160 on k8s-node-1 has MAC 00:0c:29:90:fa:e2", trace.Break, ""},
		{"wrong neighbour, receiver's node", node1, []string{"ip neigh replace 172.16.109.65 dev cali4e329df4a89 lladdr 02:00:00:00:00:01 nud permanent"}, []string{"ip neigh del 172.16.109.65 dev cali4e329df4a89"},
			"k8s-node-1 cali4e329df4a89: the neighbour entry of 172.16.109.65 says 02:00:00:00:00:01, but the pod has MAC 72:19:6b:9b:bf:e2", trace.Break, ""},
		{"neighbour missing, receiver's node", node1, []string{"ip neigh del 172.16.109.65 dev cali4e329df4a89"}, nil,
			"k8s-node-1 cali4e329df4a89: the permanent neighbour of 172.16.109.65 is missing", trace.Deviation, ""},
		{"forwarding off, receiver's node", node1, []string{"sysctl -qw net.ipv4.conf.ens160.forwarding=0"}, []string{"sysctl -qw net.ipv4.conf.ens160.forwarding=1"},
			"k8s-node-1 ens160: forwarding is off", trace.Break, ""},
		{"dropped by a filter, sender's node", master, dropForwarded, []string{"nft delete table ip trace"},
			"k8s-master-1 ens160: the probe was predicted here and not seen; last seen on k8s-master-1 cali1dadcdd5b31", trace.Break, ""},
		{"dropped by a filter, receiver's node", node1, dropForwarded, []string{"nft delete table ip trace"},
			"k8s-node-1 cali4e329df4a89: the probe was predicted here and not seen; last seen on k8s-node-1 ens160", trace.Break, ""},
	}
}

// dropForwarded is what no prediction knows of: only the captured frames show
// where the packet stays.
var dropForwarded = []string{
	"nft add table ip trace",
	"nft add chain ip trace forward { type filter hook forward priority 0 ; policy drop ; }",
}

// Every break names node and interface first, and is over with its cause. The
// agents are dead, or they would repair it.
func TestBreaks(t *testing.T) {
	l := labtest.Up(t, 3, lab.ArticlePods(2), nil)
	killAgents(t, l)
	for _, b := range breakages() {
		t.Run(b.name, func(t *testing.T) {
			before := save(l, b.node)
			for _, command := range b.commands {
				l.Node(b.node, command)
			}
			r, code := traced(t, l, sender, receiver)
			expect(t, r, code, b.severity, b.finding, b.also)
			for _, command := range b.undo {
				l.Node(b.node, command)
			}
			before.restore(l, b.node)
			healthy(t, l, sender, receiver)
		})
	}
}

// expect fails unless the findings begin as wanted, the first with that
// severity, and there are no others. Of a packet that arrives all the same,
// every frame was predicted.
func expect(t *testing.T, r result, code int, severity trace.Severity, findings ...string) {
	t.Helper()
	findings = slices.DeleteFunc(findings, func(s string) bool { return s == "" })
	if code != cli.ExitProblems || len(r.Findings) != len(findings) {
		t.Fatalf("exit %d, want %d; findings %v\nwant %q", code, cli.ExitProblems, r.Findings, findings)
	}
	for i, want := range findings {
		if got := r.Findings[i].String(); !strings.HasPrefix(got, want) {
			t.Errorf("finding %q\nwant %q", got, want)
		}
	}
	if got := r.Findings[0].Severity; got != severity {
		t.Errorf("%s is a %s, want %s", r.Findings[0], got, severity)
	}
	if severity == trace.Deviation && (len(r.Captured) != len(r.Prediction.Frames()) || r.ReplyTTL == 0) {
		t.Errorf("%d frames captured, %d predicted, reply with ttl %d", len(r.Captured), len(r.Prediction.Frames()), r.ReplyTTL)
	}
}

// kernelState is what a device loses when it goes down.
type kernelState struct{ routes, neighs []string }

func save(l *labtest.Lab, node string) kernelState {
	return kernelState{lines(l.Node(node, "ip -4 route show")), lines(l.Node(node, "ip -4 neigh show nud permanent"))}
}

// restore writes again what is missing or changed, routes to links before
// those by gateways.
func (s kernelState) restore(l *labtest.Lab, node string) {
	now := save(l, node)
	for _, viaGateway := range []bool{false, true} {
		for _, route := range s.routes {
			if strings.Contains(route, " via ") == viaGateway && !slices.Contains(now.routes, route) {
				l.Node(node, "ip route replace "+route)
			}
		}
	}
	for _, neigh := range s.neighs {
		if !slices.Contains(now.neighs, neigh) {
			l.Node(node, "ip neigh replace "+strings.Replace(neigh, "PERMANENT", "nud permanent", 1))
		}
	}
}

// lines cuts an output into lines without the blanks around them.
func lines(text string) []string {
	var list []string
	for line := range strings.Lines(text) {
		list = append(list, strings.TrimSpace(line))
	}
	return list
}

// A pod without a permanent neighbour for its gateway asks by ARP, and is cut
// off where nobody answers.
func TestNobodyAnswersARP(t *testing.T) {
	l := labtest.Up(t, 2, lab.ArticlePods(2), func(topology *lab.Topology) { topology.PermGateway = false })
	killAgents(t, l)
	r := healthy(t, l, sender, receiver)
	if got, want := r.Prediction.Request[0].Decision, "default via 169.254.1.1 dev eth0 (proxy ARP on cali1dadcdd5b31)"; got != want {
		t.Errorf("the pod's decision is %q, want %q", got, want)
	}
	for _, side := range []struct{ node, pod, dev string }{{master, sender, senderIf}, {node1, receiver, receiverIf}} {
		l.Node(side.node, "sysctl -qw net.ipv4.conf."+side.dev+".proxy_arp=0")
		l.Pod(side.pod, "ip neigh flush dev eth0")
		r, code := traced(t, l, sender, receiver)
		expect(t, r, code, trace.Break, side.node+" "+side.dev+": proxy_arp is 0: nobody answers the pod's ARP for 169.254.1.1")
		l.Node(side.node, "sysctl -qw net.ipv4.conf."+side.dev+".proxy_arp=1")
		l.Pod(side.pod, "ip neigh flush dev eth0")
		healthy(t, l, sender, receiver)

		l.Node(side.node, "ip route del default")
		l.Pod(side.pod, "ip neigh flush dev eth0")
		r, code = traced(t, l, sender, receiver)
		expect(t, r, code, trace.Break, side.node+" "+side.dev+": the node has no route for 169.254.1.1, so it does not answer the pod's ARP")
		l.Node(side.node, "ip route add default via 192.168.0.2 proto static metric 100")
		l.Pod(side.pod, "ip neigh flush dev eth0")
		healthy(t, l, sender, receiver)
	}
}

// A pod whose namespace is gone, its interface with it, is missed on its
// node; one that was changed from inside is to blame itself.
func TestPodGone(t *testing.T) {
	l := labtest.Up(t, 2, lab.ArticlePods(2), nil)
	killAgents(t, l)
	l.Pod(receiver, "ip link set eth0 down")
	r, code := traced(t, l, sender, receiver)
	expect(t, r, code, trace.Break, "k8s-node-1 pod "+receiver+" eth0: the pod's interface is down")
	l.Pod(receiver, "ip link set eth0 up")

	l.Node(node1, "ip netns del "+l.Name()+".devops.busybox-77649b9c55-s7zfv")
	nstest.Eventually(t, 10*time.Second, func() bool { return !strings.Contains(l.Node(node1, "ip link show"), receiverIf) }, "the kernel removes the pod's interface")
	r, code = traced(t, l, sender, receiver)
	expect(t, r, code, trace.Break, "k8s-node-1 cali4e329df4a89: the pod's host end is missing: 172.16.109.65 is dropped by")

	r, code = traced(t, l, receiver, sender)
	expect(t, r, code, trace.Break, "k8s-node-1 pod "+receiver+" eth0: the pod's interface is missing")
	if r.Sent {
		t.Error("a packet was sent from a namespace that is gone")
	}
}
