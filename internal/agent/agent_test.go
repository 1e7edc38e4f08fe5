// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/journal/tombstone"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// The article's pod: its name gives the interface, its node the block, and it
// answers pings of its host.
func TestAddMakesTheArticlesEndpoint(t *testing.T) {
	n := newNode(t)
	n.start()
	p := n.pod("busybox-77649b9c55-fv298", "c1")
	result := n.add(p)

	if result.HostIf != "cali1dadcdd5b31" || result.Addresses[0] != netip.MustParsePrefix("172.16.196.0/32") {
		t.Errorf("result %+v", result)
	}
	routes := ip(t, "route show")
	for _, line := range []string{"blackhole 172.16.196.0/26 proto bird", "172.16.196.0 dev cali1dadcdd5b31 scope link"} {
		nstest.Eventually(t, 5*time.Second, func() bool { return strings.Contains(ip(t, "route show"), line) }, line+" in\n"+routes)
	}
	if got := ip(t, "neigh show dev cali1dadcdd5b31"); !strings.Contains(got, "172.16.196.0 lladdr "+result.MAC+" PERMANENT") {
		t.Errorf("neighbours: %s", got)
	}
	if got := lines(p.ns.IP("route show")); !slices.Equal(got, []string{"default via 169.254.1.1 dev eth0", "169.254.1.1 dev eth0 scope link"}) {
		t.Errorf("routes in the pod: %q", got)
	}
	p.ns.Run("busybox", "ping", "-c", "1", "-W", "2", "192.168.0.11")
}

// A repeated ADD answers as the first did, and nothing is taken twice.
func TestRepeatedAdd(t *testing.T) {
	chaos.Begin(t, "A1", "ADD repeated, its link set down meanwhile", "same answer, one address, link whole again").
		Measuredf("the first answer")
	n := newNode(t)
	n.start()
	p := n.pod("web-0", "c1")
	first := n.add(p)
	ip(t, "link set "+first.HostIf+" down") // somebody meddles
	second := n.add(p)
	if first.Addresses[0] != second.Addresses[0] || first.MAC != second.MAC {
		t.Errorf("first %+v\nsecond %+v", first, second)
	}
	nstest.Eventually(t, 5*time.Second, func() bool { return slices.Equal(n.handles(), []string{"k8s-pod-network.c1"}) }, "one handle")
	// Three pings: after its carrier came back the kernel activates a link's
	// queue within a second (linkwatch).
	p.ns.Run("busybox", "ping", "-c", "3", "192.168.0.11")
}

// DEL takes everything away and gives the address back; a second DEL, and one
// of a pod that never was, succeed.
func TestDelLeavesNothing(t *testing.T) {
	n := newNode(t)
	n.start()
	p := n.pod("web-0", "c1")
	result := n.add(p)
	n.del(p)
	if routes := ip(t, "route show"); strings.Contains(routes, result.HostIf) {
		t.Errorf("routes after DEL:\n%s", routes)
	}
	n.del(p)
	n.del(n.pod("never", "c9"))
	nstest.Eventually(t, 5*time.Second, func() bool { return len(n.handles()) == 0 }, "handles gone")
	nstest.Eventually(t, 5*time.Second, func() bool { return !strings.Contains(ip(t, "link show"), "gone") }, "link destroyed")
	if entries := n.agent.Endpoints(); len(entries) != 0 {
		t.Errorf("endpoints after DEL: %+v", entries)
	}
	again := n.add(n.pod("web-0", "c2"))
	if again.Addresses[0] == result.Addresses[0] {
		t.Errorf("address %s is given again at once: a freed one goes to the tail of the queue", again.Addresses[0])
	}
}

// A container that replaces another of the same pod takes its interface; the
// late DEL of the old one does not touch it.
func TestReplacedSandbox(t *testing.T) {
	chaos.Begin(t, "A7", "the pod's next container attached before the last one's DEL", "the new one keeps address and traffic").
		Measuredf("0 changes by the late DEL")
	n := newNode(t)
	n.start()
	old, fresh := n.pod("web-0", "old"), n.pod("web-0", "new")
	n.add(old)
	result := n.add(fresh)
	n.del(old)
	fresh.ns.Run("busybox", "ping", "-c", "1", "-W", "2", "192.168.0.11")
	if got := ip(t, "-d link show "+result.HostIf); !strings.Contains(got, "alias new/eth0") {
		t.Errorf("host end: %s", got)
	}
}

// An ADD that cannot succeed leaves nothing: no address, no link, no record.
func TestFailedAddLeavesNothing(t *testing.T) {
	n := newNode(t)
	n.start()
	p := n.pod("web-0", "c1")
	p.ns.IP("link add eth0 type veth peer name other")
	_, err := n.agent.Add(t.Context(), p.req)
	if !fault.Is(err, fault.Conflict) {
		t.Fatalf("eth0 exists in the pod: %v", err)
	}
	nstest.Eventually(t, 5*time.Second, func() bool { return len(n.handles()) == 0 && len(n.agent.Endpoints()) == 0 }, "nothing left")
	if links := ip(t, "link show"); strings.Contains(links, "cali") {
		t.Errorf("links:\n%s", links)
	}
	wrong := n.pod("web-1", "c2")
	wrong.req.MAC = "zz"
	if _, err := n.agent.Add(t.Context(), wrong.req); !fault.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
		t.Errorf("bad MAC: %v", err)
	}
}

// An agent that restarts knows its pods, writes nothing that is right, serves
// the DELs that were left for it, and also finds pods whose record was lost.
func TestRestart(t *testing.T) {
	n := newNode(t)
	n.start()
	stays, leaves := n.pod("stays", "c1"), n.pod("leaves", "c2")
	first := n.add(stays)
	gone := n.add(leaves)
	nstest.Eventually(t, 5*time.Second, func() bool { return len(n.handles()) == 2 }, "written behind")
	n.stop()
	if err := tombstone.Write(tombstone.Dir(n.cfg.RunDir), leaves.req.ID); err != nil {
		t.Fatal(err)
	}
	n.start()
	if again := n.add(stays); again.Addresses[0] != first.Addresses[0] {
		t.Errorf("repeated ADD after the restart: %+v", again)
	}
	if routes := ip(t, "route show"); strings.Contains(routes, gone.HostIf) || !strings.Contains(routes, first.HostIf) {
		t.Errorf("routes:\n%s", routes)
	}
	nstest.Eventually(t, 5*time.Second, func() bool { return slices.Equal(n.handles(), []string{"k8s-pod-network.c1"}) }, "tombstone honoured")

	n.stop()
	if err := os.Remove(filepath.Join(n.cfg.RunDir, "journal")); err != nil {
		t.Fatal(err)
	}
	n.start()
	if again := n.add(stays); again.Addresses[0] != first.Addresses[0] || again.MAC != first.MAC {
		t.Errorf("pod after the journal was lost: %+v, was %+v", again, first)
	}
	stays.ns.Run("busybox", "ping", "-c", "1", "-W", "2", "192.168.0.11")
}

// What somebody changes behind the agent's back is put right; what is not
// ours stays.
func TestRepair(t *testing.T) {
	n := newNode(t)
	n.start()
	p := n.pod("web-0", "c1")
	result := n.add(p)
	route := strings.TrimSuffix(result.Addresses[0].String(), "/32") + " dev " + result.HostIf + " scope link"
	nstest.Eventually(t, 5*time.Second, func() bool { return strings.Contains(ip(t, "route show"), "blackhole") }, "blackhole")
	ip(t, "route add 10.99.0.0/24 via 192.168.0.2 proto 12")
	for name, harm := range map[string]struct{ do, undone string }{
		"route":     {"route del " + route, "route show"},
		"blackhole": {"route del blackhole 172.16.196.0/26", "route show"},
		"neighbour": {"neigh del " + result.Addresses[0].Addr().String() + " dev " + result.HostIf, "neigh show"},
		"link":      {"link set " + result.HostIf + " down", "route show"},
	} {
		ip(t, harm.do)
		nstest.Eventually(t, 5*time.Second, func() bool {
			routes, neighs := ip(t, "route show"), ip(t, "neigh show")
			return strings.Contains(routes, route) && strings.Contains(routes, "blackhole 172.16.196.0/26 proto bird") && strings.Contains(neighs, result.MAC+" PERMANENT")
		}, name+" repaired")
	}
	sysctl := "/proc/sys/net/ipv4/conf/" + result.HostIf + "/proxy_arp"
	if err := os.WriteFile(sysctl, []byte("0"), 0o644); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, 5*time.Second, func() bool { b, _ := os.ReadFile(sysctl); return string(b) == "1\n" }, "proxy_arp repaired")
	if routes := ip(t, "route show"); !strings.Contains(routes, "10.99.0.0/24") {
		t.Errorf("a foreign route of our protocol outside all pools is gone:\n%s", routes)
	}
}

// Many at once: every pod its own address, everything gone again.
func TestManyAtOnce(t *testing.T) {
	n := newNode(t)
	n.start()
	const count = 60
	type answer struct {
		addr netip.Prefix
		err  error
	}
	answers := make(chan answer, count)
	pods := make([]*pod, count)
	for i := range pods {
		pods[i] = n.pod("p"+string(rune('a'+i/26))+string(rune('a'+i%26)), "c"+string(rune('a'+i/26))+string(rune('a'+i%26)))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, p := range pods {
		go func() {
			r, err := n.agent.Add(ctx, p.req)
			if err != nil {
				answers <- answer{err: err}
				return
			}
			answers <- answer{addr: r.Addresses[0]}
		}()
	}
	seen := map[netip.Prefix]bool{}
	for range pods {
		got := <-answers
		if got.err != nil {
			t.Fatal(got.err)
		}
		if seen[got.addr] {
			t.Errorf("%s given twice", got.addr)
		}
		seen[got.addr] = true
	}
	for _, p := range pods {
		n.del(p)
	}
	nstest.Eventually(t, 10*time.Second, func() bool { return len(n.handles()) == 0 }, "handles gone")
}

// With the wrong node in its configuration nothing is attached.
func TestWrongNode(t *testing.T) {
	n := newNode(t)
	n.start()
	p := n.pod("web-0", "c1")
	p.req.NodeName = "other"
	if _, err := n.agent.Add(t.Context(), p.req); !fault.Is(err, fault.Invalid) {
		t.Errorf("ADD for another node: %v", err)
	}
	nstest.Eventually(t, 5*time.Second, func() bool { return n.agent.Status(t.Context(), cniwire.StatusRequest{}) == nil }, "STATUS says yes")
}

// TestStatusAfterServing: once a node served pods, what refuses an ADD is not
// said of the node, also by the next agent of the same boot.
func TestStatusAfterServing(t *testing.T) {
	n := newNode(t)
	n.start()
	status := func() error { return n.agent.Status(t.Context(), cniwire.StatusRequest{}) }
	nstest.Eventually(t, 5*time.Second, func() bool { return status() == nil }, "STATUS says yes")
	n.stop()
	n.start()
	if err := status(); err != nil {
		t.Errorf("STATUS of the next agent, at its start: %v", err)
	}
}

// lines cuts a command's output into lines without trailing blanks.
func lines(out string) []string {
	var list []string
	for line := range strings.Lines(out) {
		list = append(list, strings.TrimSpace(line))
	}
	return list
}
