// SPDX-License-Identifier: Apache-2.0

// Package cluster gives tests a Kubernetes cluster of their own: the lab of
// test/kubernetes/lab, brought up for one test and removed with it. Nodes and
// the programs of the control plane can be killed and started; pods, services
// and the product are handled as an administrator does, by kubectl.
package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/nstest"
)

// EnvDir names the directory with what the lab's build made: bin and img.
const EnvDir = "OCICAT_K8S"

// What a command may take, unless it says otherwise.
const commandLimit = 3 * time.Minute

// Options are how a cluster differs from the usual one: two nodes in one rack,
// no network, kube-proxy with nftables, containerd 2.
type Options struct {
	// Nodes is how many there are, at most 4; 0 is 2.
	Nodes int
	// CNI is "ptp" for the reference plugins with static routes, or "".
	CNI string
	// Proxy is the mode of kube-proxy, "nftables" or "iptables"; "" is the first.
	Proxy string
	// Containerd is "debian" for the distribution's 1.6, or "".
	Containerd string
	// Racks is 2 to put every second node behind a router.
	Racks int
}

// Cluster is a cluster that belongs to a test.
type Cluster struct {
	// Names are the nodes', the one with the control plane first.
	Names []string
	t     testing.TB
	dir   string // state
	env   []string
}

var clusters atomic.Int64 // gives every cluster of a process another name

// Up brings up a cluster, which goes with the test. Nodes without a network
// are registered and not Ready.
func Up(t testing.TB, o Options) *Cluster {
	t.Helper()
	nstest.RequireRoot(t)
	built, err := buildDir()
	if err != nil {
		t.Fatal(err)
	}
	sweep(t, built)
	id := fmt.Sprintf("k%d-%d", os.Getpid(), clusters.Add(1))
	c := &Cluster{t: t, dir: filepath.Join(built, "clusters", id)}
	c.env = append(os.Environ(), EnvDir+"="+built, "STATE="+c.dir, "ID="+id)
	for name, value := range map[string]string{"CNI": o.CNI, "PROXY": o.Proxy, "CTRD": o.Containerd, "NN": number(o.Nodes), "RACKS": number(o.Racks)} {
		if value != "" {
			c.env = append(c.env, name+"="+value)
		}
	}
	t.Cleanup(c.down)
	c.must("up")
	c.Names = strings.Fields(c.Kubectl("get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"))
	return c
}

func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// needed are files that are there once the lab is built.
var needed = []string{"bin/kubernetes", "bin/go/containerd", "bin/e2e.test", "img/pause.tar", "img/agnhost.tar"}

// Missing is an error that says what to do if the lab is not built.
func Missing() error {
	_, err := buildDir()
	return err
}

// buildDir is where the lab's programs are.
func buildDir() (string, error) {
	dir := os.Getenv(EnvDir)
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(cache, "ocicat", "kubernetes")
	}
	for _, file := range needed {
		if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
			return "", fmt.Errorf("the programs of a cluster are not built: %w; run \"make test-k8s\", or test/kubernetes/lab/cluster build, 12 minutes the first time", err)
		}
	}
	return dir, nil
}

// source is a path in the sources, beside this file's directory.
func source(path string) string {
	_, file, _, _ := runtime.Caller(0)
	if !filepath.IsAbs(file) { // built with -trimpath: tests run in their package's directory
		wd, err := os.Getwd()
		if err != nil {
			return path
		}
		for ; wd != "/"; wd = filepath.Dir(wd) {
			if at := filepath.Join(wd, "test/kubernetes", path); exists(at) {
				return at
			}
		}
	}
	return filepath.Join(filepath.Dir(file), "..", path)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// sweep removes clusters of processes that were killed.
func sweep(t testing.TB, built string) {
	t.Helper()
	states, _ := filepath.Glob(filepath.Join(built, "clusters", "k*-*"))
	for _, state := range states {
		id := filepath.Base(state)
		pid, err := strconv.Atoi(strings.TrimPrefix(strings.Split(id, "-")[0], "k"))
		if err != nil || syscall.Kill(pid, 0) == nil {
			continue
		}
		old := &Cluster{t: t, dir: state, env: append(os.Environ(), EnvDir+"="+built, "STATE="+state, "ID="+id)}
		old.must("down")
	}
}

// With is the cluster for a subtest: what fails, fails that.
func (c *Cluster) With(t testing.TB) *Cluster {
	inner := *c
	inner.t = t
	return &inner
}

func (c *Cluster) down() {
	if c.t.Failed() {
		c.report()
	}
	if out, err := c.run(context.Background(), "", "down"); err != nil {
		c.t.Errorf("cluster down: %v\n%s", err, out)
	}
}

// run runs a command of the lab and returns what it printed.
func (c *Cluster) run(ctx context.Context, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	cmd := c.command(ctx, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("after %v: %w", commandLimit, err)
	}
	return out.String(), err
}

// command is one of the lab's commands, in a process group of its own: what it
// started goes with it.
func (c *Cluster) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, source("lab/cluster"), args...)
	cmd.Env = c.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd
}

// must runs a command of the lab that has to succeed.
func (c *Cluster) must(args ...string) string {
	c.t.Helper()
	out, err := c.run(c.t.Context(), "", args...)
	if err != nil {
		c.t.Fatalf("cluster %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// Await waits until the condition has no error, looking ten times a second; a
// test in which it still has one after limit fails with it.
func (c *Cluster) Await(limit time.Duration, what string, condition func() error) time.Duration {
	c.t.Helper()
	begin := time.Now()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil {
			return time.Since(begin)
		}
		if time.Since(begin) > limit {
			c.t.Fatalf("%s: not within %v: %v", what, limit, err)
		}
		select {
		case <-c.t.Context().Done():
			c.t.Fatalf("%s: the test ended", what)
		case <-tick.C:
		}
	}
}
