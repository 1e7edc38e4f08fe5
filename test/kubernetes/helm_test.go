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
	uninstall := func() { must("upgrade", "ocicat", c.Chart(), "--reuse-values", "--set", "uninstall.enabled=true") }
	uninstall()
	awaitUninstall(t, c)
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
	uninstall()
	awaitUninstall(t, c)
	endPods(t, c)
	must("uninstall", "ocicat", "--wait")
	if kept := c.Kubectl("get", "ippools.projectcalico.org", "-o", "name"); !strings.Contains(kept, "default-ipv4-ippool") {
		t.Errorf("after helm uninstall the pools are: %q", kept)
	}
	if left := c.Kubectl("get", productKinds, "-n", "kube-system", "-o", "name"); strings.Contains(left, "ocicat") {
		t.Errorf("helm uninstall left:\n%s", left)
	}
}

// productKinds are the kinds that the product's manifest is made of, but for
// its resource definitions.
const productKinds = "clusterroles,clusterrolebindings,roles,rolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings,daemonsets,deployments,serviceaccounts"
