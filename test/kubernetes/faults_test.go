// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/test/kubernetes/cluster"
)

// TestRollingUpdate updates and rolls back the DaemonSet under traffic.
func TestRollingUpdate(t *testing.T) {
	c, pods := installed(t, cluster.Options{})
	_, tag := c.Product()
	next := tag + "-next"
	c.LoadProduct(next)
	a, b := pods[c.Names[0]], pods[c.Names[1]]
	twin(t, c, a, b)
	before := c.Agents()
	tr := between(t, c, a, b)
	c.Kubectl("set", "image", "-n", "kube-system", "daemonset/ocicat-node", "ocicat-node="+cluster.Repository+":"+next)
	c.Kubectl("rollout", "status", "-n", "kube-system", "daemonset/ocicat-node", "--timeout=120s")
	after := c.Agents()
	c.Kubectl("rollout", "undo", "-n", "kube-system", "daemonset/ocicat-node")
	c.Kubectl("rollout", "status", "-n", "kube-system", "daemonset/ocicat-node", "--timeout=120s")
	tr.none("update and rollback")
	for node, p := range c.Agents() {
		if p.UID == after[node].UID || after[node].UID == before[node].UID {
			t.Errorf("%s: the agent was not replaced twice", node)
		}
	}
}

// TestAgentKilled kills the agents under traffic.
func TestAgentKilled(t *testing.T) {
	c, pods := installed(t, cluster.Options{})
	a, b := pods[c.Names[0]], pods[c.Names[1]]
	twin(t, c, a, b)
	tr := between(t, c, a, b)
	for _, node := range c.Names {
		kill(t, c, node)
	}
	tr.none("agents killed")
}

// kill kills a node's agent and waits until the next one is Ready.
func kill(t *testing.T, c *cluster.Cluster, node string) {
	t.Helper()
	restarts := c.Agents()[node].Restarts
	pid, err := c.AgentPID(node)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	took := c.Await(time.Minute, "the next agent Ready", func() error {
		if p := c.Agents()[node]; !p.Ready || p.Restarts <= restarts {
			return fmt.Errorf("ready %v after %d restarts, before %d", p.Ready, p.Restarts, restarts)
		}
		return nil
	})
	t.Logf("%s: agent Ready again after %.1f s", node, took.Seconds())
}

// TestNodeKilled kills a third node under traffic between two others, and
// starts it again.
func TestNodeKilled(t *testing.T) {
	c, pods := installed(t, cluster.Options{Nodes: 3})
	a, b, dead := pods[c.Names[0]], pods[c.Names[1]], c.Names[2]
	twin(t, c, a, b)
	tr := between(t, c, a, b)
	c.KillNode(dead)
	took := c.Await(time.Minute, "the dead node NotReady", func() error {
		out := c.Kubectl("get", "node", dead, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		if out != "Unknown" {
			return fmt.Errorf("Ready is %s", out)
		}
		return nil
	})
	t.Logf("NotReady after %.1f s", took.Seconds())
	c.StartNode(dead)
	begin := time.Now()
	c.NodesReady(time.Minute)
	t.Logf("Ready again after %.1f s", time.Since(begin).Seconds())
	c.Await(time.Minute, "the pod of the started node answers", func() error {
		for _, p := range c.Pods("default", "app=www") {
			if p.Node == dead && p.Ready {
				out, err := c.Shell(a, "timeout 2 wget -qO- http://"+p.IP)
				if err != nil {
					return errAwaited(out, err)
				}
				return nil
			}
		}
		return fmt.Errorf("no pod is Ready")
	})
	t.Logf("its pod answers after %.1f s", time.Since(begin).Seconds())
	tr.none("another node killed and started")
}

// TestAPIServerKilled has the API server away for a minute, under traffic; an
// agent dies meanwhile, and a pod's sandbox, which needs an address.
func TestAPIServerKilled(t *testing.T) {
	const away = time.Minute
	c, pods := installed(t, cluster.Options{})
	a, b := pods[c.Names[0]], pods[c.Names[1]]
	twin(t, c, a, b)
	c.Apply(first)
	victim := c.AwaitPods(time.Minute, "default", "!app", 1)[0]
	pid, err := c.AgentPID(a.Node)
	if err != nil {
		t.Fatal(err)
	}
	tr := between(t, c, a, b)
	c.KillComponent("kube-apiserver")
	gone := time.Now()
	before := addresses(c, victim.Node)
	c.KillSandbox(victim)
	took := c.Await(away, "the pod has another address and answers", func() error {
		for address := range addresses(c, victim.Node) {
			if out, err := c.NodeExec(victim.Node, "curl", "-sf", "-m", "1", "http://"+address); !before[address] && err == nil && strings.TrimSpace(out) == "first" {
				return nil
			}
		}
		return fmt.Errorf("addresses before %v, now %v", before, addresses(c, victim.Node))
	})
	t.Logf("a pod made without the API server after %.1f s", took.Seconds())
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	took = c.Await(away, "the next agent", func() error {
		_, err := c.AgentPID(a.Node)
		return err
	})
	t.Logf("an agent started without the API server after %.1f s", took.Seconds())
	tr.there.Await(t, away-time.Since(gone))
	c.StartComponent("kube-apiserver")
	back := time.Now()
	c.NodesReady(time.Minute)
	c.AwaitPods(time.Minute, "kube-system", "k8s-app=ocicat-node", len(c.Names))
	t.Logf("agents Ready %.1f s after the API server's start", time.Since(back).Seconds())
	tr.none("API server away")
	// The scheduler looks again only once a minute after a while.
	c.Apply(strings.Replace(strings.ReplaceAll(first, "first", "second"), "spec: {", "spec: {nodeName: "+b.Node+", ", 1))
	c.AwaitPods(2*time.Minute, "default", "!app", 2)
	t.Logf("a new pod Ready %.1f s after the API server's start", time.Since(back).Seconds())
}

// addresses are those a node routes to its own pods.
func addresses(c *cluster.Cluster, node string) map[string]bool {
	found := map[string]bool{}
	out, _ := c.NodeExec(node, "ip", "-4", "route", "show", "scope", "link")
	for _, line := range strings.Split(out, "\n") {
		if f := strings.Fields(line); len(f) > 2 && strings.HasPrefix(f[2], "cali") {
			found[f[0]] = true
		}
	}
	return found
}
