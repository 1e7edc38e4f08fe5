// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// A pod's host end is set down, renamed, and its alias is taken away, again
// and again: it is a pod's link again each time.
func TestHostEnds(t *testing.T) {
	w := up(t)
	dev := w.m.HostIf
	route := fmt.Sprintf("%s dev %s scope link", w.m.Address.Addr(), dev)
	for _, c := range []struct{ name, damage, mend string }{
		{"set down", "ip link set " + dev + " down", ""},
		{"renamed and back", "ip link set " + dev + " down; ip link set " + dev + " name caliwrong", "ip link set caliwrong name " + dev},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			w := w.of(t)
			r := chaos.Begin(t, "D5", "host end "+c.name+" under a flow", "end state right every time")
			rounds := chaos.Scale(10, 500)
			var times []time.Duration
			f := w.flow()
			for range rounds {
				w.sh(c.damage)
				begin := time.Now()
				if c.mend != "" {
					w.sh(c.mend)
				}
				nstest.Eventually(t, 5*time.Second, func() bool {
					return strings.Contains(w.sh("ip route show "+w.m.Address.Addr().String()), route) && strings.Contains(w.sh("ip neigh show dev "+dev), "PERMANENT")
				}, "link, route and neighbour")
				times = append(times, time.Since(begin))
			}
			if !f.AwaitReceived(t, 10, 5*time.Second) {
				t.Error("no packets arrive")
			}
			f.End()
			r.Measuredf("%d times: mended after %s (median), %s (worst), a look by ip included; longest silence %d ms", rounds, percentile(times, 50), percentile(times, 100), f.LongestMS())
		})
	}
}

// A host end that is deleted cannot come back, its pod's end went with it: the
// agent says so and serves the others.
func TestHostEndDeleted(t *testing.T) {
	w := up(t)
	r := chaos.Begin(t, "D5", "host end deleted", "reported; DEL and a new ADD of the pod succeed")
	w.sh("ip link del " + w.m.HostIf)
	took := w.problem("OC3003", w.m.HostIf)
	if _, err := w.DeletePod(t.Context(), "devops/m"); err != nil {
		t.Fatalf("DEL: %v", err)
	}
	pod, err := w.AddPod(t.Context(), w.m.PodSpec)
	if err != nil {
		t.Fatalf("ADD: %v", err)
	}
	w.solved("OC3003")
	w.m = pod
	f := w.flow()
	if !f.AwaitReceived(t, 10, 5*time.Second) {
		t.Error("the new pod is not reached")
	}
	r.Measuredf("reported after %s; pod made anew and reached", took.Round(time.Millisecond))
}

// More changes than the monitor's buffer holds, while the agent stands still:
// the one that matters is found all the same.
func TestMonitorOverrun(t *testing.T) {
	w := up(t)
	h := w.handle()
	r := chaos.Begin(t, "D8", "agent stopped (SIGSTOP), 60,000 foreign route changes, one route of ours deleted, agent goes on", "missed drift 0")
	var many []host.Route
	for i := range 30_000 {
		dst := netip.AddrFrom4([4]byte{10, 128 + byte(i>>14), byte(i >> 6), byte(i<<2) & 0xfc})
		many = append(many, host.Route{Dst: netip.PrefixFrom(dst, 30), Type: host.Blackhole, Proto: 99})
	}
	pid := w.agent()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
	for _, step := range []struct{ set, del []host.Route }{{many, nil}, {nil, many}, {nil, []host.Route{w.route(h, workerBlock)}}} {
		if err := h.ApplyRoutes(t.Context(), step.set, step.del); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	nstest.Eventually(t, 20*time.Second, func() bool { return w.route(h, workerBlock).Via.IsValid() }, "the route is back")
	r.Measuredf("back %s after it went on", time.Since(begin).Round(time.Millisecond))
}

// Settings that others change are set again.
func TestSettings(t *testing.T) {
	w := up(t)
	dev := w.m.HostIf
	for _, c := range []struct{ setting, wrong, right string }{
		{"net.ipv4.ip_forward", "0", "1"},
		{"net.ipv4.conf." + dev + ".proxy_arp", "0", "1"},
		{"net.ipv4.conf." + dev + ".rp_filter", "0", "1"},
		{"net.ipv4.conf." + dev + ".forwarding", "0", "1"},
		{"net.ipv4.conf." + dev + ".accept_redirects", "1", "0"},
		{"net.ipv4.neigh." + dev + ".proxy_delay", "80", "0"},
		{"net.ipv6.conf." + dev + ".accept_ra", "2", "0"},
	} {
		t.Run(c.setting, func(t *testing.T) {
			w := w.of(t)
			limit := time.Second * slack()
			quiet := strings.Contains(c.setting, "accept_") || strings.Contains(c.setting, "proxy_delay")
			aim := "set again in 1 s"
			if quiet {
				aim, limit = "set again with the next look at everything, within 60 s (the kernel reports no change of it)", 70*time.Second
			}
			r := chaos.Begin(t, "D15", "sysctl "+strings.ReplaceAll(c.setting, dev, "cali…")+"="+c.wrong+" by hand", aim)
			w.sh("sysctl -qw " + c.setting + "=" + c.wrong)
			if quiet { // a look at everything is what any other change starts
				nstest.Eventually(t, limit, func() bool { return w.sh("ip route show "+workerBlock.String()) != "" }, "the route that is taken away")
				w.sh("ip route del " + workerBlock.String())
			}
			begin := time.Now()
			nstest.Eventually(t, limit, func() bool { return strings.TrimSpace(w.sh("sysctl -n "+c.setting)) == c.right }, "set again")
			note := ""
			if quiet {
				note = ", with a look at everything that another change caused"
			}
			r.Measuredf("after %s%s", time.Since(begin).Round(time.Millisecond), note)
		})
	}
}

// The permanent neighbours are deleted, and a pod changes its own MAC.
func TestNeighbours(t *testing.T) {
	w := up(t)
	addr, dev := w.m.Address.Addr().String(), w.m.HostIf
	t.Run("deleted", func(t *testing.T) {
		w := w.of(t)
		r := chaos.Begin(t, "D16", "host's permanent neighbour of a pod deleted under a flow", "0 lost")
		f := w.flow()
		rounds := chaos.Scale(10, 100)
		for range rounds {
			w.sh("ip neigh del " + addr + " dev " + dev)
			nstest.Eventually(t, 5*time.Second, func() bool { return strings.Contains(w.sh("ip neigh show dev "+dev), "PERMANENT") }, "permanent again")
		}
		sent, lost := f.End()
		r.Measuredf("%d times: %d of %d packets lost, longest silence %d ms", rounds, lost, sent, f.LongestMS())
		if lost > 0 {
			t.Errorf("%d packets lost", lost)
		}
	})
	t.Run("MAC-changed", func(t *testing.T) {
		w := w.of(t)
		r := chaos.Begin(t, "D16", "pod gives its interface another MAC", "the pod can undo it")
		mac := strings.Fields(strings.SplitAfter(w.Pod("devops/m", "ip -o link show eth0"), "link/ether ")[1])[0]
		w.Pod("devops/m", "ip link set eth0 address 02:00:00:00:00:99")
		f := w.flow()
		if f.AwaitReceived(t, 10, 3*time.Second) {
			f.End()
			r.Measuredf("reached again, longest silence %d ms", f.LongestMS())
			return
		}
		// The neighbour on the host is permanent, as Calico's: the pod that
		// changed its MAC has it in its own hands.
		w.Pod("devops/m", "ip link set eth0 address "+mac)
		if !f.AwaitReceived(t, 10, 5*time.Second) {
			t.Error("not reached with its old MAC either")
		}
		r.Measuredf("not reached until it takes its old MAC back: the host's neighbour is permanent, as Calico's; CHECK names it")
	})
}

// Without a default route the kernel would not answer for 169.254.1.1.
func TestNoDefaultRoute(t *testing.T) {
	w := up(t)
	r := chaos.Begin(t, "D17", "default route of the node deleted; pod asks for its gateway's MAC itself", "0 lost between pods")
	f := w.back()
	w.sh("ip route del default")
	nstest.Eventually(t, 5*time.Second, func() bool { return w.sh("ip route show 169.254.1.1") != "" }, "a route for the gateway's address") // the kernel asks a second later again
	w.Pod("devops/m", "ip neigh del 169.254.1.1 dev eth0")
	f.Await(t, time.Second)
	if !f.AwaitReceived(t, 10, 5*time.Second) {
		t.Error("the pod is cut off")
	}
	sent, lost := f.End()
	r.Measuredf("%d of %d packets lost, longest silence %d ms", lost, sent, f.LongestMS())
	if f.LongestMS() > 200 {
		t.Errorf("silence of %d ms", f.LongestMS())
	}
}
