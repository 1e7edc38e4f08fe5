// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/test/kubernetes/cluster"
)

// plugin is kubectl ocicat on a machine outside the cluster, of somebody who
// is no root there.
type plugin struct {
	t       *testing.T
	c       *cluster.Cluster
	dir     string
	program string
}

// newPlugin builds the program before the nodes start, which see it too.
func newPlugin(t *testing.T) plugin {
	t.Helper()
	dir, err := os.MkdirTemp("", "ocicat-plugin-") // where nobody may go, unlike t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(filepath.Join(dir, "dumps"), 0o700), os.Chmod(filepath.Join(dir, "dumps"), 0o777)); err != nil {
		t.Fatal(err)
	}
	p := plugin{t: t, dir: dir, program: filepath.Join(dir, "kubectl-ocicat")}
	if out, err := exec.Command("go", "build", "-o", p.program, "../../cmd/ocicat").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return p
}

// as is the user who has the rights of a service account.
func (p plugin) as(account string) user {
	p.t.Helper()
	file := filepath.Join(p.dir, account)
	token := strings.TrimSpace(p.c.Kubectl("-n", "default", "create", "token", account))
	text := fmt.Sprintf("current-context: x\ncontexts: [{name: x, context: {cluster: x, user: x}}]\nclusters: [{name: x, cluster: {server: %q, insecure-skip-tls-verify: true}}]\nusers: [{name: x, user: {token: %q}}]\n",
		"https://"+p.c.Address(p.c.Names[0])+":6443", token)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
	return user{p, file}
}

// user is somebody with a kubeconfig.
type user struct {
	plugin
	kubeconfig string
}

// run runs a verb; it returns what it printed and the exit code.
func (u user) run(args ...string) (out string, code int) {
	u.t.Helper()
	out, err := u.c.Client(append([]string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
		"env", "-i", "KUBECONFIG=" + u.kubeconfig, u.program}, args...)...)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		u.t.Fatal(err)
	}
	if exit != nil {
		code = exit.ExitCode()
	}
	return out, code
}

// users are people of two roles.
const users = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: viewer, namespace: default}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: tracer, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: test-viewers}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: ocicat-viewer}
subjects: [{kind: ServiceAccount, name: viewer, namespace: default}, {kind: ServiceAccount, name: tracer, namespace: default}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: test-tracers, namespace: kube-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: ocicat-trace}
subjects: [{kind: ServiceAccount, name: tracer, namespace: default}]
`

// TestKubectlOcicat: from a user's machine, without root there and with the
// rights of a role alone, pods of two nodes are traced; a node that is down is
// named, and the rest is shown. On a node it works without the API server.
func TestKubectlOcicat(t *testing.T) {
	p := newPlugin(t)
	c := cluster.Up(t, cluster.Options{})
	p.c = c
	c.Install()
	c.AwaitPods(time.Minute, "kube-system", "k8s-app=ocicat-node", len(c.Names))
	from, to := c.Article(t)
	c.Apply(users)
	master, worker := c.Names[0], c.Names[1]
	viewer, tracer := p.as("viewer"), p.as("tracer")
	c.Await(10*time.Second, "roles are joined from their parts", func() error {
		if out, _ := viewer.run("status"); !strings.Contains(out, "2/2 nodes ready") {
			return errors.New(out)
		}
		return nil
	})
	for _, test := range []struct {
		who  user
		verb string
		code int
		want []string
	}{
		{viewer, "get pools", 0, []string{"default-ipv4-ippool"}},
		{viewer, "bgp peers", 0, []string{"Established"}},
		{viewer, "bgp routes", 8, []string{"ClusterRole ocicat-tracer"}},
		{tracer, "bgp routes", 0, []string{master, worker, "installed"}},
		{tracer, "trace devops/" + from.Name + " devops/" + to.Name, 0, []string{"predicted and observed agree", "tunnel: none"}},
		{tracer, "trace " + to.IP + " " + from.IP, 0, []string{"predicted and observed agree"}},
		{tracer, "sysdump --file " + filepath.Join(p.dir, "dumps", "all"), 0, []string{" files"}},
		{tracer, "drain " + worker, 8, []string{"ClusterRole ocicat-admin"}},
	} {
		begin := time.Now()
		out, code := test.who.run(strings.Fields(test.verb)...)
		t.Logf("%s: %.1f s\n%s", test.verb, time.Since(begin).Seconds(), out)
		for _, want := range test.want {
			if code != test.code || !strings.Contains(out, want) {
				t.Errorf("%s: exit %d\n%swant %d, %s", test.verb, code, out, test.code, want)
			}
		}
	}

	c.KillNode(worker)
	begin := time.Now()
	out, code := tracer.run("bgp", "routes")
	took := time.Since(begin)
	t.Logf("with a dead node: %.1f s\n%s", took.Seconds(), out)
	if code != 10 || !strings.Contains(out, master) || !strings.Contains(out, "warning: "+worker+": ") || took > 10*time.Second {
		t.Errorf("with a dead node: exit %d after %v\n%s", code, took, out)
	}

	c.KillComponent("kube-apiserver")
	if out, err := c.NodeExec(master, p.program, "bgp", "routes"); err != nil || !strings.Contains(out, master) {
		t.Errorf("on a node, without API server: %v\n%s", err, out)
	}
}
