// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"crypto/rand"
	"errors"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
)

// vethInfoPeer is VETH_INFO_PEER of linux/veth.h: the other end of a pair.
const vethInfoPeer = 1

// Attachment is one endpoint to attach.
type Attachment struct {
	Endpoint    cluster.Endpoint   // its MAC must not be zero: see RandomMAC
	Want        core.EndpointState // the host's side, of core.WantEndpoint
	PodNetNS    *os.File           // the pod's network namespace; stays the caller's
	PermGateway bool               // the pod needs no ARP for its gateway
}

// RandomMAC is a random locally administered unicast address (IEEE 802).
func RandomMAC() host.MAC {
	var m host.MAC
	_, _ = rand.Read(m[:]) // never fails (crypto/rand, Go 1.24)
	m[0] = m[0]&^0x01 | 0x02
	return m
}

// Attach connects a pod: a veth pair with one end in the pod's namespace, the
// host end's settings, route and neighbour, and the pod's address, routes and
// neighbour. It takes four sends: make the pair, dress the host end, dress the
// pod end, lead traffic to it. Settings stand before a link is up, and routes
// are made when both ends are: one made earlier reads "linkdown" for up to a
// second (seen on 6.18).
//
// Attaching an endpoint again verifies and completes what stands. A link of
// that name that is not this endpoint's, an interface of that name in the pod,
// another route to the address or another default route in the pod is a
// Conflict. On any failure a pair made by this call is destroyed again.
func (h *Handle) Attach(ctx context.Context, a Attachment) error {
	pod, err := OpenAt(a.PodNetNS)
	if err != nil {
		return err
	}
	defer pod.Close()
	pair, made, err := h.pair(ctx, pod, a)
	if err != nil {
		return err
	}
	err = h.dress(ctx, pod, a, pair)
	if err != nil && made {
		return errors.Join(err, h.destroy(pair.host))
	}
	return err
}

// ends are the two of a veth pair: the host's as it was found or made, and the
// pod's index in its namespace.
type ends struct {
	host host.Link
	pod  int
}

// dress gives both ends of the pair everything but their existence.
func (h *Handle) dress(ctx context.Context, pod *Handle, a Attachment, pair ends) error {
	if err := h.dressHost(ctx, a.Want, pair.host); err != nil {
		return err
	}
	if err := dressPod(ctx, pod, a, pair.pod); err != nil {
		return err
	}
	return h.lead(ctx, a.Want.Route, pair.host.Index)
}

// pair makes the veth pair, or finds it made, and says which.
func (h *Handle) pair(ctx context.Context, pod *Handle, a Attachment) (found ends, made bool, err error) {
	found, err = h.createPair(ctx, a)
	if err == nil {
		return found, true, nil
	}
	if !isErrno(err, unix.EEXIST) {
		return ends{}, false, err
	}
	if found, err = h.verifyPair(ctx, pod, a); !errors.Is(err, errDetached) {
		return found, false, err
	}
	// The pod still has the end of a pair that is about to be destroyed.
	if err := h.DestroyDetached(ctx); err != nil {
		return ends{}, false, err
	}
	found, err = h.createPair(ctx, a)
	return found, err == nil, err
}

// createPair makes the pair, both ends down, and learns the indexes the
// kernel gave it in the same send. An error that is EEXIST means that either
// name is taken.
func (h *Handle) createPair(ctx context.Context, a Attachment) (ends, error) {
	var b batch
	want := a.Want.Link
	b.add(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, "create link "+want.Name, ifinfo(0, 0, 0))
	b.str(unix.IFLA_IFNAME, want.Name)
	b.mac(unix.IFLA_ADDRESS, want.MAC)
	b.u32(unix.IFLA_MTU, uint32(want.MTU))
	b.u32(unix.IFLA_GROUP, newGroup)
	b.u32(unix.IFLA_TXQLEN, 0) // nothing queues on a veth; as Calico's, which print no qlen
	b.nest(unix.IFLA_LINKINFO, func() {
		b.str(unix.IFLA_INFO_KIND, want.Kind)
		b.nest(unix.IFLA_INFO_DATA, func() {
			b.nest(vethInfoPeer, func() {
				b.raw(ifinfo(0, 0, 0))
				b.str(unix.IFLA_IFNAME, a.Endpoint.ID.IfName)
				b.mac(unix.IFLA_ADDRESS, a.Endpoint.MAC)
				b.u32(unix.IFLA_MTU, uint32(a.Endpoint.MTU))
				b.u32(unix.IFLA_TXQLEN, 0)
				b.u32(unix.IFLA_NET_NS_FD, uint32(a.PodNetNS.Fd()))
			})
		})
	})
	b.getLink(want.Name)
	var seen link
	var errs []error
	err := h.withSocket(func(s *socket) (err error) {
		errs, err = s.send(ctx, &b, func(r reply) { seen, _ = parseLink(r.payload) })
		return err
	})
	if err != nil {
		return ends{}, err
	}
	if errs[0] != nil {
		return ends{}, errs[0]
	}
	return ends{host: seen.Link, pod: seen.Peer}, errs[1]
}

// dressHost brings the host end up with all that must hold before, identity
// and settings, and the pod's neighbour.
func (h *Handle) dressHost(ctx context.Context, want core.EndpointState, seen host.Link) error {
	dev, index := seen.Name, seen.Index
	sysctls := want.Sysctls
	if seen.Alias == "" { // not dressed before: what is Initial was not others' yet
		sysctls = slices.Concat(sysctls, want.Initial)
	}
	settings := make([]Setting, len(sysctls))
	for i, s := range sysctls {
		settings[i] = Setting(s)
	}
	var b batch
	b.add(unix.RTM_SETLINK, 0, "set link "+dev, ifinfo(index, 0, 0))
	b.describe(want.Link, seen)
	left := b.deviceSysctls(dev, index, settings)
	if err := h.setSysctls(left); err != nil {
		return err
	}
	b.add(unix.RTM_SETLINK, 0, "set link "+dev+" up", ifinfo(index, unix.IFF_UP, unix.IFF_UP))
	b.u32(unix.IFLA_GROUP, 0)
	b.neigh("set "+NeighKey(want.Neigh.Key()), want.Neigh, index)
	return errors.Join(h.send(ctx, &b)...)
}

// lead makes the host's route to the pod. Looking at the link comes first: the
// end that was up before its peer drops packets until the kernel has noticed
// its carrier, which happens in the background but at once when somebody asks
// (rtnl_getlink; with a link being destroyed beside it 40 ms later, seen on
// 6.18).
func (h *Handle) lead(ctx context.Context, want host.Route, index int) error {
	var b batch
	b.getLink(want.Dev)
	b.route(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, "set", want, index)
	errs := h.send(ctx, &b)
	err := errs[1]
	if isErrno(err, unix.EEXIST) {
		err = h.verifyRoute(ctx, want)
	}
	if err == nil {
		return errs[0]
	}
	return fault.Hint(err, "Another interface has the pod's address: find what made that route, and delete it.")
}

// verifyRoute accepts the endpoint's own route and names what holds its place
// otherwise.
func (h *Handle) verifyRoute(ctx context.Context, want host.Route) error {
	routes, err := h.Routes(ctx, Filter{})
	if err != nil {
		return err
	}
	for _, r := range routes {
		if r.Key() != want.Key() {
			continue
		}
		if SameRoute(want, r) {
			return nil
		}
		return fault.New(fault.Conflict, "set %s: %q has its place", RouteKey(want.Key()), r)
	}
	return fault.New(fault.Unavailable, "set %s: it came and went", RouteKey(want.Key()))
}

// dressPod brings the pod's end up with its address, the gateway's permanent
// neighbour if asked for, and its two routes.
func dressPod(ctx context.Context, pod *Handle, a Attachment, index int) error {
	dev := a.Endpoint.ID.IfName
	var b batch
	b.add(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, "add address "+a.Endpoint.Addr.String()+" to "+dev, ifaddr(index, a.Endpoint.Addr.BitLen(), host.ScopeGlobal))
	b.bytes(unix.IFA_LOCAL, a.Endpoint.Addr.AsSlice())
	b.bytes(unix.IFA_ADDRESS, a.Endpoint.Addr.AsSlice())
	b.add(unix.RTM_SETLINK, 0, "set "+LinkKey(dev)+" up", ifinfo(index, unix.IFF_UP, unix.IFF_UP))
	if a.PermGateway {
		gateway := host.Neigh{Dev: dev, IP: core.Gateway, MAC: a.Want.Link.MAC}
		b.neigh("set "+NeighKey(gateway.Key()), gateway, index)
	}
	routes := podRoutes(dev)
	first := len(b.msgs)
	for _, r := range routes {
		b.route(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, "set", r, index)
	}
	errs := pod.send(ctx, &b)
	for i, r := range routes {
		if isErrno(errs[first+i], unix.EEXIST) {
			errs[first+i] = pod.verifyRoute(ctx, r)
		}
	}
	if err := errors.Join(errs...); err != nil {
		err = fault.New(fault.KindOf(err), "in the pod's namespace: %w", err)
		return fault.Hint(err, "Give each pod a network namespace of its own, as its runtime left it.")
	}
	return nil
}

// podRoutes are the two routes of a pod: its gateway, which nobody owns, is on
// the link, and everything is behind it.
func podRoutes(dev string) []host.Route {
	return []host.Route{
		{Dst: netip.PrefixFrom(core.Gateway, 32), Dev: dev, Proto: host.ProtoBoot, Scope: host.ScopeLink},
		{Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: core.Gateway, Dev: dev, Proto: host.ProtoBoot},
	}
}

// destroy takes a pair away by its host end. It is the undoing of a failure
// and must not fail because a deadline passed.
func (h *Handle) destroy(hostEnd host.Link) error {
	var b batch
	b.add(unix.RTM_DELLINK, 0, "destroy "+LinkKey(hostEnd.Name), ifinfo(hostEnd.Index, 0, 0))
	err := h.send(context.Background(), &b)[0]
	if isErrno(err, unix.ENODEV) {
		return nil
	}
	return err
}
