// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/test/kubernetes/cluster"
)

// TestNodeGone: a node dies and its Node is deleted. Its peer forgets it within
// a second; the controller frees what it held by the lease rule, here with a
// lease of 30 s, and nothing of who lives; the node comes back under its name.
func TestNodeGone(t *testing.T) {
	c, pods := installed(t, cluster.Options{})
	master, dead := c.Names[0], c.Names[1]
	c.Kubectl("-n", "kube-system", "set", "env", "daemonset/ocicat-node", "deployment/ocicat-controller", "OCICAT_LEASE_TIME=30s")
	c.Kubectl("-n", "kube-system", "patch", "deployment", "ocicat-controller", "-p", `{"spec":{"template":{"spec":{"nodeName":"`+master+`"}}}}`)
	for _, what := range []string{"daemonset/ocicat-node", "deployment/ocicat-controller"} {
		c.Kubectl("-n", "kube-system", "rollout", "status", what, "--timeout=3m")
	}
	c.Await(time.Minute, "the node holds a block, and its peer has the route", func() error {
		if of := remains(c, dead); of["blockaffinities"] == 0 || of["ipamblocks"] == 0 {
			return fmt.Errorf("%v", of)
		}
		return routeTo(c, master, dead, true)
	})

	c.KillNode(dead)
	c.Kubectl("delete", "node", dead)
	begin := time.Now()
	took := c.Await(time.Minute, "the peer has no route to the node", func() error { return routeTo(c, master, dead, false) })
	if took > 2*time.Second { // a look by ip and a loaded machine included
		t.Errorf("the peer forgot the node after %v", took)
	}
	c.Kubectl("delete", "pods", "-A", "--field-selector", "spec.nodeName="+dead, "--force", "--grace-period=0")
	c.Await(6*time.Minute, "nothing of the node is left", func() error {
		if of := remains(c, dead); len(of) > 0 {
			return fmt.Errorf("%v", of)
		}
		return nil
	})
	t.Logf("the peer forgot the node %.1f s after its Node was deleted; nothing was left of it after %.0f s", took.Seconds(), time.Since(begin).Seconds())
	if held, err := held(c); err != nil || held[pods[master].IP] == "" {
		t.Errorf("twin: the address of the pod that lives, %s, is among %v: %v", pods[master].IP, held, err)
	}

	c.StartNode(dead)
	c.NodesReady(2 * time.Minute)
	c.Await(2*time.Minute, "a pod of the node that came back answers", func() error {
		for _, p := range c.Pods("default", "app=www") {
			if p.Node == dead && p.Ready {
				if out, err := c.Shell(pods[master], "timeout 2 wget -qO- http://"+p.IP); err != nil {
					return errAwaited(out, err)
				}
				return nil
			}
		}
		return fmt.Errorf("no pod is Ready")
	})
}

// routeTo says whether a node has, or has not, a route by way of another.
func routeTo(c *cluster.Cluster, node, other string, want bool) error {
	out, err := c.NodeExec(node, "ip", "route", "show", "proto", "bird")
	if err != nil {
		return errAwaited(out, err)
	}
	if has := strings.Contains(out, "via "+c.Address(other)+" "); has != want {
		return fmt.Errorf("route by way of it: %v", has)
	}
	return nil
}

// remains counts the objects that name a node, by resource.
func remains(c *cluster.Cluster, node string) map[string]int {
	found := map[string]int{}
	for resource, column := range map[string]string{
		"blockaffinities": ".spec.node", "ipamblocks": ".spec.affinity", "heartbeats": ".metadata.name", "nodestatuses": ".metadata.name",
	} {
		out, err := c.TryKubectl("get", resource, "--no-headers", "-o", "custom-columns=:"+column)
		if err != nil {
			found[resource+": "+out]++
			continue
		}
		for line := range strings.Lines(out) {
			if name := strings.TrimPrefix(strings.TrimSpace(line), "host:"); name == node {
				found[resource]++
			}
		}
	}
	return found
}
