// SPDX-License-Identifier: Apache-2.0

package kernel_test

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/kernel"
	"github.com/ocicat-net/ocicat/internal/nstest"
)

// open returns a Handle of a namespace of the test.
func open(t testing.TB, ns *nstest.NS) *kernel.Handle {
	t.Helper()
	h, err := kernel.OpenAt(ns.File())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// node is a node with as many pods as the test attaches.
type node struct {
	*nstest.NS
	kernel *kernel.Handle
}

func newNode(t testing.TB) node {
	t.Helper()
	ns := nstest.New(t)
	ns.SetSysctl("net/ipv4/ip_forward", "1")
	return node{ns, open(t, ns)}
}

// article is the first pod of the article.
func article() cluster.Endpoint {
	return cluster.Endpoint{
		ID:     cluster.EndpointID{ContainerID: "b8f5d1c0", IfName: "eth0"},
		HostIf: "cali1dadcdd5b31",
		Addr:   netip.MustParseAddr("172.16.196.1"),
		MAC:    host.MAC{0x0e, 0x1c, 0x2c, 0xf6, 0x2a, 0xf9},
		MTU:    1500,
	}
}

func attachment(ep cluster.Endpoint, pod *nstest.NS) kernel.Attachment {
	return kernel.Attachment{Endpoint: ep, Want: core.WantEndpoint(cluster.Settings{}, ep), PodNetNS: pod.File(), PermGateway: true}
}

func mustAttach(t testing.TB, n node, a kernel.Attachment) {
	t.Helper()
	if err := n.kernel.Attach(t.Context(), a); err != nil {
		t.Fatal(err)
	}
}

// seen is everything of a node and its pod that must be as in the article, in
// iproute2's words.
func seen(n node, pod *nstest.NS) string {
	var b strings.Builder
	for _, part := range []struct {
		ns   *nstest.NS
		args string
	}{
		{n.NS, "-o link show type veth"},
		{n.NS, "-4 -o addr show"},
		{n.NS, "route show"},
		{n.NS, "neigh show nud permanent"},
		{pod, "-o link show type veth"},
		{pod, "-4 -o addr show"},
		{pod, "route show"},
		{pod, "neigh show nud permanent"},
	} {
		b.WriteString("$ ip " + part.args + "\n" + part.ns.IP(part.args) + "\n")
	}
	return operstate.ReplaceAllString(b.String(), "")
}

// operstate is what the kernel updates some time after the carrier changed.
var operstate = regexp.MustCompile("NO-CARRIER,| state [A-Z]+")

func sysctls(n node, want core.EndpointState) map[string]string {
	values := map[string]string{}
	for _, s := range want.Sysctls {
		values[s.Path] = n.Sysctl(s.Path)
	}
	return values
}

func TestAttachMakesTheArticle(t *testing.T) {
	n, pod := newNode(t), nstest.New(t)
	a := attachment(article(), pod)
	mustAttach(t, n, a)

	for _, c := range []struct{ name, got, want string }{
		{"node routes", n.IP("route show"), "172.16.196.1 dev cali1dadcdd5b31 scope link"},
		{"node neighbours", n.IP("neigh show dev cali1dadcdd5b31 nud permanent"), "172.16.196.1 lladdr 0e:1c:2c:f6:2a:f9 PERMANENT"},
		{"node IPv4 addresses", n.IP("-4 addr show dev cali1dadcdd5b31"), ""},
		{"pod routes", pod.IP("route show"), "default via 169.254.1.1 dev eth0\n169.254.1.1 dev eth0 scope link"},
		{"pod neighbours", pod.IP("neigh show"), "169.254.1.1 dev eth0 lladdr ee:ee:ee:ee:ee:ee PERMANENT"},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
	for _, c := range []struct{ name, text, part string }{
		{"host end", n.IP("link show cali1dadcdd5b31"), "link/ether ee:ee:ee:ee:ee:ee"},
		{"host end", n.IP("link show cali1dadcdd5b31"), "mtu 1500"},
		{"host end", n.IP("link show cali1dadcdd5b31"), "alias b8f5d1c0/eth0"},
		{"host end", n.IP("link show cali1dadcdd5b31"), "LOWER_UP"},
		{"pod end", pod.IP("addr show eth0"), "link/ether 0e:1c:2c:f6:2a:f9"},
		{"pod end", pod.IP("addr show eth0"), "inet 172.16.196.1/32 scope global eth0"},
		{"pod end", pod.IP("addr show eth0"), "mtu 1500"},
	} {
		if !strings.Contains(c.text, c.part) {
			t.Errorf("%s lacks %q:\n%s", c.name, c.part, c.text)
		}
	}
	nstest.Eventually(t, 5*time.Second, func() bool {
		return strings.Contains(n.IP("-6 addr show dev cali1dadcdd5b31"), "inet6 fe80::ecee:eeff:feee:eeee/64 scope link")
	}, "the host end's IPv6 link-local address")
	want := map[string]string{}
	for _, s := range a.Want.Sysctls {
		want[s.Path] = s.Value
	}
	if diff := cmp.Diff(want, sysctls(n, a.Want)); diff != "" {
		t.Errorf("sysctls (-want +got):\n%s", diff)
	}
}

func TestAttachAgainChangesNothing(t *testing.T) {
	n, pod := newNode(t), nstest.New(t)
	a := attachment(article(), pod)
	mustAttach(t, n, a)
	before := seen(n, pod)
	mustAttach(t, n, a)
	if diff := cmp.Diff(before, seen(n, pod)); diff != "" {
		t.Errorf("a repeated Attach changed (-before +after):\n%s", diff)
	}
}

// Each damage is what a crash between two steps, or a stranger, can leave.
func TestAttachCompletesHalfDoneWork(t *testing.T) {
	for name, damage := range map[string]func(n node, pod *nstest.NS){
		"no alias":        func(n node, _ *nstest.NS) { n.Run("ip", "link", "set", "cali1dadcdd5b31", "alias", "") },
		"host end down":   func(n node, _ *nstest.NS) { n.IP("link set cali1dadcdd5b31 down") },
		"no route":        func(n node, _ *nstest.NS) { n.IP("route del 172.16.196.1") },
		"no neighbour":    func(n node, _ *nstest.NS) { n.IP("neigh del 172.16.196.1 dev cali1dadcdd5b31") },
		"sysctl":          func(n node, _ *nstest.NS) { n.SetSysctl("net/ipv4/conf/cali1dadcdd5b31/proxy_arp", "0") },
		"proxy delay":     func(n node, _ *nstest.NS) { n.SetSysctl("net/ipv4/neigh/cali1dadcdd5b31/proxy_delay", "80") },
		"pod end down":    func(_ node, pod *nstest.NS) { pod.IP("link set eth0 down") },
		"no pod address":  func(_ node, pod *nstest.NS) { pod.IP("addr flush dev eth0") },
		"no pod default":  func(_ node, pod *nstest.NS) { pod.IP("route del default") },
		"no pod gateway":  func(_ node, pod *nstest.NS) { pod.IP("route flush dev eth0") },
		"no pod neighbor": func(_ node, pod *nstest.NS) { pod.IP("neigh del 169.254.1.1 dev eth0") },
	} {
		t.Run(name, func(t *testing.T) {
			n, pod := newNode(t), nstest.New(t)
			a := attachment(article(), pod)
			mustAttach(t, n, a)
			before, settings := seen(n, pod), sysctls(n, a.Want)
			damage(n, pod)
			if before == seen(n, pod) && cmp.Equal(settings, sysctls(n, a.Want)) {
				t.Fatal("the damage cannot be seen")
			}
			mustAttach(t, n, a)
			if diff := cmp.Diff(before, seen(n, pod)); diff != "" {
				t.Errorf("not completed (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(settings, sysctls(n, a.Want)); diff != "" {
				t.Errorf("settings not completed (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAttachConflicts(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(n node, pod *nstest.NS)
		text    string
	}{
		"foreign link": {
			func(n node, _ *nstest.NS) { n.IP("link add cali1dadcdd5b31 type bridge") },
			"create link cali1dadcdd5b31: a link of that name exists, not of this endpoint",
		},
		"another endpoint's link": {
			func(n node, _ *nstest.NS) {
				n.IP("link add cali1dadcdd5b31 type veth peer name other")
				n.IP("link set cali1dadcdd5b31 alias 0ld/eth0")
			},
			`create link cali1dadcdd5b31: a link of that name exists, of endpoint "0ld/eth0"`,
		},
		"link to another namespace": {
			func(n node, pod *nstest.NS) {
				nstest.Veth(n.NS, "cali1dadcdd5b31", nstest.New(t), "eth0")
				nstest.Veth(nstest.New(t), "x", pod, "eth0")
			},
			"create link cali1dadcdd5b31: a link of that name exists, ",
		},
		"eth0 in the pod": {
			func(_ node, pod *nstest.NS) { pod.IP("link add eth0 type bridge") },
			"create eth0 in the pod's namespace: an interface of that name exists",
		},
		"another route to the address": {
			func(n node, _ *nstest.NS) {
				n.IP("link add br1 type bridge")
				n.IP("link set br1 up")
				n.IP("route add 172.16.196.1 dev br1")
			},
			`set route 172.16.196.1/32: "172.16.196.1 dev br1 scope link`,
		},
		"another default route in the pod": {
			func(n node, pod *nstest.NS) {
				nstest.Veth(pod, "net1", nstest.New(t), "x")
				pod.IP("route add default dev net1")
			},
			`in the pod's namespace: set route 0.0.0.0/0: "default dev net1 scope link`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			n, pod := newNode(t), nstest.New(t)
			c.prepare(n, pod)
			before := seen(n, pod)
			err := n.kernel.Attach(t.Context(), attachment(article(), pod))
			if !fault.Is(err, fault.Conflict) || !strings.HasPrefix(err.Error(), c.text) || fault.HintOf(err) == "" {
				t.Errorf("error %q (%v, hint %q)\nwant Conflict %q", err, fault.KindOf(err), fault.HintOf(err), c.text)
			}
			if diff := cmp.Diff(before, seen(n, pod)); diff != "" {
				t.Errorf("something was changed (-before +after):\n%s", diff)
			}
		})
	}
}

func TestDetachThenDestroy(t *testing.T) {
	n, pod := newNode(t), nstest.New(t)
	a := attachment(article(), pod)
	mustAttach(t, n, a)
	if err := n.kernel.Detach(t.Context(), a.Want); err != nil {
		t.Fatal(err)
	}
	links := n.IP("-o link show type veth")
	if strings.Contains(links, "cali1dadcdd5b31") || !strings.Contains(links, ": gone") || strings.Contains(links, ",UP") {
		t.Errorf("links after Detach:\n%s", links)
	}
	if routes := n.IP("route show"); routes != "" {
		t.Errorf("routes after Detach:\n%s", routes)
	}
	if err := n.kernel.Detach(t.Context(), a.Want); err != nil {
		t.Errorf("a second Detach: %v", err)
	}
	// Another Handle, as after a restart of the agent.
	if err := open(t, n.NS).DestroyDetached(t.Context()); err != nil {
		t.Fatal(err)
	}
	if links := n.IP("-o link show type veth"); links != "" {
		t.Errorf("links after DestroyDetached:\n%s", links)
	}
	if err := n.kernel.DestroyDetached(t.Context()); err != nil {
		t.Errorf("with nothing to destroy: %v", err)
	}
}

// The same sandbox may be attached again before the detached pair is gone.
func TestAttachAfterDetachInTheSameNamespace(t *testing.T) {
	n, pod := newNode(t), nstest.New(t)
	a := attachment(article(), pod)
	mustAttach(t, n, a)
	before := n.IP("route show") + pod.IP("route show")
	if err := n.kernel.Detach(t.Context(), a.Want); err != nil {
		t.Fatal(err)
	}
	mustAttach(t, n, a)
	if diff := cmp.Diff(before, n.IP("route show")+pod.IP("route show")); diff != "" {
		t.Errorf("routes (-first +second Attach):\n%s", diff)
	}
}

// A link of the host end's name that somebody else made has no alias, as our
// own has none before it is dressed.
func TestDetachLeavesAForeignLink(t *testing.T) {
	n, pod := newNode(t), nstest.New(t)
	n.IP("link add cali1dadcdd5b31 type veth peer name eth0 netns " + pod.Path())
	before := n.IP("-o link show") + pod.IP("-o link show")
	if err := n.kernel.Detach(t.Context(), attachment(article(), pod).Want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, n.IP("-o link show")+pod.IP("-o link show")); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

func TestDetachLeavesAnotherEndpointsLink(t *testing.T) {
	n, pod := newNode(t), nstest.New(t)
	a := attachment(article(), pod)
	mustAttach(t, n, a)
	before := seen(n, pod)
	old := article()
	old.ID.ContainerID = "0ld"
	if err := n.kernel.Detach(t.Context(), core.WantEndpoint(cluster.Settings{}, old)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, seen(n, pod)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

func TestAttachUndoesWhatItBegan(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for name, c := range map[string]struct {
		ctx    context.Context
		change func(*kernel.Attachment)
		text   string
	}{
		"at the pair":     {t.Context(), func(a *kernel.Attachment) { a.Want.Link.MTU = 100_000 }, "create link cali1dadcdd5b31: invalid argument"},
		"at a setting":    {t.Context(), func(a *kernel.Attachment) { a.Want.Sysctls[5].Value = "never" }, "set sysctl net/ipv6/conf/cali1dadcdd5b31/accept_ra: invalid argument"},
		"at the alias":    {t.Context(), func(a *kernel.Attachment) { a.Want.Link.Alias = strings.Repeat("x", 300) }, "set link cali1dadcdd5b31: "},
		"at the MAC":      {t.Context(), func(a *kernel.Attachment) { a.Want.Link.MAC = host.MAC{1} }, "create link cali1dadcdd5b31: cannot assign requested address"},
		"at the route":    {t.Context(), func(a *kernel.Attachment) { a.Want.Route.Src = netip.MustParseAddr("192.0.2.1") }, "set route 172.16.196.1/32: invalid argument"},
		"before anything": {ended, func(*kernel.Attachment) {}, "netlink: context canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			n, pod := newNode(t), nstest.New(t)
			before := seen(n, pod)
			a := attachment(article(), pod)
			c.change(&a)
			err := n.kernel.Attach(c.ctx, a)
			if err == nil || !strings.HasPrefix(err.Error(), c.text) {
				t.Errorf("error %q, want %q", err, c.text)
			}
			if diff := cmp.Diff(before, seen(n, pod)); diff != "" {
				t.Errorf("something is left (-before +after):\n%s", diff)
			}
		})
	}
}

// Many at once, each endpoint by two callers: a runtime's retry may overtake
// its first call.
func TestAttachConcurrently(t *testing.T) {
	n := newNode(t)
	var running sync.WaitGroup
	errs := make(chan error, 64)
	var routes []string
	for i := range 16 {
		ep := article()
		ep.ID.ContainerID = fmt.Sprintf("c%d", i)
		ep.HostIf = fmt.Sprintf("cali%d", i)
		ep.Addr = netip.AddrFrom4([4]byte{172, 16, 196, byte(i)})
		routes = append(routes, fmt.Sprintf("%s dev %s scope link", ep.Addr, ep.HostIf))
		a := attachment(ep, nstest.New(t))
		for range 2 {
			running.Go(func() { errs <- n.kernel.Attach(t.Context(), a) })
		}
	}
	running.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff(strings.Join(routes, "\n"), n.IP("route show")); diff != "" {
		t.Errorf("ip route show (-want +got):\n%s", diff)
	}
}
