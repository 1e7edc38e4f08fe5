// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/test/kubernetes/cluster"
)

// testers is who has the rights that docs/connectivity.md lists.
const testers = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: tester, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: test-testers}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: connectivity-tester}
subjects: [{kind: ServiceAccount, name: tester, namespace: default}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: test-testers, namespace: kube-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: ocicat-trace}
subjects: [{kind: ServiceAccount, name: tester, namespace: default}]
`

// documentedRole is the ClusterRole of docs/connectivity.md.
func documentedRole(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/connectivity.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "```yaml\n")
	role, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatal("docs/connectivity.md has no role")
	}
	return role
}

// TestConnectivity: a healthy cluster passes, each fault is named, and nothing
// is left, also after an interrupt.
func TestConnectivity(t *testing.T) {
	p := newPlugin(t)
	c := cluster.Up(t, cluster.Options{})
	p.c = c
	c.Install()
	c.AwaitPods(time.Minute, "kube-system", "k8s-app=ocicat-node", len(c.Names))
	c.Apply(documentedRole(t))
	c.Apply(testers)
	master, worker := c.Names[0], c.Names[1]
	user := p.as("tester")
	c.Await(10*time.Second, "the role is bound", func() error {
		if out, code := user.run("connectivity", "test", "--nodes", "nobody"); code != 4 {
			return errAwaited(out, nil)
		}
		return nil
	})
	gone := func(t *testing.T) {
		t.Helper()
		if left := c.Kubectl("get", "namespaces", "-l", "ocicat.net/connectivity", "-o", "name"); left != "" {
			t.Errorf("left: %s", left)
		}
	}
	test := func(t *testing.T, code int, wants ...string) {
		t.Helper()
		out, got := user.run("connectivity", "test")
		if got != code {
			t.Errorf("exit code %d, want %d\n%s", got, code, out)
		}
		for _, want := range wants {
			if !strings.Contains(out, want) {
				t.Errorf("%q is missing in\n%s", want, out)
			}
		}
		gone(t)
	}
	t.Run("healthy", func(t *testing.T) {
		test(t, 0, "pod to pod      2 of 2", "full packets    2 of 2", "1500", "pod to service  2 of 2", "pod to name     2 of 2", "pod to API      2 of 2", "pod to outside  2 of 2")
	})
	t.Run("a filter on the way", func(t *testing.T) {
		c.Node(worker, "nft add table ip broken ; add chain ip broken forward { type filter hook forward priority 0 ; } ; add rule ip broken forward iifname ens160 ip protocol udp drop")
		defer c.Node(worker, "nft delete table ip broken")
		test(t, 10, fmt.Sprintf("pod to pod, %s to %s: udp: ", master, worker), fmt.Sprintf("pod to pod, %s to %s: udp: ", worker, master))
	})
	t.Run("a way too narrow", func(t *testing.T) {
		c.Node(worker, "nft add table ip broken ; add chain ip broken forward { type filter hook forward priority 0 ; } ; add rule ip broken forward iifname ens160 ip length > 1400 drop")
		defer c.Node(worker, "nft delete table ip broken")
		lost := "udp: a packet of 1500 bytes, the MTU: no answer"
		test(t, 10, "pod to pod      2 of 2", fmt.Sprintf("full packets, %s to %s: %s", master, worker, lost), fmt.Sprintf("full packets, %s to %s: %s", worker, master, lost))
	})
	t.Run("a node that takes no pods", func(t *testing.T) {
		c.Kubectl("taint", "node", worker, "example.org/x=:NoSchedule")
		test(t, 0, "pod to pod      2 of 2")
	})
	t.Run("interrupted", func(t *testing.T) { interrupted(t, user, gone) })
	t.Run("without the right", func(t *testing.T) {
		c.Kubectl("delete", "clusterrolebinding", "test-testers")
		c.Await(10*time.Second, "the test is refused", func() error {
			out, code := user.run("connectivity", "test")
			if code == 0 || !strings.Contains(out, "ClusterRole cluster-admin") {
				return errAwaited(out, nil)
			}
			return nil
		})
	})
}

// interrupted ends a test when its namespace is there, and waits until it is
// not.
func interrupted(t *testing.T, u user, gone func(*testing.T)) {
	file := filepath.Join(u.dir, "dumps", "pid")
	type result struct {
		out string
		err error
	}
	done := make(chan result, 1)
	go func() {
		out, err := u.c.Client("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", "-i", "KUBECONFIG="+u.kubeconfig,
			"/bin/sh", "-c", "echo $$ >"+file+"; exec "+u.program+" connectivity test --keep")
		done <- result{out, err}
	}()
	u.c.Await(30*time.Second, "a namespace is made", func() error {
		if found := u.c.Kubectl("get", "namespaces", "-l", "ocicat.net/connectivity", "-o", "name"); found == "" {
			return errors.New("none yet")
		}
		return nil
	})
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	r := <-done
	if r.err == nil || !strings.Contains(r.out, "interrupted: removing namespace ocicat-connectivity-") {
		t.Errorf("%v\n%s", r.err, r.out)
	}
	gone(t)
}
