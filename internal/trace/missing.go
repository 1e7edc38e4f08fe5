// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"fmt"
	"net/netip"

	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/problem"
)

// Remedies that several findings share.
const (
	replacePod  = "Delete the pod; its replacement is plumbed anew."
	mendHostEnd = "The agent repairs it while it runs; if it is gone, delete the pod."
)

// askRoutes is the command that shows what a node learned about an address.
func askRoutes(a netip.Addr, node string) string {
	return fmt.Sprintf("ocicat bgp routes %s --node %s", a, node)
}

// noRoute looks for the reason why a node has no route to the pod, and reports
// it; text says what happens to the packet instead, on dev.
func (w *walker) noRoute(at Place, dev, text string) error {
	if at.Node == w.to.Node {
		return w.noPodRoute(at, text)
	}
	if own, ok := w.address(at.Node); ok {
		if _, ok, err := w.answers(at.Node, own); err != nil || !ok {
			return err
		}
	}
	next, known := w.address(w.to.Node)
	if !known {
		w.find(Break, at, dev, text, "See why: "+askRoutes(w.to.Addr, at.Node)+".")
		return nil
	}
	way, ok, err := w.oracle.Route(at, Query{Dst: next})
	if err != nil {
		return err
	}
	if !ok || way.Via.IsValid() {
		entry := problem.Find(problem.NextHopOffLink)
		w.find(Break, at, dev, fmt.Sprintf("%s; %s %s: its node %s has address %s, which is on no directly connected network of %s", text, entry.Code, entry.Title, w.to.Node, next, at.Node), entry.Remedy)
		return nil
	}
	w.find(Break, at, dev, text, fmt.Sprintf("The agent repairs it while it runs and its session with %s is up; see why: %s, ocicat bgp peers --node %s.", w.to.Node, askRoutes(w.to.Addr, at.Node), at.Node))
	return nil
}

// noPodRoute is noRoute on the pod's own node: without the host end there is
// no route either.
func (w *walker) noPodRoute(at Place, text string) error {
	link, ok, err := w.oracle.Link(at, w.to.HostIf)
	if err != nil {
		return err
	}
	cause := "the route to the pod is missing"
	if !ok || !link.Up {
		cause = "the pod's host end is " + missingOrDown(ok)
	}
	w.find(Break, at, w.to.HostIf, cause+": "+text, "The agent repairs it while it runs; is the pod still there? ocicat ipam show --ip="+w.to.Addr.String())
	return nil
}

// address is the address by which the other nodes know a node.
func (w *walker) address(node string) (netip.Addr, bool) {
	for _, n := range w.nodes {
		if n.Name == node && len(n.Addrs) > 0 {
			return n.Addrs[0], true
		}
	}
	return netip.Addr{}, false
}

// dead says whether a device passes no frames.
func dead(l host.Link) bool { return !l.Up || !l.Lower }

// stateText says what is wrong with a device that is missing or dead.
func stateText(l host.Link, exists bool) string {
	if exists && l.Up {
		return "without carrier"
	}
	return missingOrDown(exists)
}

func missingOrDown(exists bool) string {
	if exists {
		return "down"
	}
	return "missing"
}

// routeText is a node's routing decision, with the node it leads to. A route
// to one address that a program wrote, nobody by hand, is that of a borrowed
// one.
func (w *walker) routeText(c crossing) string {
	if owner, ok := w.owner(c.hop); ok {
		if c.route.Dst.IsSingleIP() && c.route.Proto > host.ProtoStatic {
			return fmt.Sprintf("%s (node %s, which announces this address alone)", c.route, owner)
		}
		return fmt.Sprintf("%s (node %s)", c.route, owner)
	}
	return c.route.String()
}

func neighbourText(c crossing) string {
	if c.permanent {
		return "neighbour " + c.hop.String() + " permanent"
	}
	return "neighbour " + c.hop.String() + " by ARP"
}
