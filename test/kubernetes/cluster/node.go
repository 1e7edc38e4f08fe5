// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/ocicat-net/ocicat/internal/netns"
)

// NodeExec runs a program of this machine in all namespaces of a node.
func (c *Cluster) NodeExec(node string, command ...string) (string, error) {
	return c.run(c.t.Context(), "", append([]string{"node", "exec", node, "--"}, command...)...)
}

// Node runs a command, words separated by spaces, in a node, which has to
// succeed.
func (c *Cluster) Node(node, command string) string {
	c.t.Helper()
	return c.must(append([]string{"node", "exec", node, "--"}, strings.Fields(command)...)...)
}

// Client runs a program outside the cluster, in the gateway's namespace.
func (c *Cluster) Client(command ...string) (string, error) {
	return c.run(c.t.Context(), "", append([]string{"client"}, command...)...)
}

// Router runs BIRD in the gateway's namespace, from its configuration, until
// the end of the test.
func (c *Cluster) Router(configuration string) {
	c.t.Helper()
	file := filepath.Join(c.dir, "bird.conf")
	if err := os.WriteFile(file, []byte(configuration), 0o644); err != nil {
		c.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	cmd := c.command(ctx, "client", "bird", "-f", "-c", file, "-s", filepath.Join(c.dir, "bird.ctl"))
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { stop(); _ = cmd.Wait() })
}

// Address is a node's address.
func (c *Cluster) Address(node string) string {
	c.t.Helper()
	return strings.TrimSpace(c.must("node", "address", node))
}

// KillNode ends a node as if its power went.
func (c *Cluster) KillNode(node string) { c.t.Helper(); c.must("node", "kill", node) }

// StartNode starts a node that was killed.
func (c *Cluster) StartNode(node string) { c.t.Helper(); c.must("node", "start", node) }

// KillComponent kills a program of the control plane: kube-apiserver, etcd,
// kube-controller-manager or kube-scheduler.
func (c *Cluster) KillComponent(name string) { c.t.Helper(); c.must("cp", "kill", name) }

// StartComponent starts a program of the control plane again.
func (c *Cluster) StartComponent(name string) { c.t.Helper(); c.must("cp", "start", name) }

// pid is the node's process 1 as this machine numbers it.
func (c *Cluster) pid(node string) string {
	c.t.Helper()
	return strings.TrimSpace(c.must("node", "pid", node))
}

// Root is a path of a node's file system as this machine reaches it while the
// node runs.
func (c *Cluster) Root(node, path string) string {
	c.t.Helper()
	return filepath.Join("/proc", c.pid(node), "root", path)
}

// Netns opens a pod's network namespace.
func (c *Cluster) Netns(p Pod) *os.File {
	c.t.Helper()
	return c.open(c.Root(p.Node, "/proc/"+c.task(p)+"/ns/net"))
}

// task is the process of a pod's first container as its node numbers it.
func (c *Cluster) task(p Pod) string {
	c.t.Helper()
	out := c.Node(p.Node, "ctr -n k8s.io task ls")
	for _, line := range strings.Split(out, "\n") {
		if f := strings.Fields(line); len(f) > 1 && f[0] == p.Container {
			return f[1]
		}
	}
	c.t.Fatalf("pod %s: no container %s on %s:\n%s", p.Name, p.Container, p.Node, out)
	return ""
}

// KillSandbox kills the process that holds a pod's namespaces: the kubelet
// makes the pod anew, with another address.
func (c *Cluster) KillSandbox(p Pod) {
	c.t.Helper()
	ns, err := os.Readlink(c.Root(p.Node, "/proc/"+c.task(p)+"/ns/net"))
	if err != nil {
		c.t.Fatal(err)
	}
	processes, err := filepath.Glob(c.Root(p.Node, "/proc/[0-9]*"))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, process := range processes {
		comm, _ := os.ReadFile(filepath.Join(process, "comm"))
		if at, _ := os.Readlink(filepath.Join(process, "ns/net")); at == ns && strings.TrimSpace(string(comm)) == "pause" {
			c.Node(p.Node, "kill -9 "+filepath.Base(process))
			return
		}
	}
	c.t.Fatalf("pod %s has no sandbox on %s", p.Name, p.Node)
}

// NodeNetns opens a node's network namespace.
func (c *Cluster) NodeNetns(node string) *os.File {
	c.t.Helper()
	return c.open(filepath.Join("/proc", c.pid(node), "ns/net"))
}

func (c *Cluster) open(path string) *os.File {
	c.t.Helper()
	ns, err := netns.Open(path)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = ns.Close() })
	return ns
}

func (c *Cluster) read(path string) string {
	c.t.Helper()
	text, err := os.ReadFile(source(path))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(text)
}

// report logs what explains a failure: objects, events, and the ends of logs.
func (c *Cluster) report() {
	for _, args := range [][]string{
		{"kubectl", "get", "nodes,pods", "-A", "-o", "wide"},
		{"kubectl", "get", "events", "-A", "--sort-by=.lastTimestamp"},
		{"kubectl", "logs", "-n", "kube-system", "-l", "k8s-app=ocicat-node", "--tail=40", "--prefix"},
	} {
		out, _ := c.run(context.Background(), "", args...)
		c.t.Logf("%s:\n%s", strings.Join(args, " "), tail(out, 60))
	}
	logs, _ := filepath.Glob(filepath.Join(c.dir, "log", "*.log"))
	nodes, _ := filepath.Glob(filepath.Join(c.dir, "nodes", "*", "log", "*.log"))
	keep := os.Getenv("OCICAT_K8S_LOGS")
	for _, file := range append(logs, nodes...) {
		name := strings.ReplaceAll(strings.TrimPrefix(file, c.dir+"/"), "/", "-")
		if text, err := os.ReadFile(file); err == nil && keep != "" {
			_ = os.WriteFile(filepath.Join(keep, name), text, 0o644)
		}
	}
}

// tail is the last lines of a text.
func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
