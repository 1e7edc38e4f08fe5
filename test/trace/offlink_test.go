// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/cli"
	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/trace"
	"github.com/ocicat-net/ocicat/test/labtest"
)

// moveBehindGateway gives the second node an address in a network of its own,
// which the gateway routes to: the nodes are no layer-2 neighbours any more.
func moveBehindGateway(t *testing.T, l *labtest.Lab) {
	t.Helper()
	if err := l.KillAgent(t.Context(), node1); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{
		"ip addr add 192.168.1.2/24 dev eth0",
		"sysctl -qw net.ipv4.ip_forward=1",
	} {
		argv := append([]string{"netns", "exec", l.Name() + ".gw"}, strings.Fields(command)...)
		if out, err := exec.Command("ip", argv...).CombinedOutput(); err != nil {
			t.Fatalf("gateway: %s: %v\n%s", command, err, out)
		}
	}
	for _, command := range []string{
		"ip addr add 192.168.1.12/24 dev ens160",
		"ip route replace default via 192.168.1.2 dev ens160 proto static metric 100",
		"ip addr del 192.168.0.12/24 dev ens160",
		"ip -4 route flush 192.168.0.0/24",
	} {
		l.Node(node1, command)
	}
	// A lab has one network; its record is where the agent's address (IP)
	// comes from.
	record := filepath.Join(l.Root, l.Name(), "lab.json")
	text, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(record, bytes.Replace(text, []byte("192.168.0.12/24"), []byte("192.168.1.12/24"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.RestartAgent(t.Context(), node1); err != nil {
		t.Fatal(err)
	}
}

// The article's constraint: a route whose next hop is not on the link is not
// installed as if it worked, and is reported with cause and remedy.
func TestNextHopOffLink(t *testing.T) {
	l := labtest.Up(t, 2, lab.ArticlePods(2), nil)
	moveBehindGateway(t, l)
	remedy := problem.Find(problem.NextHopOffLink).Remedy
	const (
		onMaster = "OC1003 k8s-master-1: route 172.16.109.64/26 from k8s-node-1 (192.168.1.12) has next hop 192.168.1.12, which is on no directly connected network of this node: not installed\n"
		onNode   = "OC1003 k8s-node-1: route 172.16.196.0/26 from k8s-master-1 (192.168.0.11) has next hop 192.168.0.11, which is on no directly connected network of this node: not installed\n"
	)
	var o outcome
	nstest.Eventually(t, 20*time.Second, func() bool {
		o = ocicat(t, l, "status")
		return strings.Contains(o.stdout, onMaster+"       "+remedy) && strings.Contains(o.stdout, onNode+"       "+remedy)
	}, "status reports both routes")
	if o.code != cli.ExitProblems || strings.Contains(o.stdout, "No problems") || strings.Contains(o.stdout, "OC1001") {
		t.Errorf("status: exit %d\n%s", o.code, o.stdout)
	}
	if routes := l.Node(master, "ip route show"); strings.Contains(routes, node1Block) {
		t.Errorf("the route is installed:\n%s", routes)
	}

	o = ocicat(t, l, "bgp", "routes", node1Block, "--node", master)
	if want := "k8s-master-1  172.16.109.64/26  k8s-node-1  refused  –       OC1003 "; o.code != cli.ExitOK || !strings.Contains(o.stdout, want) {
		t.Errorf("bgp routes: exit %d\n%swant %q", o.code, o.stdout, want)
	}
	o = ocicat(t, l, "bgp", "peers")
	if o.code != cli.ExitOK || strings.Count(o.stdout, "Established") != 2 {
		t.Errorf("bgp peers: exit %d\n%s", o.code, o.stdout)
	}

	r, code := traced(t, l, sender, receiver)
	const gateway = "the packet leaves by the default route via "
	expect(t, r, code, trace.Break,
		"k8s-master-1 ens160: no route to 172.16.109.65: "+gateway+"192.168.0.2; OC1003 next hop not on the link: its node k8s-node-1 has address 192.168.1.12, which is on no directly connected network of k8s-master-1",
		"k8s-node-1 ens160: no route to 172.16.196.1: "+gateway+"192.168.1.2; OC1003 next hop not on the link: its node k8s-master-1 has address 192.168.0.11")
	for _, f := range r.Findings {
		if f.Remedy != remedy {
			t.Errorf("remedy of %s is %q, want %q", f, f.Remedy, remedy)
		}
	}
}
