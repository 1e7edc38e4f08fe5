// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/agent"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// nftList is our table as nft lists it, with handles, "" for none.
func nftList() string {
	out, _ := exec.Command("nft", "-a", "list", "table", "inet", core.FilterTable).Output() // it fails where there is none
	return string(out)
}

// The table stands when the first pod is served; a restart leaves it alone,
// and when somebody removes it, it comes back.
func TestPacketFilter(t *testing.T) {
	n := newNode(t)
	n.start()
	first := nftList()
	if !strings.Contains(first, `iifname "cali*"`) || !strings.Contains(first, "tcp dport 179") {
		t.Fatalf("table:\n%s", first)
	}
	p := n.pod("web-0", "c1")
	n.add(p)
	p.ns.Run("busybox", "ping", "-c", "3", "192.168.0.11") // the first may come before the link's queue is active
	n.stop()
	n.start()
	if again := nftList(); again != first {
		t.Errorf("a restart wrote the table again:\n%s", again)
	}
	for _, harm := range []string{"delete table inet ocicat", "flush chain inet ocicat input", "add rule inet ocicat input accept"} {
		if out, err := exec.Command("nft", harm).CombinedOutput(); err != nil {
			t.Fatalf("nft %s: %v: %s", harm, err, out)
		}
		nstest.Eventually(t, 5*time.Second, func() bool { return sansHandles(nftList()) == sansHandles(first) }, harm+" repaired")
	}
}

// masqueradeSet is the set of pools that are masqueraded, as nft lists it.
func masqueradeSet() string {
	out, _ := exec.Command("nft", "list", "set", "inet", core.FilterTable, core.MasqueradeSet).Output() // it fails where there is none
	return string(out)
}

// The default pool of the environment is masqueraded; a restart leaves that
// alone, and a pool that is changed takes effect.
func TestNATOutgoingFollowsThePool(t *testing.T) {
	n := newNode(t)
	n.withEnvironment()
	n.start()
	nstest.Eventually(t, 5*time.Second, func() bool { return strings.Contains(masqueradeSet(), "172.16.0.0/16") }, "masquerading, ", nftList)
	first := nftList()
	n.stop()
	n.start()
	n.add(n.pod("web-0", "c1"))
	if again := nftList(); again != first {
		t.Errorf("a restart wrote the table again:\n%s\nit was:\n%s", again, first)
	}
	n.stop()
	n.withEnvironment("CALICO_IPV4POOL_NAT_OUTGOING=false")
	n.start()
	nstest.Eventually(t, 5*time.Second, func() bool {
		set := masqueradeSet()
		return set != "" && !strings.Contains(set, "172.16.0.0/16")
	}, "not masquerading, ", nftList)
}

// sansHandles leaves out the numbers that are others after a rewrite.
func sansHandles(listing string) string {
	var b strings.Builder
	for line := range strings.Lines(listing) {
		rule, _, _ := strings.Cut(line, " # handle")
		b.WriteString(strings.TrimSpace(rule) + "\n")
	}
	return b.String()
}

// refusing is a kernel that does not take the table.
type refusing struct {
	agent.Nftables
	err   error
	heals atomic.Bool
}

func (r *refusing) Apply(want host.Table) (bool, error) {
	if r.heals.Load() {
		return r.Nftables.Apply(want)
	}
	return false, r.err
}

// startWithout starts the agent on a kernel that answers err.
func (n *node) startWithout(err error) *refusing {
	r := &refusing{err: err}
	n.prepare = func(a *agent.Agent) {
		a.ReplaceFilter(func(real agent.Nftables) agent.Nftables { r.Nftables = real; return r })
	}
	n.launch()
	return r
}

func (n *node) hasProblem(code string) bool {
	return slices.ContainsFunc(n.problems(), func(c string) bool { return c == code })
}

func (n *node) problems() []string {
	var codes []string
	for _, p := range n.agent.Report().Status.Problems {
		codes = append(codes, p.Code)
	}
	return codes
}

// A kernel without nftables is a problem and no more: pods are served.
func TestKernelWithoutNftables(t *testing.T) {
	n := newNode(t)
	n.startWithout(fault.New(fault.Unsupported, "no nftables here"))
	nstest.Eventually(t, 10*time.Second, func() bool { return n.agent.Ready() == nil }, "agent ready")
	n.add(n.pod("web-0", "c1"))
	if !n.hasProblem("OC4006") {
		t.Errorf("problems: %v, want OC4006", n.problems())
	}
}

// While the table cannot be written pods wait; then they are served.
func TestNoPodBeforeTheFilter(t *testing.T) {
	n := newNode(t)
	kernel := n.startWithout(fault.New(fault.Internal, "not now"))
	nstest.Eventually(t, 10*time.Second, func() bool { return n.hasProblem("OC4005") }, "problem reported")
	r := chaos.Begin(t, "A16", "the kernel refuses the packet filter, then takes it", "STATUS 51, then 0")
	refused := cniwire.CodeOf(n.agent.Status(t.Context(), cniwire.StatusRequest{}))
	p := n.pod("web-0", "c1")
	if _, err := n.agent.Add(t.Context(), p.req); !fault.Is(err, fault.Unavailable) {
		t.Errorf("ADD without the filter: %v", err)
	}
	if n.agent.Ready() == nil {
		t.Error("the agent is ready without its filter")
	}
	kernel.heals.Store(true)
	nstest.Eventually(t, 15*time.Second, func() bool { return n.agent.Ready() == nil }, "agent ready")
	n.add(p)
	healed := n.agent.Status(t.Context(), cniwire.StatusRequest{})
	if refused != cniwire.CodeLimited || healed != nil {
		t.Errorf("STATUS %d, then %v", refused, healed)
	}
	r.Measuredf("%d while refused, then an error: %t", refused, healed != nil)
	if n.hasProblem("OC4005") {
		t.Error("the problem is over and still reported")
	}
	want := core.Filter(&cluster.Snapshot{Settings: n.cfg.Settings, Pools: []cluster.Pool{{CIDR: netip.MustParsePrefix("172.16.0.0/16")}}}).String()
	if got := sansHandles(nftList()); got != sansHandles(want) {
		t.Errorf("table:\n%s", got)
	}
}
