// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// What the article's service listens on, and what its pods serve.
const (
	servicePort = "8888"
	page        = "served by "
)

// checkLimit is how long each thing a cluster does may take to come about.
const checkLimit = 30 * time.Second

// Article applies the article's manifest and checks what follows from it, each
// in a subtest: pods on two nodes that reach each other, the node port from
// outside on every node, the service's address and its name from a pod, and
// what kubectl does with pods. It returns the two pods.
func (c *Cluster) Article(t *testing.T) (a, b Pod) {
	t.Helper()
	c.Apply(c.Manifest("article.yaml"))
	pods := c.AwaitPods(time.Minute, "devops", "app=busybox", 2)
	a, b = pods[0], pods[1]
	t.Logf("%s %s on %s, %s %s on %s", a.Name, a.IP, a.Node, b.Name, b.IP, b.Node)
	if a.Node == b.Node {
		t.Errorf("both pods are on %s", a.Node)
	}
	for _, p := range pods {
		if out, err := c.Shell(p, "echo "+page+p.Name+" >/var/lib/www/index.html"); err != nil {
			t.Fatalf("write a page in %s: %v\n%s", p.Name, err, out)
		}
	}
	service := strings.Fields(c.Kubectl("get", "service", "-n", "devops", "busybox", "-o", "jsonpath={.spec.clusterIP} {.spec.ports[0].nodePort}"))
	c.check(t, "pod to pod", func() error { return c.ping(a, b.IP) })
	c.check(t, "pod to pod back", func() error { return c.ping(b, a.IP) })
	for _, node := range c.Names {
		url := "http://" + net.JoinHostPort(c.Address(node), service[1])
		c.check(t, "node port from outside on "+node, func() error {
			return served(c.Client("curl", "-sf", "-m", "2", url))
		})
		c.check(t, "node port from "+node, func() error {
			return served(c.NodeExec(node, "curl", "-sf", "-m", "2", url))
		})
	}
	for _, p := range pods {
		c.check(t, "service address from "+p.Node, func() error {
			return served(c.Shell(p, "timeout 2 wget -qO- http://"+net.JoinHostPort(service[0], servicePort)))
		})
		c.check(t, "service name from "+p.Node, func() error {
			return served(c.Shell(p, "timeout 2 wget -qO- http://busybox.devops.svc.cluster.local:"+servicePort))
		})
		c.check(t, "API server from "+p.Node, func() error {
			return failed(c.Shell(p, "nc -w 2 10.96.0.1 443 </dev/null"))
		})
	}
	c.check(t, "logs", func() error {
		out, err := c.TryKubectl("logs", "-n", "devops", a.Name)
		if err != nil || !strings.Contains(out, "response:") {
			return fmt.Errorf("%v: %s", err, out)
		}
		return nil
	})
	c.check(t, "port-forward", func() error { return served(c.forward(b)) })
	return a, b
}

// check is a subtest of something that comes about in a moment.
func (c *Cluster) check(t *testing.T, name string, condition func() error) {
	t.Helper()
	t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
		c.With(t).Await(checkLimit, name, condition)
	})
}

func (c *Cluster) ping(from Pod, address string) error {
	return failed(c.Shell(from, "ping -c1 -W2 "+address))
}

// failed is the error of a command, with what it printed.
func failed(out string, err error) error {
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// served is an error if a command did not print the page of an article's pod.
func served(out string, err error) error {
	if err != nil || !strings.Contains(out, page) {
		return fmt.Errorf("%v: got %q, want a page %q", err, out, page)
	}
	return nil
}

// forward fetches a pod's page through kubectl port-forward.
func (c *Cluster) forward(p Pod) (string, error) {
	script := `kubectl port-forward -n "$1" "pod/$2" :80 >"$3" 2>&1 & trap "kill $!" EXIT
until port=$(sed -n 's/^Forwarding from 127.0.0.1:\([0-9]*\).*/\1/p' "$3") && [ -n "$port" ]; do kill -0 $! || exit 1; done
curl -sf -m 2 "http://127.0.0.1:$port/"`
	return c.run(c.t.Context(), "", "run", "bash", "-c", script, "forward", p.Namespace, p.Name, c.dir+"/forward")
}
