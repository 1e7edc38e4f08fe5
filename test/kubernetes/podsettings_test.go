// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/netns"
	"github.com/ocicat-net/ocicat/test/kubernetes/cluster"
)

// bandwidth is what a pod asks for each way, in bits per second.
const bandwidth = 80e6

// configured is a pod that asks for an address, a MAC address, a port of its
// node, and at most 80 Mbit/s each way.
const configured = `{apiVersion: v1, kind: Pod, metadata: {name: configured, labels: {app: configured}, annotations: {
  cni.projectcalico.org/ipAddrs: '["172.16.200.7"]', cni.projectcalico.org/hwAddr: "0e:00:00:00:00:77", kubernetes.io/ingress-bandwidth: 80M, kubernetes.io/egress-bandwidth: 80M}}, spec: {
  nodeName: %s, terminationGracePeriodSeconds: 0, containers: [{name: c, image: docker.io/library/busybox:latest, imagePullPolicy: IfNotPresent,
  ports: [{containerPort: 80, hostPort: 8081}], command: [sh, -c, "mkdir /www && echo configured >/www/index.html && httpd -f -p 80 -h /www"]}]}}`

// TestPodSettings is what a pod asks for by annotations, its own and its
// namespace's, and its host port, as containerd hands it to the plugins.
func TestPodSettings(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) { podSettings(t, v.options) })
	}
}

func podSettings(t *testing.T, o cluster.Options) {
	c, pods := installed(t, o)
	node := c.Names[1]
	c.Apply(fmt.Sprintf(configured, node))
	p := c.AwaitPods(time.Minute, "default", "app=configured", 1)[0]
	if p.IP != "172.16.200.7" {
		t.Errorf("status.podIP is %s, want the address asked for", p.IP)
	}
	if got := mac(c, p); got != "0e:00:00:00:00:77" {
		t.Errorf("the MAC address is %s, want that asked for", got)
	}
	t.Run("host port", func(t *testing.T) {
		c := c.With(t)
		c.Await(10*time.Second, "the host port answers outside", func() error {
			out, err := fetch(c, node, "8081")
			if err != nil || strings.TrimSpace(out) != "configured" {
				return errAwaited(out, err)
			}
			return nil
		})
		if out, err := fetch(c, node, "8082"); err == nil {
			t.Errorf("twin: a port of no pod answers %s", out)
		}
	})
	t.Run("annotations", func(t *testing.T) { told(t, c.With(t), p) })
	t.Run("bandwidth", func(t *testing.T) { limited(t, c.With(t), p, pods[node], pods[c.Names[0]]) })
	t.Run("pools", func(t *testing.T) { chosenPools(t, c.With(t), node, pods[c.Names[0]]) })
}

// fetch is the page on a node's port, from outside the cluster.
func fetch(c *cluster.Cluster, node, port string) (string, error) {
	return c.Client("curl", "-sf", "-m", "2", "http://"+net.JoinHostPort(c.Address(node), port))
}

// told checks what the agent writes on a pod.
func told(t *testing.T, c *cluster.Cluster, p cluster.Pod) {
	words := strings.Fields(c.Node(p.Node, fmt.Sprintf(`ctr -n k8s.io containers ls -q labels."io.kubernetes.pod.uid"==%s,labels."io.cri-containerd.kind"==sandbox`, p.UID)))
	if len(words) == 0 {
		t.Fatal("the pod has no sandbox")
	}
	sandbox := words[len(words)-1] // containerd 2 may warn before
	want := map[string]string{"podIP": p.IP + "/32", "podIPs": p.IP + "/32", "containerID": sandbox}
	c.Await(10*time.Second, "the annotations of the pod", func() error {
		notes, err := annotations(c, p)
		for name, value := range want {
			if got := notes["cni.projectcalico.org/"+name]; got != value {
				err = errors.Join(err, fmt.Errorf("%s is %q, want %q", name, got, value))
			}
		}
		return err
	})
	agent := c.Agents()[p.Node]
	notes, err := annotations(c, agent)
	if _, found := notes["cni.projectcalico.org/podIP"]; found || err != nil {
		t.Errorf("twin: a pod in its node's network has annotations %v, %v", notes, err)
	}
}

// annotations are a pod's.
func annotations(c *cluster.Cluster, p cluster.Pod) (map[string]string, error) {
	out, err := c.TryKubectl("get", "pod", "-n", p.Namespace, p.Name, "-o", "json")
	if err != nil {
		return nil, errAwaited(out, err)
	}
	var pod struct {
		Metadata struct{ Annotations map[string]string }
	}
	err = json.Unmarshal([]byte(out), &pod)
	return pod.Metadata.Annotations, err
}

// limited measures a limited pod and a free one on its node, both ways, against
// a pod of another node.
func limited(t *testing.T, c *cluster.Cluster, p, free, far cluster.Pod) {
	if out := c.Node(p.Node, "tc qdisc show dev "+hostEnd(p)); !strings.Contains(out, "tbf") || !strings.Contains(out, "rate 80Mbit") {
		t.Errorf("the pod's host end is not limited: %s", out)
	}
	for _, way := range []struct {
		name     string
		from, to cluster.Pod
		limited  bool
	}{
		{"into the pod", far, p, true},
		{"out of the pod", p, far, true},
		{"twin, into a pod without a limit", far, free, false},
		{"twin, out of a pod without a limit", free, far, false},
	} {
		got := transfer(t, c, way.from, way.to)
		t.Logf("%s: %.1f Mbit/s", way.name, got/1e6)
		if way.limited && (got > 1.3*bandwidth || got < bandwidth/4) || !way.limited && got < 3*bandwidth {
			t.Errorf("%s: %.1f Mbit/s, limited %v to %.0f", way.name, got/1e6, way.limited, bandwidth/1e6)
		}
	}
}

const (
	// piece is how many bytes are timed at a time, most how many are sent: far
	// beyond the burst that containerd asks for, 2³²-1 bits.
	piece, most = 8 << 20, 1 << 30
	// settled is how many pieces near the limit end a transfer.
	settled = 3
)

// transfer sends from one pod to another until the rate has come down to the
// limit, or most bytes, and returns the rate at which the last pieces were
// received, in bits per second.
func transfer(t *testing.T, c *cluster.Cluster, from, to cluster.Pod) float64 {
	t.Helper()
	var server net.Listener
	var conn net.Conn
	err := netns.Do(c.Netns(to), func() (err error) {
		server, err = net.Listen("tcp4", to.IP+":0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	err = netns.Do(c.Netns(from), func() (err error) {
		conn, err = net.DialTimeout("tcp4", server.Addr().String(), 5*time.Second)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		buf := make([]byte, 1<<20)
		for range most / len(buf) {
			if _, err := conn.Write(buf); err != nil {
				return // the receiver has seen enough
			}
		}
	}()
	defer func() { conn.Close(); <-sent }()
	in, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := in.SetReadDeadline(time.Now().Add(90 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return rateOf(t, in)
}

// rateOf is the mean rate of the last pieces, in bits per second.
func rateOf(t *testing.T, in io.Reader) float64 {
	t.Helper()
	var last [settled]time.Duration
	slow := 0
	for i := range most / piece {
		begin := time.Now()
		if _, err := io.CopyN(io.Discard, in, piece); err != nil {
			t.Fatalf("after %d MiB: %v", i*piece>>20, err)
		}
		took := time.Since(begin)
		last[i%settled] = took
		if piece*8/took.Seconds() > 1.3*bandwidth {
			slow = 0
		} else if slow++; slow == settled {
			break
		}
	}
	var sum time.Duration
	for _, took := range last {
		sum += took
	}
	return settled * piece * 8 / sum.Seconds()
}

// namespaces are one whose pods are of pool named, and one that pool red
// selects.
const namespaces = `
{apiVersion: v1, kind: Namespace, metadata: {name: annotated, annotations: {cni.projectcalico.org/ipv4pools: '["named"]'}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: red, labels: {team: red}}}
`

// idle is a pod of a namespace, with annotations, on a node.
const idle = `{apiVersion: v1, kind: Pod, metadata: {namespace: %s, name: %s, labels: {app: %[2]s}, annotations: {%s}}, spec: {nodeName: %s, terminationGracePeriodSeconds: 0,
  containers: [{name: c, image: docker.io/library/busybox:latest, imagePullPolicy: IfNotPresent, command: [sleep, "100000"]}]}}`

// chosenPools makes pods whose pool is chosen by an annotation, by their
// namespace's, and by its labels, and the twins of each for which it is not.
func chosenPools(t *testing.T, c *cluster.Cluster, node string, far cluster.Pod) {
	const usual, named, red = "172.16.0.0/16", "10.50.0.0/24", "10.51.0.0/24"
	c.Apply(pool("named", "cidr: "+named+", blockSize: 28, assignmentMode: Manual"))
	c.Apply(pool("red", "cidr: "+red+`, blockSize: 28, namespaceSelector: "team == 'red'"`))
	c.Kubectl("patch", "ippools.projectcalico.org", "default-ipv4-ippool", "--type=merge", "-p", `{"spec":{"namespaceSelector":"!has(team)"}}`)
	c.Apply(namespaces)
	for _, p := range []struct{ namespace, name, annotations, cidr string }{
		{"default", "by-annotation", `cni.projectcalico.org/ipv4pools: '["named"]'`, named},
		{"annotated", "by-namespace", "", named},
		{"annotated", "own-wins", `cni.projectcalico.org/ipv4pools: '["` + red + `"]'`, red},
		{"red", "by-selector", "", red},
		{"default", "twin", "", usual},
	} {
		t.Run(p.name, func(t *testing.T) {
			c := c.With(t)
			c.Await(20*time.Second, "the pod is made", func() error {
				out, err := c.TryApply(fmt.Sprintf(idle, p.namespace, p.name, p.annotations, node)) // needs the namespace's account
				if err != nil {
					return errAwaited(out, err)
				}
				return nil
			})
			got := c.AwaitPods(time.Minute, p.namespace, "app="+p.name, 1)[0]
			if addr, err := netip.ParseAddr(got.IP); err != nil || !netip.MustParsePrefix(p.cidr).Contains(addr) {
				t.Errorf("status.podIP is %s, want one of %s", got.IP, p.cidr)
			}
			c.Await(10*time.Second, "the pod answers another node's", func() error {
				out, err := c.Shell(far, "ping -c1 -W1 "+got.IP)
				if err != nil {
					return errAwaited(out, err)
				}
				return nil
			})
		})
	}
}
