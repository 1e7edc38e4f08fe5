// SPDX-License-Identifier: Apache-2.0

package away

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/nstest"
)

// What somebody takes away behind the agent's back is there again within a
// second; what is not ours stays as it is, also where it is in our way.
func TestRepair(t *testing.T) {
	w := up(t)
	pod := w.pod("m")
	addr, dev := pod.Address.Addr().String(), pod.HostIf
	const learned = "172.16.109.64/26"
	for _, s := range []struct {
		damage, look, want string
	}{
		{"ip route del " + addr, "ip route show " + addr, addr + " dev " + dev},
		{"ip neigh del " + addr + " dev " + dev, "ip neigh show dev " + dev, "PERMANENT"},
		{"ip link set " + dev + " down", "ip route show " + addr, addr + " dev " + dev},
		{"ip link set " + dev + " mtu 1400", "ip link show " + dev, "mtu 1500"},
		{"ip link set " + dev + " address 02:00:00:00:00:01", "ip link show " + dev, "ee:ee:ee:ee:ee:ee"},
		{"sysctl -qw net.ipv4.conf." + dev + ".proxy_arp=0", "sysctl net.ipv4.conf." + dev + ".proxy_arp", "= 1"},
		{"sysctl -qw net.ipv4.conf." + dev + ".rp_filter=0", "sysctl net.ipv4.conf." + dev + ".rp_filter", "= 1"},
		{"sysctl -qw net.ipv4.conf." + dev + ".forwarding=0", "sysctl net.ipv4.conf." + dev + ".forwarding", "= 1"},
		{"ip route del " + learned, "ip route show " + learned, "via " + workerAddr + " dev ens160 proto bird"},
		{"ip route replace " + learned + " via 192.168.0.2 dev ens160 proto bird", "ip route show " + learned, "via " + workerAddr},
		{"ip route del blackhole " + masterBlock.String(), "ip route show type blackhole", masterBlock.String()},
		{"ip route add 172.16.200.0/26 via 192.168.0.2 dev ens160 proto bird", "ip -o route show 172.16.200.0/26", ""},
	} {
		w.Node(master, s.damage)
		start := time.Now()
		mended := func() bool {
			out := strings.TrimSpace(w.Node(master, s.look))
			return s.want == "" && out == "" || s.want != "" && strings.Contains(out, s.want)
		}
		nstest.Eventually(t, 5*time.Second, mended, s.damage, " is mended")
		if took := time.Since(start); took > time.Second {
			t.Errorf("%s: mended after %s, want under a second", s.damage, took)
		}
	}
	w.talk("m", "w")
	w.foreignRoutes(learned)
	w.clean()
}

// foreignRoutes checks that the agent leaves others' routes alone, and says so
// where one is in the place of its own.
func (w *world) foreignRoutes(learned string) {
	w.t.Helper()
	w.Node(master, "ip route add 172.16.77.0/26 via 192.168.0.2 dev ens160 proto static")
	w.Node(master, "ip route add 10.9.0.0/16 via 192.168.0.2 dev ens160 proto bird")
	w.Node(master, "ip route replace "+learned+" via 192.168.0.2 dev ens160 proto static")
	p := w.problem(master, "OC4004", learned, "static")
	w.t.Logf("%s %s: %s (%s)", p.Code, p.Object, p.Text, p.Remedy)
	routes := w.Node(master, "ip route show")
	for _, foreign := range []string{"172.16.77.0/26", "10.9.0.0/16", learned} {
		if !strings.Contains(routes, foreign+" via 192.168.0.2 dev ens160 proto") {
			w.t.Errorf("foreign route %s is gone:\n%s", foreign, routes)
		}
	}
	w.statusSays("OC4004")
	w.Node(master, "ip route del "+learned+" proto static")
	w.solved(master, "OC4004")
	w.reunited("m", "w")
	w.Node(master, "ip route del 172.16.77.0/26")
	w.Node(master, "ip route del 10.9.0.0/16")
}

// Sixty pods at once, and the agent dies in the middle: every retry succeeds,
// no two pods share an address, and after all are deleted, again with a crash
// in the middle, nothing is left anywhere.
func TestStorm(t *testing.T) {
	const pods = 60
	w := up(t)
	storm := newStorm(w, pods)
	storm.run(t, "ADD", func(i int) error { return storm.add(t.Context(), i) })
	seen := map[string]bool{}
	for _, ep := range storm.endpoints(t) {
		if seen[ep] {
			t.Errorf("address %s was given twice", ep)
		}
		seen[ep] = true
	}
	if len(seen) != pods+1 {
		t.Errorf("%d addresses of %d pods", len(seen), pods+1)
	}
	storm.run(t, "DEL", func(i int) error { return storm.del(t.Context(), i) })
	w.reunited("m", "w")
	w.clean()
}

// storm calls the plugin for many pods of the master at once, like a runtime
// that knows nothing of the lab.
type storm struct {
	w    *world
	pods []stormPod
}

type stormPod struct{ name, container, netns string }

func newStorm(w *world, n int) *storm {
	w.t.Helper()
	s := &storm{w: w}
	for i := range n {
		p := stormPod{name: fmt.Sprint("storm-", i), container: fmt.Sprintf("%064d", i)}
		p.netns = nstest.New(w.t).Path()
		s.pods = append(s.pods, p)
	}
	return s
}

// run calls f for every pod, eight at once, tries again what fails, and kills
// and restarts the agent when a third is done.
func (s *storm) run(t *testing.T, what string, f func(i int) error) {
	t.Helper()
	work, third := make(chan int), make(chan struct{})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range work {
				s.persist(t, what, i, f)
			}
		})
	}
	all.Go(func() {
		<-third
		s.w.killAgent(master)
		s.w.startAgent(master)
	})
	start := time.Now()
	for i := range s.pods {
		if i == len(s.pods)/3 {
			close(third)
		}
		work <- i
	}
	close(work)
	all.Wait()
	t.Logf("%d %s took %s", len(s.pods), what, time.Since(start))
}

// persist is a runtime's retrying.
func (s *storm) persist(t *testing.T, what string, i int, f func(i int) error) {
	deadline := time.Now().Add(20 * time.Second)
	for tries := 1; ; tries++ {
		err := f(i)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s of %s: %v after %d tries", what, s.pods[i].name, err, tries)
			return
		}
		<-time.After(20 * time.Millisecond)
	}
}

func (s *storm) add(ctx context.Context, i int) error { return s.call(ctx, "ADD", s.pods[i]) }
func (s *storm) del(ctx context.Context, i int) error { return s.call(ctx, "DEL", s.pods[i]) }

const stormConfig = `{"cniVersion":"1.0.0","name":"k8s-pod-network","type":"ocicat-cni"}`

// call runs the plugin in the node.
func (s *storm) call(ctx context.Context, verb string, p stormPod) error {
	var out strings.Builder
	argv := []string{
		"env", "CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + p.container, "CNI_NETNS=" + p.netns, "CNI_IFNAME=eth0", "CNI_PATH=" + s.w.Bin,
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=devops;K8S_POD_NAME=" + p.name, s.w.Bin + "/ocicat-cni",
	}
	code, err := s.w.ExecNode(ctx, master, argv, lab.Streams{In: strings.NewReader(stormConfig), Out: &out, Err: &out})
	if err == nil && code != 0 {
		err = fmt.Errorf("exit %d: %s", code, out.String())
	}
	return err
}

// endpoints are the addresses of all pods on the master; each must be the one
// its namespace has.
func (s *storm) endpoints(t *testing.T) (addrs []string) {
	t.Helper()
	list, err := s.w.admin(master).Endpoints(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hostIfs := map[string]string{}
	for _, ep := range list {
		addrs = append(addrs, ep.Addr.String())
		hostIfs[ep.HostIf] = ep.Addr.String()
	}
	for _, p := range s.pods {
		if hostIfs[names.HostInterface("cali", "devops", p.name)] == "" {
			t.Errorf("pod %s is not attached", p.name)
		}
	}
	return addrs
}
