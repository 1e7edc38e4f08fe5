// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/ocicat-net/ocicat/internal/host"
)

// FirstTTL is the TTL a pod's kernel sends with.
const FirstTTL = 64

// EchoLength is the length of the probe's frame: what ping sends by default,
// 56 bytes of data in an IP packet of 84.
const EchoLength = 98

// maxNodes bounds a walk that goes in circles.
const maxNodes = 16

// Predict walks a packet from one pod to another and its reply back, or from a
// pod to an Outside until it leaves the node.
func Predict(o Oracle, nodes []Node, from, to Endpoint) (Prediction, error) {
	if to.outside() {
		return predictOutside(o, nodes, from, to)
	}
	var p Prediction
	request := walker{oracle: o, nodes: nodes, from: from, to: to, src: from.Addr, ttl: FirstTTL}
	if err := request.walk(); err != nil {
		return p, err
	}
	reply := walker{oracle: o, nodes: nodes, from: to, to: from, src: to.Addr, ttl: FirstTTL, reply: true}
	if err := reply.walk(); err != nil {
		return p, err
	}
	p.Request = request.hops
	if request.delivered { // else there is nothing to reply to; what breaks the way back is found all the same
		p.Reply = reply.hops
	}
	p.Delivered = request.delivered && reply.delivered
	p.MTU = smallest(request.mtu, reply.mtu)
	p.Findings = append([]Finding{}, request.findings...)
	for _, f := range reply.findings {
		if !slices.ContainsFunc(request.findings, func(g Finding) bool { return sameCause(f, g, from, to) }) {
			p.Findings = append(p.Findings, f)
		}
	}
	slices.SortStableFunc(p.Findings, func(a, b Finding) int { return cmp.Compare(a.Severity, b.Severity) })
	return p, nil
}

// sameCause says whether two findings, of the packet and of the reply, are one
// thing seen from its two sides: they are as bad, and at one device or the two
// ends of one pod's cable.
func sameCause(a, b Finding, ends ...Endpoint) bool {
	if a.Severity != b.Severity {
		return false
	}
	for _, end := range ends {
		if end.holds(a) && end.holds(b) {
			return true
		}
	}
	return a.At == b.At && a.Dev == b.Dev
}

// holds says whether a finding is about the endpoint's cable.
func (e Endpoint) holds(f Finding) bool {
	return f.At == e.Place || (f.At == Place{Node: e.Node} && f.Dev == e.HostIf)
}

func smallest(a, b int) int {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}

// walker carries one packet along.
type walker struct {
	oracle    Oracle
	nodes     []Node
	from, to  Endpoint
	src       netip.Addr // as the packet has it now
	ttl       int
	reply     bool
	hops      []Hop
	findings  []Finding
	mtu       int
	delivered bool
}

// crossing is a packet that leaves one place by a device for a neighbour.
type crossing struct {
	link      host.Link
	dst       host.MAC // zero when unknown
	route     host.Route
	hop       netip.Addr // whose MAC dst is
	permanent bool       // dst is of a permanent neighbour entry
}

func (w *walker) walk() error {
	onto, ok, err := w.leavePod()
	if err != nil || !ok {
		return err
	}
	at, arrive := Place{Node: w.from.Node}, w.from.HostIf
	ok, err = w.enterNode(at, onto)
	for range maxNodes {
		if err != nil || !ok {
			return err
		}
		var next crossing
		if next, ok, err = w.forward(at, arrive); err != nil || !ok {
			return err
		}
		w.hops[len(w.hops)-1].Decision = w.routeText(next)
		w.ttl--
		if next.link.Name == w.to.HostIf && at.Node == w.to.Node {
			return w.enterPod(at, next)
		}
		w.record(at, next.link.Name, next, neighbourText(next))
		if at, arrive, ok, err = w.crossWire(at, next); ok && err == nil {
			w.record(at, arrive, next, "")
		}
	}
	w.find(Break, at, arrive, fmt.Sprintf("the packet is still on its way after %d nodes: a routing loop", maxNodes), "Compare the routes of the nodes above: ocicat bgp routes.")
	return nil
}

// leavePod is the pod's own routing decision.
func (w *walker) leavePod() (crossing, bool, error) {
	at := w.from.Place
	link, ok, err := w.oracle.Link(at, w.from.IfName)
	if err != nil {
		return crossing{}, false, err
	}
	if !ok || !link.Up {
		w.find(Break, at, w.from.IfName, "the pod's interface is "+missingOrDown(ok), replacePod)
		return crossing{}, false, nil
	}
	route, ok, err := w.oracle.Route(at, Query{Dst: w.to.Addr})
	if err != nil {
		return crossing{}, false, err
	}
	if !ok || route.Type != host.Unicast {
		w.find(Break, at, w.from.IfName, "the pod has no route to "+w.to.Addr.String(), "The pod's routes were changed from inside: delete the pod.")
		return crossing{}, false, nil
	}
	gateway := route.Via
	if !gateway.IsValid() {
		gateway = w.to.Addr
	}
	c := crossing{link: link, route: route, hop: gateway}
	ok, err = w.askGateway(at, &c)
	return c, ok, err
}

// askGateway finds what the pod writes as destination MAC: its neighbour
// entry, or the host end's answer by proxy ARP. What keeps the host from
// answering breaks the path only for a pod that has to ask.
func (w *walker) askGateway(at Place, c *crossing) (bool, error) {
	node := Place{Node: at.Node}
	hostEnd, found, err := w.oracle.Link(node, w.from.HostIf)
	if err != nil {
		return false, err
	}
	silence, err := w.arpSilence(node, c.hop)
	if err != nil {
		return false, err
	}
	entry, known, err := w.oracle.Neigh(at, c.route.Dev, c.hop)
	if err != nil {
		return false, err
	}
	c.permanent = known && entry.State == host.Permanent
	cached := known && usable(entry)
	if silence != nil {
		silence.Severity = Break
		if cached {
			silence.Severity = Deviation
		}
		w.findings = append(w.findings, *silence)
	}
	switch {
	case c.permanent && found && entry.MAC != hostEnd.MAC:
		w.find(Break, at, c.route.Dev, fmt.Sprintf("the pod's permanent neighbour for %s is %s, but %s has MAC %s", c.hop, entry.MAC, w.from.HostIf, hostEnd.MAC), replacePod)
		return false, nil
	case cached:
		c.dst = entry.MAC
	case silence != nil:
		return false, nil
	default:
		c.dst = hostEnd.MAC // a missing host end is enterNode's finding
	}
	return true, nil
}

// usable says whether the kernel sends to the entry's MAC without asking
// first: a stale entry is used and verified afterwards.
func usable(n host.Neigh) bool { return n.MAC != (host.MAC{}) && n.State != "FAILED" }

// arpSilence is what keeps the node from answering ARP for the pods' gateway
// on the pod's host end, nil when it answers.
func (w *walker) arpSilence(node Place, gateway netip.Addr) (*Finding, error) {
	path := "net/ipv4/conf/" + w.from.HostIf + "/proxy_arp"
	proxy, err := w.oracle.Sysctl(node, path)
	if err != nil || proxy == "" {
		return nil, err // no such device: enterNode says so
	}
	all, err := w.oracle.Sysctl(node, "net/ipv4/conf/all/proxy_arp")
	if err != nil {
		return nil, err
	}
	if proxy == "0" && all != "1" { // either of them is enough
		return &Finding{At: node, Dev: w.from.HostIf, Text: "proxy_arp is 0: nobody answers the pod's ARP for " + gateway.String(),
			Remedy: "The agent sets it back while it runs; by hand: write 1 to /proc/sys/" + path + "."}, nil
	}
	route, ok, err := w.oracle.Route(node, Query{Dst: gateway})
	if err != nil {
		return nil, err
	}
	if !ok || route.Type != host.Unicast || route.Dev == w.from.HostIf {
		return &Finding{At: node, Dev: w.from.HostIf, Text: "the node has no route for " + gateway.String() + ", so it does not answer the pod's ARP",
			Remedy: "Add a default route, or start the agent: it adds " + gateway.String() + "/32 dev lo."}, nil
	}
	return nil, nil
}

// enterNode carries the pod's frame over the veth pair to its host end: both
// ends have a carrier, or neither.
func (w *walker) enterNode(at Place, c crossing) (bool, error) {
	link, ok, err := w.oracle.Link(at, w.from.HostIf)
	if err != nil {
		return false, err
	}
	if !ok || !link.Up {
		w.find(Break, at, w.from.HostIf, "the pod's host end is "+missingOrDown(ok), mendHostEnd)
		return false, nil
	}
	w.note(link)
	how := "proxy ARP on " + link.Name
	if c.permanent {
		how = "permanent neighbour"
	}
	w.record(w.from.Place, c.link.Name, c, fmt.Sprintf("%s (%s)", c.route, how))
	w.record(at, link.Name, c, "")
	return true, nil
}

// forward is a node's routing decision for a packet that came in by dev.
func (w *walker) forward(at Place, dev string) (crossing, bool, error) {
	if ok, err := w.admitted(at, dev); err != nil || !ok {
		return crossing{}, false, err
	}
	route, ok, err := w.oracle.Route(at, Query{Dst: w.to.Addr, Src: w.from.Addr, Iif: dev})
	if err != nil {
		return crossing{}, false, err
	}
	if !ok || route.Type != host.Unicast {
		w.hops[len(w.hops)-1].Decision = "dropped"
		text := "no route to " + w.to.Addr.String()
		if ok {
			text = fmt.Sprintf("%s is dropped by %q", w.to.Addr, route)
		}
		return crossing{}, false, w.noRoute(at, dev, text)
	}
	if route.Dst.Bits() == 0 {
		text := fmt.Sprintf("no route to %s: the packet leaves by the default route via %s", w.to.Addr, route.Via)
		if err := w.noRoute(at, route.Dev, text); err != nil {
			return crossing{}, false, err
		}
	}
	link, ok, err := w.oracle.Link(at, route.Dev)
	if err != nil {
		return crossing{}, false, err
	}
	if route.Dev != w.to.HostIf && (!ok || dead(link)) {
		w.find(Break, at, route.Dev, "the outgoing interface is "+stateText(link, ok), "Bring it up: ip link set "+route.Dev+" up.")
		return crossing{}, false, nil
	}
	w.note(link)
	hop := route.Via
	if !hop.IsValid() {
		hop = w.to.Addr
	}
	c := crossing{link: link, route: route, hop: hop}
	ok, err = w.resolve(at, &c)
	return c, ok, err
}

// admitted reports whether the kernel takes a packet in for forwarding: it
// forwards at all, and the way back to the sender is the way it came
// (rp_filter; the larger of the device's value and that of "all" counts).
func (w *walker) admitted(at Place, dev string) (bool, error) {
	forwarding, err := w.oracle.Sysctl(at, "net/ipv4/conf/"+dev+"/forwarding")
	if err != nil {
		return false, err
	}
	if forwarding == "0" {
		w.find(Break, at, dev, "forwarding is off", "The agent sets it while it runs: sysctl net.ipv4.ip_forward=1.")
		return false, nil
	}
	all, err := w.oracle.Sysctl(at, "net/ipv4/conf/all/rp_filter")
	if err != nil {
		return false, err
	}
	own, err := w.oracle.Sysctl(at, "net/ipv4/conf/"+dev+"/rp_filter")
	if err != nil {
		return false, err
	}
	mode := max(all, own)
	if mode == "" || mode == "0" {
		return true, nil
	}
	back, ok, err := w.oracle.Route(at, Query{Dst: w.from.Addr})
	if err != nil {
		return false, err
	}
	if !ok || back.Type != host.Unicast || (mode == "1" && back.Dev != dev) {
		way := "no route back"
		if ok {
			way = fmt.Sprintf("the way back is %q", back)
		}
		w.find(Break, at, dev, fmt.Sprintf("rp_filter drops packets from %s: %s", w.from.Addr, way), "Repair the route to "+w.from.Addr.String()+" on "+at.Node+".")
		return false, nil
	}
	return true, nil
}

// resolve finds the destination MAC a node writes: its neighbour entry, or
// what ARP would find.
func (w *walker) resolve(at Place, c *crossing) (bool, error) {
	entry, known, err := w.oracle.Neigh(at, c.route.Dev, c.hop)
	if err != nil {
		return false, err
	}
	if known && entry.State == host.Permanent {
		c.dst, c.permanent = entry.MAC, true
		return true, nil
	}
	known = known && usable(entry)
	if !c.route.Via.IsValid() {
		return w.resolvePod(c, entry, known)
	}
	owner, found := w.owner(c.hop)
	if !found {
		if c.route.Dst.Bits() != 0 {
			w.find(Break, at, c.route.Dev, fmt.Sprintf("next hop %s of %s is the address of no node", c.hop, c.route.Dst), "The route is wrong; the agent repairs it while it runs: "+askRoutes(w.to.Addr, at.Node)+".")
			return false, nil
		}
		c.dst = entry.MAC // a router outside the cluster; the finding is there
		return known, nil
	}
	dev, ok, err := w.answers(owner, c.hop)
	if err != nil || !ok {
		return false, err
	}
	c.dst = dev.MAC
	if known {
		c.dst = entry.MAC
	}
	return true, nil
}

// resolvePod finds the MAC of a pod that has no permanent entry: what ARP
// finds.
func (w *walker) resolvePod(c *crossing, entry host.Neigh, known bool) (bool, error) {
	w.find(Deviation, Place{Node: w.to.Node}, w.to.HostIf, "the permanent neighbour of "+w.to.Addr.String()+" is missing: the node asks by ARP", "The agent repairs it while it runs.")
	if known {
		c.dst = entry.MAC
		return true, nil
	}
	link, ok, err := w.oracle.Link(w.to.Place, w.to.IfName)
	if err == nil && !ok {
		w.find(Break, w.to.Place, w.to.IfName, "the pod's interface is missing", replacePod)
	}
	c.dst = link.MAC
	return ok, err
}

func (w *walker) owner(a netip.Addr) (string, bool) {
	for _, n := range w.nodes {
		if slices.Contains(n.Addrs, a) {
			return n.Name, true
		}
	}
	return "", false
}

// answers is the device through which a node answers for an address of its
// own; that there is none, or that it is down, is a finding.
func (w *walker) answers(node string, a netip.Addr) (host.Link, bool, error) {
	at := Place{Node: node}
	route, ok, err := w.oracle.Route(at, Query{Dst: a})
	if err != nil {
		return host.Link{}, false, err
	}
	if !ok || route.Type != host.Local {
		w.find(Break, at, "", "the node does not have its address "+a.String()+" any more", "Give the address back to its interface, or restart the agent with the node's new address.")
		return host.Link{}, false, nil
	}
	link, ok, err := w.oracle.Link(at, route.Dev)
	if err != nil || (ok && !dead(link)) {
		return link, err == nil, err
	}
	w.find(Break, at, route.Dev, "the interface with address "+a.String()+" is "+stateText(link, ok), "Bring it up: ip link set "+route.Dev+" up.")
	return link, false, nil
}

// crossWire carries a frame to the node that owns the next hop.
func (w *walker) crossWire(at Place, c crossing) (Place, string, bool, error) {
	owner, ok := w.owner(c.hop)
	if !ok {
		return at, "", false, nil // out of the cluster: found before
	}
	if owner != w.to.Node {
		w.find(Deviation, at, c.link.Name, fmt.Sprintf("next hop %s is node %s, but the pod is on %s", c.hop, owner, w.to.Node), "See why: ocicat bgp routes --node "+at.Node+".")
	}
	dev, ok, err := w.answers(owner, c.hop)
	if err != nil || !ok {
		return at, "", false, err
	}
	if dev.MAC != c.dst {
		w.find(Break, at, c.link.Name, fmt.Sprintf("the neighbour entry of %s says %s, but %s on %s has MAC %s", c.hop, c.dst, dev.Name, owner, dev.MAC), "Delete the wrong entry: ip neigh del "+c.hop.String()+" dev "+c.link.Name+".")
		return at, "", false, nil
	}
	w.note(dev)
	return Place{Node: owner}, dev.Name, true, nil
}

// enterPod delivers the frame over the veth pair into the pod.
func (w *walker) enterPod(at Place, c crossing) error {
	link, ok, err := w.oracle.Link(w.to.Place, w.to.IfName)
	if err != nil {
		return err
	}
	if !ok || !link.Up { // and no carrier on the host end, so nothing is sent there
		w.find(Break, w.to.Place, w.to.IfName, "the pod's interface is "+missingOrDown(ok), replacePod)
		return nil
	}
	w.record(at, c.link.Name, c, neighbourText(c))
	if link.MAC != c.dst {
		w.find(Break, at, w.to.HostIf, fmt.Sprintf("the neighbour entry of %s says %s, but the pod has MAC %s", w.to.Addr, c.dst, link.MAC), replacePod)
		return nil
	}
	if !slices.ContainsFunc(link.Addrs, func(p netip.Prefix) bool { return p.Addr() == w.to.Addr }) {
		w.find(Break, w.to.Place, w.to.IfName, "the pod does not have address "+w.to.Addr.String(), replacePod)
		return nil
	}
	w.note(link)
	w.record(w.to.Place, link.Name, c, "delivered")
	w.delivered = true
	return nil
}

// record adds the frame as it is on dev. The source MAC is the device's own
// where the frame leaves by it, the sender's where it arrives.
func (w *walker) record(at Place, dev string, c crossing, decision string) {
	w.hops = append(w.hops, Hop{
		Frame: Frame{
			At: at, Dev: dev, SrcMAC: c.link.MAC, DstMAC: c.dst,
			Src: w.src, Dst: w.to.Addr, TTL: w.ttl, Length: EchoLength, Reply: w.reply,
		},
		Decision: decision,
	})
}

func (w *walker) note(l host.Link) { w.mtu = smallest(w.mtu, l.MTU) }

func (w *walker) find(sev Severity, at Place, dev, text, remedy string) {
	w.findings = append(w.findings, Finding{Severity: sev, At: at, Dev: dev, Text: text, Remedy: remedy})
}
