// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"
)

// Repository is the product's image without its tag.
const Repository = "ghcr.io/ocicat-net/ocicat"

// images are the product's images by tag, each built once for a process.
var images = struct {
	sync.Mutex
	archive map[string]string
}{archive: map[string]string{}}

// tagged finds the product's image in a manifest.
var tagged = regexp.MustCompile(regexp.QuoteMeta(Repository) + `:([A-Za-z0-9._-]+)`)

// Product is the manifest that users apply, and the tag of its image.
func (c *Cluster) Product() (manifest, tag string) {
	c.t.Helper()
	manifest = c.read("../../deploy/ocicat.yaml")
	found := tagged.FindStringSubmatch(manifest)
	if found == nil {
		c.t.Fatalf("deploy/ocicat.yaml has no image %s", Repository)
	}
	return manifest, found[1]
}

// LoadProduct builds the product's image from the sources, under this tag, and
// puts it on every node.
func (c *Cluster) LoadProduct(tag string) {
	c.t.Helper()
	images.Lock()
	defer images.Unlock()
	if images.archive[tag] == "" {
		dir := filepath.Join(filepath.Dir(filepath.Dir(c.dir)), "product", tag)
		build := exec.CommandContext(c.t.Context(), "go", "-C", source("../../tools/image"), "run", ".", "-arch", runtime.GOARCH, "-tag", tag, "-o", dir)
		if out, err := build.CombinedOutput(); err != nil {
			c.t.Fatalf("build image: %v\n%s", err, out)
		}
		images.archive[tag] = filepath.Join(dir, "ocicat-"+runtime.GOARCH+".tar")
	}
	c.must("image", "load", images.archive[tag])
}

// Install loads the product's image, applies its manifest and waits until all
// nodes are Ready; it returns the time from the beginning of apply.
func (c *Cluster) Install() time.Duration {
	c.t.Helper()
	manifest, tag := c.Product()
	c.LoadProduct(tag)
	begin := time.Now()
	c.ApplyProduct(manifest)
	c.NodesReady(time.Minute)
	return time.Since(begin)
}

// ApplyProduct applies the product's manifest as its users do.
func (c *Cluster) ApplyProduct(manifest string) {
	c.t.Helper()
	if out, err := c.TryApply(manifest); err != nil {
		c.t.Fatalf("kubectl apply -f deploy/ocicat.yaml: %v\n%s", err, out)
	}
}

// Agents are the pods of the product's DaemonSet, by node.
func (c *Cluster) Agents() map[string]Pod {
	c.t.Helper()
	agents := map[string]Pod{}
	for _, p := range c.Pods("kube-system", "k8s-app=ocicat-node") {
		agents[p.Node] = p
	}
	return agents
}

// AgentPID is the process of a node's agent as this machine numbers it.
func (c *Cluster) AgentPID(node string) (int, error) {
	ns, err := os.Readlink(filepath.Join("/proc", c.pid(node), "ns/net"))
	if err != nil {
		return 0, err
	}
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, proc := range procs {
		comm, _ := os.ReadFile(filepath.Join(proc, "comm"))
		at, _ := os.Readlink(filepath.Join(proc, "ns/net"))
		cmdline, _ := os.ReadFile(filepath.Join(proc, "cmdline"))
		if strings.TrimSpace(string(comm)) == "ocicatd" && at == ns && !strings.Contains(string(cmdline), "\x00controller") {
			var pid int
			_, err := fmt.Sscan(filepath.Base(proc), &pid)
			return pid, err
		}
	}
	return 0, fmt.Errorf("no agent runs on %s", node)
}
