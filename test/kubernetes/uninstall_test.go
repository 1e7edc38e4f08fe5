// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/test/kubernetes/cluster"
)

// TestManifestUninstall follows docs/upgrade-and-uninstall.md with kubectl:
// the agents go under running pods and come back, then everything goes.
func TestManifestUninstall(t *testing.T) {
	c, pods := installed(t, cluster.Options{})
	deploy, err := filepath.Abs("../../deploy")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(deploy, "uninstall.yaml")
	manifest, _ := c.Product()
	uninstall := func() {
		c.Kubectl("-n", "kube-system", "delete", "daemonset", "ocicat-node")
		c.Kubectl("apply", "-f", file)
		awaitUninstall(t, c)
	}
	running := between(t, c, pods[c.Names[0]], pods[c.Names[1]])
	uninstall()
	c.Kubectl("-n", "kube-system", "delete", "daemonset", "ocicat-uninstall", "--wait")
	c.ApplyProduct(manifest)
	c.AwaitPods(time.Minute, "kube-system", "k8s-app=ocicat-node", len(c.Names))
	c.NodesReady(time.Minute)
	running.none("an uninstall that was taken back")
	for _, p := range c.AwaitPods(time.Minute, "default", "app=www", len(c.Names)) {
		if was := pods[p.Node]; p.UID != was.UID || p.IP != was.IP {
			t.Errorf("pod %s %s is now %s %s", was.Name, was.IP, p.Name, p.IP)
		}
	}

	// The flow holds the network namespaces of these pods: their links go with
	// the agents alone.
	c.Kubectl("delete", "pods", "-l", "app=www", "--wait")
	c.AwaitPods(time.Minute, "default", "app=www", len(c.Names))
	c.Await(20*time.Second, "only the links of the new pods and coredns are left", func() error {
		links := ""
		for _, node := range c.Names {
			links += c.Node(node, "ip -br link show type veth")
		}
		if n := strings.Count(links, "cali"); n != len(c.Names)+1 {
			return errAwaited(links, nil)
		}
		return nil
	})
	uninstall()
	endPods(t, c)
	c.Kubectl("delete", "-f", file)
	if kept := c.Kubectl("get", "ippools.projectcalico.org", "-o", "name"); !strings.Contains(kept, "default-ipv4-ippool") {
		t.Errorf("with the nodes clean the pools are: %q", kept)
	}
	c.Kubectl("delete", "-f", filepath.Join(deploy, "ocicat.yaml"), "--ignore-not-found") // the DaemonSet is gone already
	left := c.Kubectl("get", productKinds, "-n", "kube-system", "-o", "name") + c.Kubectl("get", "crds", "-o", "name")
	for _, ours := range []string{"ocicat", "projectcalico"} {
		if strings.Contains(left, ours) {
			t.Errorf("%q is left in the API:\n%s", ours, left)
		}
	}
}

// awaitUninstall waits until every node waits for its pods.
func awaitUninstall(t *testing.T, c *cluster.Cluster) {
	t.Helper()
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

// endPods ends all pods of the network, on which everything goes from the nodes.
func endPods(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	c.Kubectl("-n", "kube-system", "scale", "deployment", "coredns", "--replicas=0")
	c.Kubectl("delete", "daemonsets", "--all", "--wait")
	if out, err := c.TryKubectl("-n", "kube-system", "rollout", "status", "daemonset/ocicat-uninstall", "--timeout=2m"); err != nil {
		said, _ := c.TryKubectl("-n", "kube-system", "logs", "-l", "k8s-app=ocicat-uninstall", "-c", "purge", "--prefix")
		t.Fatalf("not every node is clean: %v\n%s\n%s", err, out, said)
	}
	for _, node := range c.Names {
		left := c.Node(node, "ip route show") + c.Node(node, "ip -br link") + c.Node(node, "nft list tables") + c.Node(node, "ls -AR /run/ocicat /var/lib/ocicat "+cluster.BinDir+" "+cluster.ConfDir)
		for _, ours := range []string{"proto bird", "blackhole", "cali", "table inet ocicat", "journal", "instance", "ocicat-cni", "conflist"} {
			if strings.Contains(left, ours) {
				t.Errorf("%s: %q is left:\n%s", node, ours, left)
			}
		}
	}
}
