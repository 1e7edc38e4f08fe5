// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"net/netip"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/test/flow"
	"github.com/ocicat-net/ocicat/test/kubernetes/cluster"
)

// rate is that of each flow in packets a second: a packet is lost by what
// lasts longer than a millisecond.
const rate = 1000

// everywhere serves a page on every node.
const everywhere = `{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: www}, spec: {selector: {matchLabels: {app: www}}, template: {metadata: {labels: {app: www}}, spec: {
  terminationGracePeriodSeconds: 0, tolerations: [{operator: Exists}], containers: [{name: www, image: docker.io/library/busybox:latest, imagePullPolicy: IfNotPresent,
  command: [sh, -c, "mkdir /www && echo page >/www/index.html && httpd -f -p 80 -h /www"]}]}}}}`

// installed is a cluster with the product and a pod on every node, by node.
func installed(t *testing.T, o cluster.Options) (*cluster.Cluster, map[string]cluster.Pod) {
	t.Helper()
	c := cluster.Up(t, o)
	c.Install()
	c.Apply(everywhere)
	pods := map[string]cluster.Pod{}
	for _, p := range c.AwaitPods(time.Minute, "default", "app=www", len(c.Names)) {
		pods[p.Node] = p
	}
	c.AwaitPods(time.Minute, "kube-system", "k8s-app=ocicat-node", len(c.Names))
	return c, pods
}

// traffic is a flow each way between two pods.
type traffic struct {
	t           *testing.T
	there, back *flow.Flow
}

// between starts to send between two pods and returns when packets arrive both
// ways.
func between(t *testing.T, c *cluster.Cluster, a, b cluster.Pod) *traffic {
	t.Helper()
	from, to := c.Netns(a), c.Netns(b)
	tr := &traffic{
		t:     t,
		there: flow.StartAt(t, from, to, netip.MustParseAddr(b.IP), rate),
		back:  flow.StartAt(t, to, from, netip.MustParseAddr(a.IP), rate),
	}
	for _, f := range []*flow.Flow{tr.there, tr.back} {
		if !f.AwaitReceived(t, rate/10, 10*time.Second) {
			t.Fatalf("no packets arrive between %s and %s", a.IP, b.IP)
		}
	}
	return tr
}

// lost ends the traffic a moment later and returns how many packets were sent
// and lost.
func (tr *traffic) lost() (sent, lost int64) {
	tr.there.Await(tr.t, time.Second)
	for _, f := range []*flow.Flow{tr.there, tr.back} {
		s, l := f.End()
		sent, lost = sent+s, lost+l
	}
	return sent, lost
}

// none checks that no packet was lost.
func (tr *traffic) none(what string) {
	tr.t.Helper()
	sent, lost := tr.lost()
	if lost != 0 {
		tr.t.Errorf("%s: %d of %d packets lost, longest silence %v and %v", what, lost, sent, tr.there.Longest(), tr.back.Longest())
	}
	tr.t.Logf("%s: %d of %d packets lost", what, lost, sent)
}

// twin proves that the meter sees packets that a node drops.
func twin(t *testing.T, c *cluster.Cluster, a, b cluster.Pod) {
	t.Helper()
	tr := between(t, c, a, b)
	for _, rule := range []string{"table inet twin", "chain inet twin forward { type filter hook forward priority -300 ; }", "rule inet twin forward udp dport 9999 drop"} {
		c.Node(a.Node, "nft add "+rule)
	}
	tr.there.AwaitSent(t, rate/10)
	c.Node(a.Node, "nft delete table inet twin")
	sent, lost := tr.lost()
	if lost < rate/10 {
		t.Errorf("twin: %d of %d packets lost while a node dropped them all for %d", lost, sent, rate/10)
	}
	t.Logf("twin: %d of %d packets lost", lost, sent)
}
