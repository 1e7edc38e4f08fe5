// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/test/kubernetes/cluster"
)

// TestHelm is the product's life by Helm: a wrong value, install, upgrade,
// rollback, uninstall as docs/upgrade-and-uninstall.md says, and install
// again, while two pods that were there from the beginning talk; then it is
// uninstalled to the end.
func TestHelm(t *testing.T) {
	c := cluster.Up(t, cluster.Options{})
	_, tag := c.Product()
	c.LoadProduct(tag)
	must := func(args ...string) string {
		t.Helper()
		out, err := c.Helm(args...)
		if err != nil {
			t.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	if out, err := c.Helm("install", "ocicat", c.Chart(), "--set", "node.loglevel=Debug"); err == nil || !strings.Contains(out, "'loglevel' not allowed") {
		t.Errorf("a value that is not known: %v\n%s", err, out)
	}

	begin := time.Now()
	must("install", "ocicat", c.Chart(), "--set", "ipPool.cidr=172.16.0.0/16", "--set", "ipPool.blockSize=27")
	c.NodesReady(time.Minute)
	t.Logf("nodes Ready %.1f s after helm install began", time.Since(begin).Seconds())
	c.Apply(everywhere)
	pods := c.AwaitPods(time.Minute, "default", "app=www", len(c.Names))
	if cidr := c.Kubectl("get", "ippools.projectcalico.org", "default-ipv4-ippool", "-o", "jsonpath={.spec.cidr} {.spec.blockSize}"); cidr != "172.16.0.0/16 27" {
		t.Errorf("the default pool is %s", cidr)
	}

	running := between(t, c, pods[0], pods[1])
	must("upgrade", "ocicat", c.Chart(), "--reuse-values", "--set", "node.logLevel=Debug", "--wait")
	must("rollback", "ocicat", "1", "--wait")
	uninstall(t, c, must)
	must("upgrade", "ocicat", c.Chart(), "--reuse-values", "--set", "uninstall.enabled=false", "--wait")
	c.NodesReady(time.Minute)
	running.none("an upgrade, a rollback, an uninstall and an install by Helm")

	after := c.AwaitPods(time.Minute, "default", "app=www", len(c.Names))
	for i := range pods {
		if after[i].UID != pods[i].UID || after[i].IP != pods[i].IP {
			t.Errorf("pod %s %s is now %s %s", pods[i].Name, pods[i].IP, after[i].Name, after[i].IP)
		}
	}
	c.Kubectl("delete", "pods", "-l", "app=www", "--wait")
	c.AwaitPods(time.Minute, "default", "app=www", len(c.Names))
	purge(t, c, must)
}

// uninstall ends the agents, and waits until every node waits for its pods.
func uninstall(t *testing.T, c *cluster.Cluster, must func(...string) string) {
	t.Helper()
	must("upgrade", "ocicat", c.Chart(), "--reuse-values", "--set", "uninstall.enabled=true")
	c.Await(time.Minute, "every node waits for its pods", func() error {
		pods, err := c.TryPods("kube-system", "k8s-app=ocicat-uninstall")
		if err != nil || len(pods) != len(c.Names) {
			return errAwaited(fmt.Sprint(pods), err)
		}
		for _, p := range pods {
			out, err := c.TryKubectl("-n", "kube-system", "logs", p.Name, "-c", "purge")
			if err != nil || !strings.Contains(out, "waiting: purge: pods use this node's network: ") {
				return errAwaited(out, err)
			}
		}
		return nil
	})
	for _, node := range c.Names {
		if routes := c.Node(node, "ip route show"); !strings.Contains(routes, "proto bird") || !strings.Contains(routes, "cali") {
			t.Errorf("%s: the routes are gone under the pods:\n%s", node, routes)
		}
	}
}

// purge follows docs/upgrade-and-uninstall.md to its end: the agents go, all
// pods, then everything on the nodes, then the release.
func purge(t *testing.T, c *cluster.Cluster, must func(...string) string) {
	t.Helper()
	uninstall(t, c, must)
	c.Kubectl("-n", "kube-system", "scale", "deployment", "coredns", "--replicas=0")
	c.Kubectl("delete", "daemonsets", "--all", "--wait")
	c.Kubectl("-n", "kube-system", "rollout", "status", "daemonset/ocicat-uninstall", "--timeout=2m")
	for _, node := range c.Names {
		left := c.Node(node, "ip route show") + c.Node(node, "ip -br link") + c.Node(node, "nft list tables") + c.Node(node, "ls -AR /run/ocicat /var/lib/ocicat "+cluster.BinDir+" "+cluster.ConfDir)
		for _, ours := range []string{"proto bird", "blackhole", "cali", "table inet ocicat", "journal", "instance", "ocicat-cni", "conflist"} {
			if strings.Contains(left, ours) {
				t.Errorf("%s: %q is left:\n%s", node, ours, left)
			}
		}
	}
	must("uninstall", "ocicat", "--wait")
	if kept := c.Kubectl("get", "ippools.projectcalico.org", "-o", "name"); !strings.Contains(kept, "default-ipv4-ippool") {
		t.Errorf("after helm uninstall the pools are: %q", kept)
	}
	if left := c.Kubectl("get", "clusterroles,validatingadmissionpolicies,daemonsets,serviceaccounts", "-n", "kube-system", "-o", "name"); strings.Contains(left, "ocicat") {
		t.Errorf("helm uninstall left:\n%s", left)
	}
}
