// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/test/kubernetes/cluster"
)

// configured is a pod that asks for an address, a MAC address, a port of its
// node, and at most 8 Mbit/s towards it.
const configured = `{apiVersion: v1, kind: Pod, metadata: {name: configured, labels: {app: configured}, annotations: {
  cni.projectcalico.org/ipAddrs: '["172.16.200.7"]', cni.projectcalico.org/hwAddr: "0e:00:00:00:00:77", kubernetes.io/ingress-bandwidth: 8M}}, spec: {
  nodeName: %s, terminationGracePeriodSeconds: 0, containers: [{name: c, image: docker.io/library/busybox:latest, imagePullPolicy: IfNotPresent,
  ports: [{containerPort: 80, hostPort: 8081}], command: [sh, -c, "mkdir /www && echo configured >/www/index.html && httpd -f -p 80 -h /www"]}]}}`

// TestPodSettings is what a pod asks for by annotations and its host port, as
// containerd hands it to the plugins.
func TestPodSettings(t *testing.T) {
	c, pods := installed(t, cluster.Options{})
	node := c.Names[1]
	c.Apply(fmt.Sprintf(configured, node))
	p := c.AwaitPods(time.Minute, "default", "app=configured", 1)[0]
	if p.IP != "172.16.200.7" {
		t.Errorf("status.podIP is %s, want the address asked for", p.IP)
	}
	if got := mac(c, p); got != "0e:00:00:00:00:77" {
		t.Errorf("the MAC address is %s, want that asked for", got)
	}
	t.Run("host port", func(t *testing.T) {
		c := c.With(t)
		c.Await(10*time.Second, "the host port answers outside", func() error {
			out, err := fetch(c, node, "8081")
			if err != nil || strings.TrimSpace(out) != "configured" {
				return errAwaited(out, err)
			}
			return nil
		})
		if out, err := fetch(c, node, "8082"); err == nil {
			t.Errorf("twin: a port of no pod answers %s", out)
		}
	})
	t.Run("bandwidth", func(t *testing.T) {
		c := c.With(t)
		if out := c.Node(node, "tc qdisc show dev "+hostEnd(p)); !strings.Contains(out, "tbf") || !strings.Contains(out, "rate 8Mbit") {
			t.Errorf("the pod's host end is not limited: %s", out)
		}
		if out := c.Node(node, "tc qdisc show dev "+hostEnd(pods[node])); strings.Contains(out, "tbf") {
			t.Errorf("twin: a pod that asks for no limit has one: %s", out)
		}
	})
}

// fetch is the page on a node's port, from outside the cluster.
func fetch(c *cluster.Cluster, node, port string) (string, error) {
	return c.Client("curl", "-sf", "-m", "2", "http://"+net.JoinHostPort(c.Address(node), port))
}
