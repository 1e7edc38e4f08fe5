// SPDX-License-Identifier: Apache-2.0

// Package ipamchoice proves which addresses pods get in labs of real agents:
// those they ask for, those that are borrowed, and none that is refused.
package ipamchoice

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/convert"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/resource"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/etcd"
	"github.com/ocicat-net/ocicat/test/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

const master, worker, third = "k8s-master-1", "k8s-node-1", "k8s-node-2"

// world is a lab with a pod on each node, and address management as another
// client of its datastore.
type world struct {
	*labtest.Lab
	t     *testing.T
	store store.Store
	ipam  *ipam.Client
}

// up brings up a lab of that many nodes with a pool.
func up(t *testing.T, nodes int, pool string) *world {
	t.Helper()
	var pods []lab.PodSpec
	for i, node := range []string{master, worker, third}[:nodes] {
		pods = append(pods, lab.PodSpec{Namespace: "devops", Name: fmt.Sprint("pod-", i), Node: node})
	}
	w := &world{t: t, Lab: labtest.Up(t, nodes, pods, func(top *lab.Topology) { top.Pool = netip.MustParsePrefix(pool) })}
	var err error
	if w.store, err = etcd.New(etcd.Config{Endpoints: w.state().Endpoints}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.store.Close() })
	w.ipam = ipam.NewClient(ipam.ClientConfig{Store: w.store, Pools: w.pools, NodeLabels: func(context.Context, string) (map[string]string, error) { return nil, nil }})
	return w
}

func (w *world) state() *lab.State {
	w.t.Helper()
	s, err := w.State()
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) pools(ctx context.Context) ([]cluster.Pool, error) {
	entries, _, err := w.store.List(ctx, store.IPPool, "")
	if err != nil {
		return nil, err
	}
	var pools []cluster.Pool
	for _, e := range entries {
		object, err := resource.Decode(e)
		if err != nil {
			return nil, err
		}
		pool, err := convert.Pool(object.(*v3.IPPool))
		if err != nil {
			return nil, err
		}
		pools = append(pools, pool)
	}
	return pools, nil
}

// apply hands manifests to the command line.
func (w *world) apply(manifests string) {
	w.t.Helper()
	file := filepath.Join(w.t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(file, []byte(manifests), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if out, code := w.Ocicat("apply", "-f", file); code != 0 {
		w.t.Fatalf("apply: exit %d: %s", code, out)
	}
}

// add attaches a pod.
func (w *world) add(name, node string) lab.Pod {
	w.t.Helper()
	pod, err := w.AddPod(w.t.Context(), lab.PodSpec{Namespace: "devops", Name: name, Node: node})
	if err != nil {
		w.t.Fatalf("ADD %s: %v (%s)", name, err, fault.HintOf(err))
	}
	return pod
}

// fillUp takes every free address of the node's own blocks.
func (w *world) fillUp(node string, max int) {
	w.t.Helper()
	_, err := w.ipam.AutoAssign(w.t.Context(), ipam.AssignRequest{
		Node: node, Handle: "filler-" + node, Attrs: map[string]string{"node": node}, Use: ipam.Workload, Family: 4, Num: max, MaxBlocks: 1,
	})
	if err != nil && !fault.Is(err, fault.Exhausted) {
		w.t.Fatal(err)
	}
}

// blockOf is the one block of a node.
func (w *world) blockOf(node string) netip.Prefix {
	w.t.Helper()
	uses, err := w.ipam.Utilization(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, u := range uses {
		for _, b := range u.Blocks {
			if b.Affinity == "host:"+node {
				return b.CIDR
			}
		}
	}
	w.t.Fatalf("%s has no block", node)
	return netip.Prefix{}
}

// reaches reports whether a node, by its own address, gets an answer of addr.
func (w *world) reaches(node string, addr netip.Addr) bool {
	w.t.Helper()
	code, err := w.ExecNode(w.t.Context(), node, []string{"ping", "-c", "1", "-W", "1", addr.String()}, lab.Streams{})
	return err == nil && code == 0
}

// eventually waits for what a condition says.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	nstest.Eventually(w.t, 10*time.Second, ok, what)
}

// invoke calls the plugin on a node as a runtime does, for the pod in netns;
// stdin are members of the configuration beside the usual ones.
func (w *world) invoke(verb, node, container, netns, members string) (answer string, code int) {
	w.t.Helper()
	cmd := exec.Command(filepath.Join(w.Bin, "ocicat-cni"))
	cmd.Env = []string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + container, "CNI_IFNAME=eth0", "CNI_NETNS=" + netns, "CNI_PATH=" + w.Bin,
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=devops;K8S_POD_NAME=" + container,
	}
	socket := filepath.Join(filepath.Dir(w.AdminSocket(node)), "cni.sock")
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"cniVersion":"1.1.0","name":"k8s-pod-network","type":"ocicat-cni","socket":%q%s}`, socket, members))
	out, err := cmd.Output()
	if cmd.ProcessState == nil {
		w.t.Fatalf("%s: %v", verb, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}
