// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/test/kubernetes/cluster"
)

// burst are the pods that the loaded agent gets at once.
const burst = 30

// TestAgentLoad measures what whole agents cost the API server while nothing
// happens, and for each pod that comes and goes.
func TestAgentLoad(t *testing.T) {
	c, _ := installed(t, cluster.Options{})
	node := c.Names[1]
	c.Await(time.Minute, "the agent has told that it is ready", func() error {
		out, err := c.TryKubectl("get", "nodestatuses", node, "-o", "jsonpath={.status.ready}")
		if err != nil || out != "true" {
			return errAwaited(out, err)
		}
		return nil
	})
	before := measure(t, c, node)
	wait := time.NewTimer(2 * time.Minute) // two of its reports
	<-wait.C
	idle := measure(t, c, node).minus(before)
	t.Logf("idle, a minute: %.0f requests of both agents and the controller for our resources (%s), %.1f kB from an agent and %.1f kB to it, while kubelets wrote %.0f times of their Nodes",
		idle.requests/2, idle.top(2), idle.sent/2000, idle.received/2000, idle.kubelets/2)
	if each := idle.received / max(idle.kubelets, 1); idle.requests/2 > 8 || idle.sent/2 > 20_000 || each > 20_000 {
		t.Error("an idle agent costs too much")
	}

	before = measure(t, c, node)
	c.Apply(fmt.Sprintf(strings.Replace(crowd, "spec: {\n", "spec: {nodeName: "+node+",\n", 1), burst))
	c.AwaitPods(5*time.Minute, "default", "app=crowd", burst)
	c.Kubectl("delete", "deployment", "crowd", "--wait=false")
	c.Await(2*time.Minute, "all are gone", func() error {
		pods, err := c.TryPods("default", "app=crowd")
		if err != nil || len(pods) > 0 {
			return errAwaited(fmt.Sprint(len(pods)), err)
		}
		return nil
	})
	c.Await(30*time.Second, "their handles are gone", func() error {
		out, err := c.TryKubectl("get", "ipamhandles.projectcalico.org", "-o", "name")
		if n := strings.Count(out, "\n"); err != nil || n >= burst {
			return errAwaited(out, err)
		}
		return nil
	})
	load := measure(t, c, node).minus(before)
	t.Logf("each of %d pods, come and gone: %.1f requests for our resources (%s), %.1f kB to the agent and %.1f kB from it",
		burst, load.requests/burst, load.top(burst), load.received/burst/1000, load.sent/burst/1000)
	if load.requests/burst > 8 || load.received/burst > 100_000 {
		t.Error("a pod costs too much")
	}
}

// spent is what was asked of the API server.
type spent struct {
	requests       float64            // for our resources, watches aside
	kinds          map[string]float64 // the same, by verb and resource
	kubelets       float64            // statuses that kubelets wrote of their Nodes
	received, sent float64            // bytes of one agent's connections
}

// written finds what kubelets write of their Nodes there.
var written = regexp.MustCompile(`(?m)^apiserver_request_total\{.*group="",.*resource="nodes".*subresource="status".*verb="PATCH".*\} (\S+)$`)

// counted finds requests for our groups in the API server's metrics.
var counted = regexp.MustCompile(`(?m)^apiserver_request_total\{.*group="(?:ocicat\.net|projectcalico\.org)".*resource="([a-z]+)".*verb="([A-Z]+)".*\} (\S+)$`)

// ofAgent finds the bytes of connections in what ss prints.
var ofAgent = regexp.MustCompile(`bytes_(sent|received):([0-9]+)`)

// measure reads the counters. An agent's connections live as long as it does.
func measure(t *testing.T, c *cluster.Cluster, node string) spent {
	t.Helper()
	s := spent{kinds: map[string]float64{}}
	metrics := c.Kubectl("get", "--raw", "/metrics")
	for _, m := range written.FindAllStringSubmatch(metrics, -1) {
		n, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		s.kubelets += n
	}
	for _, m := range counted.FindAllStringSubmatch(metrics, -1) {
		n, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			t.Fatal(err)
		}
		if m[2] != "WATCH" {
			s.requests += n
			s.kinds[m[2]+" "+m[1]] += n
		}
	}
	lines := strings.Split(c.Node(node, "ss -tinpOH state established"), "\n")
	found := 0
	for _, line := range lines {
		if !strings.Contains(line, `"ocicatd"`) || !strings.Contains(line, ":443 ") && !strings.Contains(line, ":6443 ") {
			continue
		}
		found++
		for _, m := range ofAgent.FindAllStringSubmatch(line, -1) {
			n, err := strconv.ParseFloat(m[2], 64)
			if err != nil {
				t.Fatal(err)
			}
			if m[1] == "sent" {
				s.sent += n
			} else {
				s.received += n
			}
		}
	}
	if found == 0 || s.requests == 0 {
		t.Fatalf("nothing is counted:\n%s", strings.Join(lines, "\n"))
	}
	return s
}

func (s spent) minus(before spent) spent {
	d := spent{requests: s.requests - before.requests, kubelets: s.kubelets - before.kubelets, kinds: map[string]float64{}, received: s.received - before.received, sent: s.sent - before.sent}
	for kind, n := range s.kinds {
		if n -= before.kinds[kind]; n > 0 {
			d.kinds[kind] = n
		}
	}
	return d
}

// top lists the kinds of requests, each divided by n.
func (s spent) top(n float64) string {
	var list []string
	for kind, count := range s.kinds {
		list = append(list, fmt.Sprintf("%.1f %s", count/n, kind))
	}
	return strings.Join(list, ", ")
}
