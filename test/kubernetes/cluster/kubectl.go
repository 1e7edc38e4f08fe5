// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Kubectl runs kubectl as the cluster's administrator, which has to succeed,
// and returns what it printed.
func (c *Cluster) Kubectl(args ...string) string {
	c.t.Helper()
	return c.must(append([]string{"kubectl"}, args...)...)
}

// TryKubectl runs kubectl as the cluster's administrator.
func (c *Cluster) TryKubectl(args ...string) (string, error) {
	return c.run(c.t.Context(), "", append([]string{"kubectl"}, args...)...)
}

// Apply applies a manifest, which has to be accepted.
func (c *Cluster) Apply(manifest string) {
	c.t.Helper()
	if out, err := c.TryApply(manifest); err != nil {
		c.t.Fatalf("kubectl apply: %v\n%s", err, out)
	}
}

// TryApply applies a manifest and returns what kubectl printed.
func (c *Cluster) TryApply(manifest string) (string, error) {
	return c.run(c.t.Context(), manifest, "kubectl", "apply", "-f", "-")
}

// ApplyServerSide applies a manifest too large for the annotation that a plain
// apply leaves behind.
func (c *Cluster) ApplyServerSide(manifest string) {
	c.t.Helper()
	if out, err := c.run(c.t.Context(), manifest, "kubectl", "apply", "--server-side", "-f", "-"); err != nil {
		c.t.Fatalf("kubectl apply: %v\n%s", err, out)
	}
}

// Manifest is a file of the lab's manifests.
func (c *Cluster) Manifest(name string) string {
	c.t.Helper()
	return c.read("lab/manifests/" + name)
}

// Pod is what tests need to know of a pod.
type Pod struct {
	// Namespace and Name are the pod's, Node is where it runs.
	Namespace, Name, Node string
	// IP is the pod's address, "" before it has one.
	IP string
	// Ready is the pod's condition of that name.
	Ready bool
	// Container is the id of the first container, "" before it runs.
	Container string
	// Restarts is how often its containers were started again.
	Restarts int
	// UID tells it from another pod of the same name.
	UID string
}

// Pods are the pods of a namespace that a selector selects, "" for all.
func (c *Cluster) Pods(namespace, selector string) []Pod {
	c.t.Helper()
	pods, err := c.TryPods(namespace, selector)
	if err != nil {
		c.t.Fatal(err)
	}
	return pods
}

// TryPods is Pods while the API server may be away.
func (c *Cluster) TryPods(namespace, selector string) ([]Pod, error) {
	out, err := c.TryKubectl("get", "pods", "-n", namespace, "-l", selector, "-o", "json")
	if err != nil {
		return nil, fmt.Errorf("list pods: %w: %s", err, out)
	}
	var list struct {
		Items []struct {
			Metadata struct{ Namespace, Name, UID string }
			Spec     struct{ NodeName string }
			Status   struct {
				PodIP             string
				Conditions        []struct{ Type, Status string }
				ContainerStatuses []struct {
					ContainerID  string
					RestartCount int
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, fmt.Errorf("list pods: %w: %s", err, out)
	}
	var pods []Pod
	for _, item := range list.Items {
		p := Pod{Namespace: item.Metadata.Namespace, Name: item.Metadata.Name, UID: item.Metadata.UID, Node: item.Spec.NodeName, IP: item.Status.PodIP}
		for _, condition := range item.Status.Conditions {
			p.Ready = p.Ready || condition.Type == "Ready" && condition.Status == "True"
		}
		for _, s := range item.Status.ContainerStatuses {
			p.Restarts += s.RestartCount
			_, id, _ := strings.Cut(s.ContainerID, "://")
			if p.Container == "" {
				p.Container = id
			}
		}
		pods = append(pods, p)
	}
	return pods, nil
}

// AwaitPods waits until a selector selects that many pods and all are Ready.
func (c *Cluster) AwaitPods(limit time.Duration, namespace, selector string, number int) []Pod {
	c.t.Helper()
	var pods []Pod
	c.Await(limit, fmt.Sprintf("%d pods %s Ready in %s", number, selector, namespace), func() (err error) {
		if pods, err = c.TryPods(namespace, selector); err != nil {
			return err
		}
		ready := 0
		for _, p := range pods {
			if p.Ready {
				ready++
			}
		}
		if ready != number || len(pods) != number {
			return fmt.Errorf("%d pods, %d Ready", len(pods), ready)
		}
		return nil
	})
	return pods
}

// Shell runs a command in a pod's first container.
func (c *Cluster) Shell(p Pod, command string) (string, error) {
	return c.TryKubectl("exec", "-n", p.Namespace, p.Name, "--", "sh", "-c", command)
}

// NodesReady waits until all nodes are Ready and returns how long that took.
func (c *Cluster) NodesReady(limit time.Duration) time.Duration {
	c.t.Helper()
	return c.Await(limit, "nodes Ready", func() error {
		out, err := c.TryKubectl("get", "nodes", "-o", `jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status} {end}`)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		if strings.Count(out, "=True ") != len(c.Names) {
			return fmt.Errorf("conditions Ready: %s", out)
		}
		return nil
	})
}
