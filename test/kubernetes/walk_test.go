// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"crypto/sha1"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/test/kubernetes/cluster"
)

// jenkins is a pod beside one of the article's two, on its node.
const jenkins = `{apiVersion: v1, kind: Pod, metadata: {name: jenkins, namespace: devops, labels: {app: jenkins}}, spec: {nodeName: %s, terminationGracePeriodSeconds: 0,
  tolerations: [{operator: Exists}], containers: [{name: c, image: docker.io/library/busybox:latest, imagePullPolicy: IfNotPresent, command: [sleep, "9999"]}]}}`

// What a pod's gateway is, and the MAC address of every host end.
const (
	hostMAC = "ee:ee:ee:ee:ee:ee"
	leave   = "default via 169.254.1.1 dev eth0 (permanent neighbour)"
)

// walk is the article's walk by kubectl ocicat trace, as somebody who may
// trace: to the pod on the other node, and to a pod on the same node. What is
// expected comes from the pods and nodes, not from the product. The pods' own
// ping says the same.
func walk(t *testing.T, p plugin, from, to cluster.Pod) {
	c := p.c.With(t)
	c.Apply(users)
	c.Apply(fmt.Sprintf(jenkins, to.Node))
	tracer := p.as("tracer")
	beside := c.AwaitPods(time.Minute, "devops", "app=jenkins", 1)[0]
	a, b, j := mac(c, from), mac(c, to), mac(c, beside)
	uplinkA, uplinkB := uplink(c, from.Node), uplink(c, to.Node)
	block := netip.PrefixFrom(netip.MustParseAddr(to.IP), 26).Masked()
	t.Run("across hosts", func(t *testing.T) {
		tracer.proves(t, from, to, 62, []string{
			fmt.Sprintf("1 pod eth0 %s %s 64 %s", a, hostMAC, leave),
			fmt.Sprintf("2 %s %s %s %s 64 %s via %s dev ens160 proto bird (node %s)", from.Node, hostEnd(from), a, hostMAC, block, c.Address(to.Node), to.Node),
			fmt.Sprintf("3 %s ens160 %s %s 63 neighbour %s by ARP", from.Node, uplinkA, uplinkB, c.Address(to.Node)),
			fmt.Sprintf("4 %s ens160 %s %s 63 %s dev %s scope link", to.Node, uplinkA, uplinkB, to.IP, hostEnd(to)),
			fmt.Sprintf("5 %s %s %s %s 62 neighbour %s permanent", to.Node, hostEnd(to), hostMAC, b, to.IP),
			fmt.Sprintf("6 pod eth0 %s %s 62 delivered; reply seen ttl 62,", hostMAC, b),
		})
	})
	t.Run("on one host", func(t *testing.T) {
		tracer.proves(t, to, beside, 63, []string{
			fmt.Sprintf("1 pod eth0 %s %s 64 %s", b, hostMAC, leave),
			fmt.Sprintf("2 %s %s %s %s 64 %s dev %s scope link", to.Node, hostEnd(to), b, hostMAC, beside.IP, hostEnd(beside)),
			fmt.Sprintf("3 %s %s %s %s 63 neighbour %s permanent", to.Node, hostEnd(beside), hostMAC, j, beside.IP),
			fmt.Sprintf("4 pod eth0 %s %s 63 delivered; reply seen ttl 63,", hostMAC, j),
		})
	})
}

// proves traces from pod to pod: every hop has a line that begins as wanted,
// prediction and packet agree, and ping sees the reply's TTL.
func (u user) proves(t *testing.T, from, to cluster.Pod, ttl int, hops []string) {
	t.Helper()
	c := u.c.With(t)
	var out string
	c.Await(10*time.Second, "the trace is proven", func() error { // roles are joined from their parts
		got, code := u.run("trace", from.Namespace+"/"+from.Name, to.Namespace+"/"+to.Name)
		if out = got; code != 0 || !strings.Contains(got, "predicted and observed agree") {
			return errors.New(got)
		}
		return nil
	})
	t.Log("\n" + out)
	var lines []string
	for _, line := range strings.Split(out, "\n") {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	want := append(append([]string{fmt.Sprintf("ICMP %s → %s ", from.IP, to.IP), "# WHERE"}, hops...), "tunnel: none mtu: 1500 end to end")
	for i, w := range want {
		if i >= len(lines) || !strings.HasPrefix(lines[i], w) {
			t.Errorf("line %d of the trace does not begin with %q", i+1, w)
		}
	}
	out, err := c.Shell(from, "ping -c1 -W2 "+to.IP)
	if err != nil || !strings.Contains(out, fmt.Sprintf("ttl=%d ", ttl)) {
		t.Errorf("ping: %v\n%swant ttl=%d", err, out, ttl)
	}
}

// hostEnd is the name of a pod's interface on its host as the article derives
// it.
func hostEnd(p cluster.Pod) string {
	return fmt.Sprintf("cali%x", sha1.Sum([]byte(p.Namespace+"."+p.Name)))[:15]
}

// mac is the address of a pod's eth0.
func mac(c *cluster.Cluster, p cluster.Pod) string {
	out, err := c.Shell(p, "cat /sys/class/net/eth0/address")
	return address(out, err)
}

// uplink is the address of a node's ens160.
func uplink(c *cluster.Cluster, node string) string {
	fields := strings.Fields(c.Node(node, "ip -o link show dev ens160"))
	for i, f := range fields {
		if f == "link/ether" && i+1 < len(fields) {
			return fields[i+1]
		}
	}
	return "no address of " + node
}

// address is what a command printed, or its error.
func address(out string, err error) string {
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(out)
}
