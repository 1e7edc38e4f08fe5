// SPDX-License-Identifier: Apache-2.0

// Package kubernetes tests the product in real Kubernetes clusters on this
// machine: API server, etcd, controllers, scheduler, kubelets, kube-proxy,
// containerd and CoreDNS. Its control experiments are the same tests with the
// reference plugins and static routes: what fails there too is not the
// product's fault.
package kubernetes

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/test/kubernetes/cluster"
)

// variants are the ways a cluster forwards to services and runs containers
// that make a difference for a network.
var variants = []struct {
	name    string
	options cluster.Options
}{
	{"nftables-containerd2", cluster.Options{}},
	{"iptables-containerd1", cluster.Options{Proxy: "iptables", Containerd: "debian"}},
}

// TestControl is the lab with the reference plugins.
func TestControl(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			o := v.options
			o.CNI = "ptp"
			c := cluster.Up(t, o)
			c.NodesReady(time.Minute)
			c.Article(t)
		})
	}
}

// TestControlRacks is the lab with a router between its nodes.
func TestControlRacks(t *testing.T) {
	c := cluster.Up(t, cluster.Options{CNI: "ptp", Nodes: 3, Racks: 2})
	c.NodesReady(time.Minute)
	c.Article(t)
}

// TestControlResources is what the lab's API server does with definitions of
// resources: CEL rules, watches and admission policies.
func TestControlResources(t *testing.T) {
	c := cluster.Up(t, cluster.Options{Nodes: 1, CNI: "ptp"})
	c.Apply(c.Manifest("crd.yaml"))
	c.Kubectl("wait", "--for=condition=Established", "crd/pools.test.ocicat.net", "--timeout=10s")
	pool := func(name, cidr string, size int) string {
		return fmt.Sprintf("apiVersion: test.ocicat.net/v1\nkind: Pool\nmetadata: {name: %s}\nspec: {cidr: %s, blockSize: %d}\n", name, cidr, size)
	}
	c.Await(10*time.Second, "a valid object", func() error {
		_, err := c.TryApply(pool("good", "172.16.0.0/16", 26))
		return err
	})
	for _, bad := range []struct{ manifest, answer string }{
		{pool("bad", "172.16.0.0/16", 8), "must be longer"},
		{pool("good", "172.17.0.0/16", 26), "cannot change"},
		{pool("forbidden", "10.0.0.0/8", 26), "no pool named forbidden"},
	} {
		c.Await(10*time.Second, "a refusal", func() error {
			out, err := c.TryApply(bad.manifest)
			if err == nil || !strings.Contains(out, bad.answer) {
				return fmt.Errorf("%v: %s, want %q", err, out, bad.answer)
			}
			return nil
		})
	}
}

// TestMissingPrograms is what a test says before the lab is built.
func TestMissingPrograms(t *testing.T) {
	t.Setenv(cluster.EnvDir, t.TempDir())
	said := cluster.Missing()
	if said == nil || !strings.Contains(said.Error(), "make test-k8s") {
		t.Errorf("without programs: %v", said)
	}
	if _, err := os.Stat("lab/cluster"); err != nil {
		t.Error(err)
	}
}
