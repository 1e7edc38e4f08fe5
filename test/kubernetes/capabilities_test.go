// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/test/kubernetes/cluster"
)

// capabilities are all that an agent has, and what is seen without each of
// them: that is why it has it.
var capabilities = []struct {
	name    string
	bit     uint
	without string // in the log of the agent
}{
	{"NET_ADMIN", unix.CAP_NET_ADMIN, "set netlink receive buffer: operation not permitted"},
	{"NET_BIND_SERVICE", unix.CAP_NET_BIND_SERVICE, "cannot listen for BGP"},
	{"NET_RAW", unix.CAP_NET_RAW, ""}, // a trace misses it
	{"SYS_ADMIN", unix.CAP_SYS_ADMIN, "enter network namespace"},
}

// TestCapabilities looks at the agents as the kernel sees them, and then takes
// one capability after the other away.
func TestCapabilities(t *testing.T) {
	c, _ := installed(t, cluster.Options{})
	var want uint64
	for _, capability := range capabilities {
		want |= 1 << capability.bit
	}
	for _, node := range c.Names {
		status := agentStatus(t, c, node)
		for field, value := range map[string]string{"CapEff": fmt.Sprintf("%016x", want), "CapBnd": fmt.Sprintf("%016x", want), "Seccomp": "2"} {
			if status[field] != value {
				t.Errorf("%s: %s of the agent is %s, want %s", node, field, status[field], value)
			}
		}
	}
	for _, name := range []string{"ta", "tb"} {
		c.Apply(`{apiVersion: v1, kind: Pod, metadata: {name: ` + name + `, labels: {app: trace}}, spec: {nodeName: ` + c.Names[1] + `, terminationGracePeriodSeconds: 0,
  containers: [{name: c, image: docker.io/library/busybox:latest, imagePullPolicy: IfNotPresent, command: [sleep, "9999"]}]}}`)
	}
	c.AwaitPods(time.Minute, "default", "app=trace", 2)
	if out, err := trace(c); err != nil || !strings.Contains(out, "predicted and observed agree") {
		t.Errorf("trace: %v\n%s", err, out)
	}
	manifest, _ := c.Product()
	for _, less := range capabilities {
		before, rest, found := strings.Cut(manifest, "\n                - "+less.name+" #")
		if !found {
			t.Fatalf("deploy/ocicat.yaml does not add %s", less.name)
		}
		_, after, _ := strings.Cut(rest, "\n")
		c.Kubectl("-n", "kube-system", "delete", "daemonset", "ocicat-node", "--wait")
		c.Apply(before + "\n" + after)
		c.Await(time.Minute, "the agent misses "+less.name, func() error { return missed(c, less.without) })
	}
}

// missed says that the agent of the second node does not miss a capability:
// nothing in its log says so, or for "" its trace is proven.
func missed(c *cluster.Cluster, without string) error {
	if without == "" {
		out, err := trace(c)
		if err == nil || !strings.Contains(out, "operation not permitted") {
			return errAwaited(out, err)
		}
		return nil
	}
	agent := c.Agents()[c.Names[1]]
	out, err := c.TryKubectl("-n", "kube-system", "logs", agent.Name)
	if err != nil || !strings.Contains(out, without) {
		return errAwaited(out, err)
	}
	return nil
}

// trace sends a packet between the pods of the second node.
func trace(c *cluster.Cluster) (string, error) {
	return c.TryKubectl("-n", "kube-system", "exec", c.Agents()[c.Names[1]].Name, "--", "/ocicat", "trace", "ta", "tb")
}

// agentStatus is /proc/PID/status of a node's agent, by field.
func agentStatus(t *testing.T, c *cluster.Cluster, node string) map[string]string {
	t.Helper()
	pid, err := c.AgentPID(node)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for _, line := range strings.Split(string(text), "\n") {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = strings.TrimSpace(value)
	}
	return fields
}
