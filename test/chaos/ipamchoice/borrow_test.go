// SPDX-License-Identifier: Apache-2.0

package ipamchoice

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/test/chaos"
	"github.com/ocicat-net/ocicat/test/flow"
)

// TestBorrowedAddressIsReached fills a node's only block, in a pool that has
// no other: its next pod borrows. Every node reaches it, the owner of the block
// too, through restarts of borrower and owner; and once it is released nobody
// has a route to it.
func TestBorrowedAddressIsReached(t *testing.T) {
	record := chaos.Begin(t, "B10", "3 nodes, own block full, no block left; borrower and owner killed and started", "reached from every node, 0 lost over the restarts, withdrawn after release")
	w := up(t, 3, "172.16.0.0/24")
	w.noFreeBlocks()
	own := w.blockOf(third)
	w.fillUp(third, 64)
	pod := w.borrower(own)
	addr := pod.Address.Addr()
	owner := w.ownerOf(addr)
	reached := 0
	for _, node := range []string{master, worker, third} {
		w.eventually(node+" reaches the borrowed address", func() bool { return w.reaches(node, addr) })
		reached++
	}
	record.Measuredf("%d of 3 nodes reach it, the owner of its block among them", reached)
	if out := w.Node(owner, "ip route show "+addr.String()); !strings.Contains(out, "via "+w.address(third)) {
		t.Errorf("the owner's route: %q", out)
	}
	w.explained(addr, owner)

	ownersPod := map[string]string{master: "devops.pod-0", worker: "devops.pod-1"}[owner]
	f := flow.Start(t, w.Netns(ownersPod), w.Netns("devops."+pod.Name), addr)
	for range chaos.Scale(1, 5) {
		w.restart(third)
		w.restart(owner)
	}
	f.Await(t, time.Second)
	sent, lost := f.End()
	if lost > 0 {
		t.Errorf("%d of %d packets lost over the restarts", lost, sent)
	}
	record.Measuredf("%d of %d packets lost over a kill -9 of borrower and owner", lost, sent)

	if _, err := w.DeletePod(t.Context(), pod.String()); err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{master, worker} {
		w.eventually(node+" has no route to the released address", func() bool {
			return strings.TrimSpace(w.Node(node, "ip route show "+addr.String())) == ""
		})
	}
	if w.reaches(owner, addr) {
		t.Error("the released address answers")
	}
	record.Twinf("released, it is announced to 0 of 2 nodes and the same ping fails")
}

// noFreeBlocks gives the blocks that no node of the lab has to one that does
// not exist, all of their addresses in use.
func (w *world) noFreeBlocks() {
	w.t.Helper()
	if _, _, err := w.ipam.ClaimAffinity(w.t.Context(), "nobody", netip.MustParsePrefix("172.16.0.0/24")); err != nil {
		w.t.Fatal(err)
	}
	w.fillUp("nobody", 256)
}

// borrower adds pods to the third node until one gets an address outside the
// node's own block.
func (w *world) borrower(own netip.Prefix) lab.Pod {
	w.t.Helper()
	for i := range 24 {
		if pod := w.add(fmt.Sprint("more-", i), third); !own.Contains(pod.Address.Addr()) {
			return pod
		}
	}
	w.t.Fatal("24 pods got addresses of a full block")
	return lab.Pod{}
}

// ownerOf is the node whose block holds addr.
func (w *world) ownerOf(addr netip.Addr) string {
	w.t.Helper()
	for _, node := range []string{master, worker} {
		if w.blockOf(node).Contains(addr) {
			return node
		}
	}
	w.t.Fatalf("%s is in no node's block", addr)
	return ""
}

// address is a node's own.
func (w *world) address(node string) string {
	w.t.Helper()
	for _, n := range w.state().Topology.Nodes {
		if n.Name == node {
			return n.Addr.Addr().String()
		}
	}
	w.t.Fatalf("%s is not in the lab", node)
	return ""
}

// explained checks what the command line says of a borrowed address.
func (w *world) explained(addr netip.Addr, owner string) {
	w.t.Helper()
	for _, c := range []struct {
		args  []string
		words []string
	}{
		{[]string{"ipam", "show", "--ip=" + addr.String()}, []string{"of node " + owner, "Borrowed by node " + third + ", which announces " + addr.String() + "/32"}},
		{[]string{"ipam", "show", "--show-borrowed"}, []string{addr.String(), third, owner, "pod devops/more-"}},
		{[]string{"trace", "devops/pod-0", addr.String()}, []string{"node " + third + ", which announces this address alone"}},
	} {
		out, code := w.Ocicat(c.args...)
		for _, word := range c.words {
			if code != 0 || !strings.Contains(out, word) {
				w.t.Errorf("ocicat %s: exit %d, does not say %q:\n%s", strings.Join(c.args, " "), code, word, out)
			}
		}
	}
}

// restart kills a node's agent and starts it again.
func (w *world) restart(node string) {
	w.t.Helper()
	if err := w.KillAgent(w.t.Context(), node); err != nil {
		w.t.Fatal(err)
	}
	if err := w.RestartAgent(w.t.Context(), node); err != nil {
		w.t.Fatalf("start agent of %s: %v (%s)", node, err, fault.HintOf(err))
	}
}
