// SPDX-License-Identifier: Apache-2.0

package kernel_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/kernel"
	"github.com/ocicat-net/ocicat/internal/nstest"
)

// verify is what differs, one difference a line.
func verify(t *testing.T, n node, a kernel.Attachment) string {
	t.Helper()
	found, err := n.kernel.Verify(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, d := range found {
		lines = append(lines, d.String())
	}
	return strings.Join(lines, "\n")
}

// TestVerifyFindsEveryChange changes one thing at a time: each is named, each
// is found alone, and to look changes nothing.
func TestVerifyFindsEveryChange(t *testing.T) {
	n, pod := newNode(t), nstest.New(t)
	a := attachment(article(), pod)
	const dev = "cali1dadcdd5b31"
	host := func(args string) func() { return func() { n.IP(args) } }
	inPod := func(args string) func() { return func() { pod.IP(args) } }
	sysctl := func(path, value string) func() { return func() { n.SetSysctl(path, value) } }
	type change struct {
		name string
		do   func()
		want string // the differences; ending in a new line, more follow from them
	}
	changes := []change{
		{"nothing", func() {}, ""},
		{"host link down", host("link set " + dev + " down"), "state of link " + dev + " is down, want up\nneighbour 172.16.196.1 on " + dev + " is missing\nroute 172.16.196.1/32 is missing"},
		{"host link gone", host("link del " + dev), "link " + dev + " is missing\nlink eth0 in the pod is missing"},
		{"host link renamed", func() { n.IP("link set " + dev + " down"); n.IP("link set " + dev + " name other") }, "link " + dev + " is missing"},
		{"alias", host("link set " + dev + " alias other/eth0"), `alias of link ` + dev + ` is "other/eth0", want "b8f5d1c0/eth0"`},
		{"mtu", host("link set " + dev + " mtu 1400"), "mtu of link " + dev + " is 1400, want 1500"},
		{"mac", host("link set " + dev + " address ee:ee:ee:ee:ee:ef"), "mac of link " + dev + " is ee:ee:ee:ee:ee:ef, want ee:ee:ee:ee:ee:ee\nneighbour 172.16.196.1 on " + dev + " is missing"},
		{"route", host("route del 172.16.196.1/32"), "route 172.16.196.1/32 is missing"},
		{"route elsewhere", host("route replace 172.16.196.1/32 dev lo scope link"), `route 172.16.196.1/32 is "172.16.196.1 dev lo scope link", want "172.16.196.1 dev ` + dev + ` scope link"`},
		{"neighbour", host("neigh del 172.16.196.1 dev " + dev), "neighbour 172.16.196.1 on " + dev + " is missing"},
		{"neighbour's mac", host("neigh replace 172.16.196.1 dev " + dev + " lladdr 0e:1c:2c:f6:2a:00"), "neighbour 172.16.196.1 on " + dev + ` is "0e:1c:2c:f6:2a:00" PERMANENT, want "0e:1c:2c:f6:2a:f9" PERMANENT`},
		{"neighbour not permanent", host("neigh replace 172.16.196.1 dev " + dev + " lladdr 0e:1c:2c:f6:2a:f9 nud noarp"), "neighbour 172.16.196.1 on " + dev + ` is "0e:1c:2c:f6:2a:f9" NOARP, want "0e:1c:2c:f6:2a:f9" PERMANENT`},
		{"pod link down", inPod("link set eth0 down"), "state of link eth0 in the pod is down, want up\n"},
		{"pod link renamed", func() { pod.IP("link set eth0 down"); pod.IP("link set eth0 name eth9") }, "link eth0 in the pod is missing"},
		{"pod mtu", inPod("link set eth0 mtu 1400"), "mtu of link eth0 in the pod is 1400, want 1500"},
		{"pod mac", inPod("link set eth0 address 0e:1c:2c:f6:2a:00"), "mac of link eth0 in the pod is 0e:1c:2c:f6:2a:00, want 0e:1c:2c:f6:2a:f9\nneighbour 169.254.1.1 on eth0 in the pod is missing"},
		{"pod address", inPod("addr del 172.16.196.1/32 dev eth0"), "address 172.16.196.1/32 of eth0 in the pod is missing\n"},
		{"pod default route", inPod("route del default"), "route 0.0.0.0/0 in the pod is missing"},
		{"pod default route elsewhere", inPod("route replace default dev eth0"), `route 0.0.0.0/0 in the pod is "default dev eth0 scope link", want "default via 169.254.1.1 dev eth0"`},
		{"pod gateway route", inPod("route del 169.254.1.1"), "route 169.254.1.1/32 in the pod is missing"},
		{"pod neighbour", inPod("neigh del 169.254.1.1 dev eth0"), "neighbour 169.254.1.1 on eth0 in the pod is missing"},
	}
	for _, s := range a.Want.Sysctls {
		other, shown := "1", "1"
		switch {
		case s.Value == "1":
			other, shown = "0", "0"
		case strings.HasSuffix(s.Path, "/proxy_delay"):
			other, shown = "100", "1000" // ticks of 10 ms, and netlink's milliseconds
		}
		changes = append(changes, change{s.Path, sysctl(s.Path, other), "sysctl " + s.Path + " is " + shown + ", want " + s.Value})
	}
	for _, c := range changes {
		mustAttach(t, n, a)
		c.do()
		before := settled(n, pod)
		got := verify(t, n, a)
		if got != c.want && (c.want == "" || !strings.HasSuffix(c.want, "\n") || !strings.HasPrefix(got, c.want)) {
			t.Errorf("%s: found\n%s\nwant\n%s", c.name, got, c.want)
		}
		if diff := cmp.Diff(before, settled(n, pod)); diff != "" {
			t.Errorf("%s: looking changed (-before +after):\n%s", c.name, diff)
		}
		clear(t, n, pod)
	}
	t.Logf("%d changes found one at a time", len(changes)-1)
}

// settled is seen without what follows a carrier some time later.
func settled(n node, pod *nstest.NS) string { return strings.ReplaceAll(seen(n, pod), " linkdown", "") }

// clear takes what is left of a pod away: its link under any name, its routes.
func clear(t *testing.T, n node, pod *nstest.NS) {
	t.Helper()
	for line := range strings.Lines(n.IP("-o link show type veth")) {
		n.IP("link del " + strings.FieldsFunc(line, func(r rune) bool { return r == ':' || r == '@' || r == ' ' })[1])
	}
	n.IP("route flush table main")
	nstest.Eventually(t, 5*time.Second, func() bool { return pod.IP("-o link show type veth") == "" }, "pod's link gone")
}

// TestVerifyLeavesOthersAlone: what third parties add is theirs.
func TestVerifyLeavesOthersAlone(t *testing.T) {
	n, pod := newNode(t), nstest.New(t)
	a := attachment(article(), pod)
	mustAttach(t, n, a)
	n.IP("route add 10.9.0.0/16 dev cali1dadcdd5b31")
	n.IP("route add 172.16.196.1/32 dev lo scope link metric 7")
	pod.IP("route add 10.9.0.0/16 via 169.254.1.1")
	pod.IP("route add default via 169.254.1.1 metric 9")
	pod.IP("addr add 10.9.9.9/32 dev eth0")
	pod.IP("neigh add 10.9.9.8 lladdr 0e:1c:2c:f6:2a:01 dev eth0")
	pod.IP("link add other type veth peer name rehto")
	if got := verify(t, n, a); got != "" {
		t.Errorf("found\n%s", got)
	}
}

// TestVerifyKnowsWhoseLinksTheyAre: two pods' ends swapped are not each
// other's.
func TestVerifyKnowsWhoseLinksTheyAre(t *testing.T) {
	n, pod, other := newNode(t), nstest.New(t), nstest.New(t)
	a := attachment(article(), pod)
	mustAttach(t, n, a)
	second := article()
	second.ID = cluster.EndpointID{ContainerID: "c2", IfName: "eth0"}
	second.HostIf, second.Addr = "cali2", second.Addr.Next()
	mustAttach(t, n, attachment(second, other))
	a.PodNetNS = other.File()
	if got := verify(t, n, a); !strings.Contains(got, "other end of link cali1dadcdd5b31 is another interface, want eth0 in the pod") {
		t.Errorf("found\n%s", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.kernel.Verify(ctx, a); err == nil {
		t.Error("a Verify that could not look found nothing")
	}
}
