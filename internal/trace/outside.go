// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"fmt"
	"net/netip"

	"github.com/ocicat-net/ocicat/internal/host"
)

// Outside is the end of a path at an address that is no pod's: the walk ends
// where the packet leaves the sender's node.
func Outside(a netip.Addr) Endpoint { return Endpoint{Addr: a} }

// outside says whether the endpoint is no pod of ours.
func (e Endpoint) outside() bool { return e.Place == Place{} }

// predictOutside walks a packet until it leaves the sender's node. What
// happens behind that, and what comes back, no kernel of ours knows.
func predictOutside(o Oracle, nodes []Node, from, to Endpoint) (Prediction, error) {
	w := walker{oracle: o, nodes: nodes, from: from, to: to, src: from.Addr, ttl: FirstTTL}
	err := w.walkOutside()
	return Prediction{Request: w.hops, Findings: append([]Finding{}, w.findings...), Delivered: w.delivered, Outside: true, MTU: w.mtu}, err
}

func (w *walker) walkOutside() error {
	onto, ok, err := w.leavePod()
	if err != nil || !ok {
		return err
	}
	at := Place{Node: w.from.Node}
	if ok, err = w.enterNode(at, onto); err != nil || !ok {
		return err
	}
	if ok, err = w.admitted(at, w.from.HostIf); err != nil || !ok {
		return err
	}
	route, ok, err := w.oracle.Route(at, Query{Dst: w.to.Addr, Src: w.from.Addr, Iif: w.from.HostIf})
	if err != nil {
		return err
	}
	last := &w.hops[len(w.hops)-1]
	switch {
	case !ok:
		last.Decision = "dropped"
		w.find(Break, at, w.from.HostIf, "no route to "+w.to.Addr.String(), "Give the node a default route.")
		return nil
	case route.Type == host.Local:
		last.Decision, w.delivered = "delivered to the node itself", true
		return nil
	case route.Type != host.Unicast:
		last.Decision = "dropped"
		w.find(Break, at, w.from.HostIf, fmt.Sprintf("%s is dropped by %q", w.to.Addr, route), "No pod has this address: "+askRoutes(w.to.Addr, at.Node)+".")
		return nil
	}
	return w.leaveNode(at, route)
}

// leaveNode sends the packet out of the node, with the node's address if the
// node masquerades it.
func (w *walker) leaveNode(at Place, route host.Route) error {
	link, ok, err := w.oracle.Link(at, route.Dev)
	if err != nil {
		return err
	}
	if !ok || dead(link) {
		w.find(Break, at, route.Dev, "the outgoing interface is "+stateText(link, ok), "Bring it up: ip link set "+route.Dev+" up.")
		return nil
	}
	w.note(link)
	c := crossing{link: link, route: route, hop: route.Via}
	if !c.hop.IsValid() {
		c.hop = w.to.Addr
	}
	entry, known, err := w.oracle.Neigh(at, route.Dev, c.hop)
	if err != nil {
		return err
	}
	if known && usable(entry) { // else ARP will find it, whom nobody here knows
		c.dst, c.permanent = entry.MAC, entry.State == host.Permanent
	}
	w.hops[len(w.hops)-1].Decision = w.routeText(c)
	w.ttl--
	decision := neighbourText(c)
	masqueraded, err := w.oracle.Masquerades(at, w.from.Addr, w.to.Addr)
	if err != nil {
		return err
	}
	if masqueraded {
		if w.src = masquerade(link.Addrs, c.hop); !w.src.IsValid() {
			w.find(Break, at, route.Dev, "the packet is to be masqueraded, and "+route.Dev+" has no address", "Give the interface an address.")
			return nil
		}
		decision = fmt.Sprintf("natOutgoing: source becomes %s; %s", w.src, decision)
	}
	w.record(at, link.Name, c, decision)
	w.delivered = true
	return nil
}

// masquerade is the address the kernel takes as source: the device's first on
// the network of the next hop, else its first.
func masquerade(addrs []netip.Prefix, hop netip.Addr) netip.Addr {
	var first netip.Addr
	for _, p := range addrs {
		switch {
		case !p.Addr().Is4():
		case p.Contains(hop):
			return p.Addr()
		case !first.IsValid():
			first = p.Addr()
		}
	}
	return first
}

// Learn takes over from captured frames the MAC of a next hop outside that was
// not known before ARP asked for it.
func (p *Prediction) Learn(captured []Frame) {
	for i := range p.Request {
		hop := &p.Request[i]
		if at := match(captured, hop.Frame); p.Outside && at >= 0 && hop.DstMAC == (host.MAC{}) {
			hop.DstMAC = captured[at].DstMAC
		}
	}
}

// unanswered is the finding of a probe that left the cluster and of which the
// sender heard nothing more.
func unanswered(p Prediction, captured []Frame) (Finding, bool) {
	if !p.Outside || !p.Delivered {
		return Finding{}, false
	}
	first, last := p.Request[0], p.Request[len(p.Request)-1]
	near := false
	for _, f := range captured {
		if f.Reply && f.At == first.At {
			return Finding{}, false
		}
		near = near || f.Reply && f.At == last.At && f.Dev == last.Dev
	}
	f := Finding{Severity: Break, At: last.At, Dev: last.Dev, Text: fmt.Sprintf("no reply from %s came back to %s", last.Dst, last.Src)}
	switch {
	case near:
		f.Text = fmt.Sprintf("the reply from %s came back to the node and did not reach the pod", last.Dst)
		f.Remedy = "See what filters it on the node: nft list ruleset."
	case last.Src == first.Src && last.At.Node == first.At.Node:
		f.Remedy = fmt.Sprintf("It does not answer ping, or knows no way back to %s: set natOutgoing: true on the pod's pool, or announce the pool there by BGP.", last.Src)
	default:
		f.Remedy = "It does not answer ping, or something on the way there or back drops it."
	}
	return f, true
}
