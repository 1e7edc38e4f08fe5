// SPDX-License-Identifier: Apache-2.0

package away

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/store"
)

// What is wrong in the cluster's own words is said with its code and does not
// stop what is right.
func TestProblems(t *testing.T) {
	w := up(t)
	w.environment()
	w.natOutgoing()
	w.unknownObject()
	w.duplicateAddress()
	w.overlappingPool()
	w.talk("m", "w")
	w.add("last", master)
	w.talk("last", "w")
	w.clean()
}

// environment starts agents with variables they cannot follow: the first ends,
// the second says so.
func (w *world) environment() {
	w.t.Helper()
	out, code := w.program(worker, "CALICO_IPV4POOL_IPIP=Always")
	if code == 0 || !strings.Contains(out, "CALICO_IPV4POOL_IPIP") || !strings.Contains(out, "Always") || !strings.Contains(out, "hint:") {
		w.t.Errorf("IPIP=Always: exit %d\n%s", code, out)
	}
	w.t.Logf("IPIP=Always: exit %d: %s", code, out)
	w.killAgent(worker)
	w.during(worker, []string{"FELIX_IPTABLESREFRESHINTERVALL=60"}, func() {
		p := w.problem(worker, "OC5005", "FELIX_IPTABLESREFRESHINTERVALL")
		w.t.Logf("%s: %s", p.Code, p.Text)
	})
	w.startAgent(worker)
	w.established(worker, 5*time.Second)
	w.reunited("m", "w")
}

// during does f while an agent with more variables runs in a node.
func (w *world) during(node string, env []string, f func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan error, 1)
	argv := append([]string{"env", "NODENAME=" + node, "ETCD_ENDPOINTS=http://192.168.0.2:2379", "IP=autodetect"}, env...)
	go func() {
		_, err := w.ExecNode(ctx, node, append(argv, filepath.Join(w.Bin, "ocicatd")), lab.Streams{})
		ended <- err
	}()
	nstest.Eventually(w.t, 10*time.Second, func() bool { return w.admin(node).Ready(ctx) == nil }, "agent of ", node)
	f()
	cancel()
	if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
		w.t.Errorf("agent of %s: %v", node, err)
	}
}

// apply applies a manifest and returns what the command printed, with its exit
// code.
func (w *world) apply(manifest string) (string, int) {
	w.t.Helper()
	file := filepath.Join(w.t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return w.ocicat("apply", "-f", file)
}

func (w *world) natOutgoing() {
	w.t.Helper()
	const pool = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: nat}\nspec: {cidr: 10.77.0.0/16, blockSize: 26, natOutgoing: NAT, nodeSelector: '!all()'}\n"
	if out, code := w.apply(strings.Replace(pool, "NAT", "true", 1)); code != 0 {
		w.t.Fatalf("apply pool with natOutgoing, exit %d:\n%s", code, out)
	}
	w.masquerades(true)
	if out, code := w.apply(strings.Replace(pool, "NAT", "false", 1)); code != 0 {
		w.t.Fatalf("apply pool without natOutgoing, exit %d:\n%s", code, out)
	}
	w.masquerades(false)
}

// masquerades waits until the master masquerades what comes from the pool nat,
// or no longer does.
func (w *world) masquerades(want bool) {
	w.t.Helper()
	nstest.Eventually(w.t, 5*time.Second, func() bool {
		out, _ := w.nodeOutput(master, "nft", "list", "set", "inet", "ocicat", "masquerade-pools")
		return strings.Contains(out, "10.77.0.0/16") == want
	}, "masquerading from pool nat: ", want)
}

// unknownObject stores an object of a version nobody knows.
func (w *world) unknownObject() {
	w.t.Helper()
	s := w.store()
	key := store.Key{Kind: store.BGPPeer, Name: "future"}
	if _, err := s.Put(w.t.Context(), key, []byte(`{"apiVersion":"projectcalico.org/v9","kind":"BGPPeer","metadata":{"name":"future"},"spec":{}}`), 0); err != nil {
		w.t.Fatal(err)
	}
	p := w.problem(master, "OC5002", "future")
	w.t.Logf("%s: %s", p.Code, p.Text)
	const peer = "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: fine}\nspec: {peerIP: 192.168.0.99, asNumber: 64512}\n"
	if out, code := w.apply(peer); code != 0 {
		w.t.Fatalf("apply beside an unknown object, exit %d:\n%s", code, out)
	}
	w.problem(master, "OC1001", "192.168.0.99") // the others go on: it is tried
	for _, name := range []string{"future", "fine"} {
		if err := s.Delete(w.t.Context(), store.Key{Kind: store.BGPPeer, Name: name}, store.AnyRevision); err != nil {
			w.t.Fatal(err)
		}
	}
	w.solved(master, "OC5002")
	w.solved(master, "OC1001")
}

// duplicateAddress gives a third node the worker's address.
func (w *world) duplicateAddress() {
	w.t.Helper()
	s := w.store()
	key := store.Key{Kind: store.Node, Name: "twin"}
	if _, err := s.Put(w.t.Context(), key, []byte(`{"apiVersion":"projectcalico.org/v3","kind":"Node","metadata":{"name":"twin"},"spec":{"bgp":{"ipv4Address":"192.168.0.12/24"}}}`), 0); err != nil {
		w.t.Fatal(err)
	}
	p := w.problem(master, "OC4003", "twin", worker, workerAddr)
	w.t.Logf("%s: %s", p.Code, p.Text)
	if err := s.Delete(w.t.Context(), key, store.AnyRevision); err != nil {
		w.t.Fatal(err)
	}
	w.solved(master, "OC4003")
	w.established(master, 5*time.Second)
	w.reunited("m", "w")
}

// overlappingPool tries to make a pool of the nodes' own network.
func (w *world) overlappingPool() {
	w.t.Helper()
	out, code := w.apply("apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: clash}\nspec: {cidr: 192.168.0.0/20}\n")
	if code == 0 || !strings.Contains(out, "192.168.0.0/20") || !strings.Contains(out, "hint:") {
		w.t.Errorf("apply overlapping pool, exit %d:\n%s", code, out)
	}
	w.t.Logf("overlapping pool: exit %d: %s", code, out)
	s := w.store()
	key := store.Key{Kind: store.IPPool, Name: "clash"}
	if _, err := s.Put(w.t.Context(), key, []byte(`{"apiVersion":"projectcalico.org/v3","kind":"IPPool","metadata":{"name":"clash"},"spec":{"cidr":"192.168.0.0/20","blockSize":26,"nodeSelector":"all()"}}`), 0); err != nil {
		w.t.Fatalf("%v: the refused pool was stored", err)
	}
	p := w.problem(master, "OC2001", "clash", "192.168.0.0/24")
	w.t.Logf("%s: %s", p.Code, p.Text)
	if err := s.Delete(w.t.Context(), key, store.AnyRevision); err != nil {
		w.t.Fatal(err)
	}
	w.solved(master, "OC2001")
}
