// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/test/kubernetes/cluster"
)

// first is a pod that serves a page, to be the first of a cluster.
const first = `{apiVersion: v1, kind: Pod, metadata: {name: first}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: www, image: docker.io/library/busybox:latest,
  imagePullPolicy: IfNotPresent, command: [sh, -c, "mkdir /www && echo first >/www/index.html && httpd -f -p 80 -h /www"]}]}}`

// TestInstall applies the manifest to an empty cluster and watches what the
// container runtime could see meanwhile.
func TestInstall(t *testing.T) {
	c := cluster.Up(t, cluster.Options{})
	manifest, tag := c.Product()
	c.LoadProduct(tag)
	c.Apply(first)
	watches := map[string]*cluster.Watch{}
	for _, node := range c.Names {
		watches[node] = c.WatchCNI(node)
	}
	begin := time.Now()
	c.ApplyProduct(manifest)
	applied := time.Since(begin)
	c.NodesReady(time.Minute)
	ready := time.Since(begin)
	c.Await(time.Minute, "the first pod answers", func() error {
		pods, err := c.TryPods("default", "")
		if err != nil || len(pods) == 0 || pods[0].IP == "" {
			return errAwaited("no address", err)
		}
		out, err := c.NodeExec(pods[0].Node, "curl", "-sf", "-m", "1", "http://"+pods[0].IP)
		if err != nil || strings.TrimSpace(out) != "first" {
			return errAwaited(out, err)
		}
		return nil
	})
	t.Logf("applied after %.1f s, nodes Ready after %.1f s, first pod answered after %.1f s", applied.Seconds(), ready.Seconds(), time.Since(begin).Seconds())
	c.AwaitPods(time.Minute, "kube-system", "k8s-app=ocicat-node", len(c.Names))
	c.Await(20*time.Second, "the conditions of both nodes are True", func() error {
		out, err := c.TryKubectl("get", "nodestatuses", "-o", `jsonpath={range .items[*]}{.metadata.name}{range .status.conditions[*]}{" "}{.type}={.status}/{.reason}{end}{"\n"}{end}`)
		if err != nil || strings.Count(out, "=True/") != 4*len(c.Names) {
			return errAwaited(out, err)
		}
		return nil
	})
	for node, w := range watches {
		for _, fault := range w.Faults() {
			t.Errorf("%s: %s", node, fault)
		}
		if !slices.ContainsFunc(w.Seen(), func(s string) bool { return strings.HasPrefix(s, "moved "+cluster.ConfDir) }) {
			t.Errorf("%s: the watcher saw no configuration: %v", node, w.Seen())
		}
	}
	t.Run("twin", func(t *testing.T) {
		node := c.Names[0]
		c.Node(node, "touch "+cluster.BinDir+"/written")
		c.Node(node, "cp /etc/hosts "+cluster.ConfDir+"/.moved")
		c.Node(node, "mv "+cluster.ConfDir+"/.moved "+cluster.ConfDir+"/99-moved.conflist")
		c.Await(5*time.Second, "the watcher reports both", func() error {
			faults := strings.Join(watches[node].Faults(), "\n")
			if !strings.Contains(faults, "written in place: "+cluster.BinDir+"/written") || !strings.Contains(faults, "99-moved.conflist: 0 plugins") {
				return errAwaited(faults, nil)
			}
			return nil
		})
	})
}
