// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/test/kubernetes/cluster"
)

// TestHelm is the product's life by Helm: a wrong value, install, upgrade,
// rollback, uninstall as docs/upgrade-and-uninstall.md says, and install
// again, while two pods that were there from the beginning talk.
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
	must("install", "ocicat", c.Chart(), "--wait")
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
}

// uninstall follows docs/upgrade-and-uninstall.md up to the last step.
func uninstall(t *testing.T, c *cluster.Cluster, must func(...string) string) {
	t.Helper()
	c.Kubectl("-n", "kube-system", "set", "env", "daemonset/ocicat-node", "CALICO_MANAGE_CNI=false")
	c.Kubectl("-n", "kube-system", "rollout", "status", "daemonset/ocicat-node", "--timeout=1m")
	for _, agent := range c.Agents() {
		c.Kubectl("-n", "kube-system", "exec", agent.Name, "--", "/ocicatd", "-uninstall-cni", "-cni-bin-dir=/host/opt/cni/bin", "-cni-net-dir=/host/etc/cni/net.d")
	}
	for _, node := range c.Names {
		if left := c.Node(node, "ls -A "+cluster.BinDir+" "+cluster.ConfDir); strings.Contains(left, "ocicat") {
			t.Errorf("%s: what was installed is still there:\n%s", node, left)
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
