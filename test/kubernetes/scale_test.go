// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/test/kubernetes/cluster"
)

// many are the pods that are started at once.
const many = 100

// crowd is a Deployment of that many pods.
const crowd = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: crowd}, spec: {replicas: %d, selector: {matchLabels: {app: crowd}}, template: {metadata: {labels: {app: crowd}}, spec: {
  terminationGracePeriodSeconds: 0, containers: [{name: pause, image: "registry.k8s.io/pause:3.10.1", imagePullPolicy: IfNotPresent}]}}}}`

// TestManyPods starts a hundred pods at once, beside the reference plugins in
// the same lab, and once more with the agents killed every five seconds.
func TestManyPods(t *testing.T) {
	t.Run("reference", func(t *testing.T) {
		c := cluster.Up(t, cluster.Options{CNI: "ptp"})
		c.NodesReady(time.Minute)
		t.Logf("%d pods Ready after %.1f s with ptp and host-local", many, start(t, c).Seconds())
	})
	t.Run("product", func(t *testing.T) {
		c, _ := installed(t, cluster.Options{})
		t.Logf("%d pods Ready after %.1f s", many, start(t, c).Seconds())
		clean(t, c)
	})
	t.Run("agents-killed", func(t *testing.T) {
		c, _ := installed(t, cluster.Options{})
		stop := make(chan struct{})
		ended := make(chan int)
		go func() { ended <- killing(c, stop) }()
		t.Logf("%d pods Ready after %.1f s", many, start(t, c).Seconds())
		close(stop)
		t.Logf("agents killed %d times", <-ended)
		c.AwaitPods(2*time.Minute, "kube-system", "k8s-app=ocicat-node", len(c.Names))
		clean(t, c)
	})
}

// killing kills every node's agent each five seconds; it returns how often.
func killing(c *cluster.Cluster, stop <-chan struct{}) int {
	killed := 0
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return killed
		case <-tick.C:
		}
		for _, node := range c.Names {
			if pid, err := c.AgentPID(node); err == nil && syscall.Kill(pid, syscall.SIGKILL) == nil {
				killed++
			}
		}
	}
}

// start starts the pods and returns how long it took until all were Ready.
// None may have another's address.
func start(t *testing.T, c *cluster.Cluster) time.Duration {
	t.Helper()
	begin := time.Now()
	c.Apply(fmt.Sprintf(crowd, many))
	pods := c.AwaitPods(10*time.Minute, "default", "app=crowd", many)
	took := time.Since(begin)
	holders := map[string]string{}
	for _, p := range append(pods, c.Pods("kube-system", "k8s-app=kube-dns")...) {
		if other, taken := holders[p.IP]; taken {
			t.Errorf("%s and %s have the address %s", other, p.Name, p.IP)
		}
		holders[p.IP] = p.Name
	}
	return took
}

// clean deletes the pods and awaits that no address, route or link is left of
// them.
func clean(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	c.Kubectl("delete", "deployment", "crowd")
	c.AwaitPods(5*time.Minute, "default", "app=crowd", 0)
	living := map[string]bool{}
	for _, p := range append(c.Pods("default", ""), c.Pods("kube-system", "k8s-app=kube-dns")...) {
		living[p.IP] = true
	}
	c.Await(2*time.Minute, "nothing is left of deleted pods", func() error {
		held, err := held(c)
		if err != nil {
			return err
		}
		for address, handle := range held {
			if !living[address] {
				return fmt.Errorf("%s is assigned as %s to no pod", address, handle)
			}
		}
		for address := range living {
			if held[address] == "" {
				t.Errorf("%s of a pod is not assigned", address)
			}
		}
		for _, node := range c.Names {
			for address := range addresses(c, node) {
				if !living[address] {
					return fmt.Errorf("%s routes to %s, which no pod has", node, address)
				}
			}
			out, err := c.NodeExec(node, "ip", "-o", "link", "show", "type", "veth")
			if links := strings.Count(out, " cali"); err != nil || links > len(living) {
				return fmt.Errorf("%s has %d links to pods: %v", node, links, err)
			}
		}
		return nil
	})
}

// held are the handles of the addresses that are assigned to pods, in all
// blocks.
func held(c *cluster.Cluster) (map[string]string, error) {
	out, err := c.TryKubectl("get", "ipamblocks.projectcalico.org", "-o", "json")
	if err != nil {
		return nil, errAwaited(out, err)
	}
	var list struct {
		Items []struct {
			Spec struct {
				CIDR        netip.Prefix
				Allocations []*int
				Attributes  []struct {
					Handle   string `json:"handle_id"`
					Released string `json:"releasedAt"`
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, errAwaited(out, err)
	}
	handles := map[string]string{}
	for _, block := range list.Items {
		address := block.Spec.CIDR.Addr()
		for _, at := range block.Spec.Allocations {
			if at != nil {
				a := block.Spec.Attributes[*at]
				if network, _, _ := strings.Cut(a.Handle, "."); a.Released == "" && network != "ocicat-reserve" {
					handles[address.String()] = a.Handle
				}
			}
			address = address.Next()
		}
	}
	return handles, nil
}
