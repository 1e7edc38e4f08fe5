// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
)

// Filter selects routes of the main table; the zero Filter all of them. The
// kernel does the selecting.
type Filter struct {
	Dev   string        // device of the (only) next hop
	Proto host.Protocol // 0: any
}

// Routes returns the IPv4 routes of the main table that match f, in the
// kernel's order: of two with one destination the one that counts comes first.
// NotFound if there is no device f.Dev.
func (h *Handle) Routes(ctx context.Context, f Filter) ([]host.Route, error) {
	all, _, err := h.links(ctx)
	if err != nil {
		return nil, err
	}
	return h.routes(ctx, names(all), f)
}

func (h *Handle) routes(ctx context.Context, devices map[int]string, f Filter) ([]host.Route, error) {
	var b batch
	b.add(unix.RTM_GETROUTE, 0, "list routes", rtmsg(rtHeader{table: unix.RT_TABLE_MAIN, proto: f.Proto}))
	b.u32(unix.RTA_TABLE, unix.RT_TABLE_MAIN)
	if f.Dev != "" {
		index, ok := indexOf(devices, f.Dev)
		if !ok {
			return nil, fault.New(fault.NotFound, "list routes of %s: %w", f.Dev, unix.ENODEV)
		}
		b.u32(unix.RTA_OIF, uint32(index))
	}
	var routes []host.Route
	err := h.dump(ctx, &b, func() { routes = routes[:0] }, func(r reply) {
		if route, table, ok := parseRoute(r.payload, devices); ok && table == unix.RT_TABLE_MAIN {
			routes = append(routes, route)
		}
	})
	return routes, err
}

func indexOf(devices map[int]string, name string) (int, bool) {
	for i, n := range devices {
		if n == name {
			return i, true
		}
	}
	return 0, false
}

// rtHeader is what we use of struct rtmsg.
type rtHeader struct {
	dst, src int // prefix lengths
	table    uint8
	proto    host.Protocol
	scope    uint8
	typ      uint8
	flags    uint32
}

func rtmsg(r rtHeader) []byte {
	h := make([]byte, unix.SizeofRtMsg)
	h[0], h[1], h[2] = unix.AF_INET, uint8(r.dst), uint8(r.src)
	h[4], h[5], h[6], h[7] = r.table, uint8(r.proto), r.scope, r.typ
	binary.NativeEndian.PutUint32(h[8:], r.flags)
	return h
}

var toKernelType = map[host.RouteType]uint8{
	host.Unicast:     unix.RTN_UNICAST,
	host.Blackhole:   unix.RTN_BLACKHOLE,
	host.Unreachable: unix.RTN_UNREACHABLE,
	host.Prohibit:    unix.RTN_PROHIBIT,
	host.Local:       unix.RTN_LOCAL,
	host.Broadcast:   unix.RTN_BROADCAST,
}

func routeType(kernel uint8) (host.RouteType, bool) {
	if kernel == unix.RTN_UNICAST { // nearly all are
		return host.Unicast, true
	}
	for t, k := range toKernelType {
		if k == kernel {
			return t, true
		}
	}
	return 0, false
}

// parseRoute reads an RTM_NEWROUTE or RTM_DELROUTE message. Devices are named
// by devices; one it lacks appeared a moment ago and is named by its index.
func parseRoute(payload []byte, devices map[int]string) (r host.Route, table uint32, ok bool) {
	if len(payload) < unix.SizeofRtMsg || payload[0] != unix.AF_INET {
		return r, 0, false
	}
	if r.Type, ok = routeType(payload[7]); !ok {
		return r, 0, false
	}
	table = uint32(payload[4])
	r.Proto, r.Scope = host.Protocol(payload[5]), host.Scope(payload[6])
	setFlags(&r, binary.NativeEndian.Uint32(payload[8:]))
	dst := netip.IPv4Unspecified()
	for typ, v := range attributes(payload[unix.SizeofRtMsg:]) {
		switch typ {
		case unix.RTA_TABLE:
			table = number(v)
		case unix.RTA_DST:
			dst = addr(v)
		case unix.RTA_GATEWAY:
			r.Via = addr(v)
		case unix.RTA_PREFSRC:
			r.Src = addr(v)
		case unix.RTA_PRIORITY:
			r.Metric = number(v)
		case unix.RTA_OIF:
			r.Dev = deviceName(devices, int(number(v)))
		case unix.RTA_MULTIPATH:
			parseHops(&r, v, devices)
		}
	}
	r.Dst = netip.PrefixFrom(dst, int(payload[1]))
	return r, table, r.Dst.IsValid()
}

// setFlags reads the flags of a route or next hop.
func setFlags(r *host.Route, flags uint32) {
	r.OnLink = r.OnLink || flags&unix.RTNH_F_ONLINK != 0
	r.Down = r.Down || flags&(unix.RTNH_F_LINKDOWN|unix.RTNH_F_DEAD) != 0
}

func deviceName(devices map[int]string, index int) string {
	if name, ok := devices[index]; ok {
		return name
	}
	return fmt.Sprintf("if%d", index)
}

// parseHops reads the next hops of a multipath route: the first is the
// route's, of the others only their number is kept.
func parseHops(r *host.Route, v []byte, devices map[int]string) {
	for len(v) >= unix.SizeofRtNexthop {
		size := int(binary.NativeEndian.Uint16(v))
		if size < unix.SizeofRtNexthop || size > len(v) {
			return
		}
		if r.Hops == 0 {
			r.Dev = deviceName(devices, int(binary.NativeEndian.Uint32(v[4:])))
			r.Via = addr(find(v[unix.SizeofRtNexthop:size], unix.RTA_GATEWAY))
			setFlags(r, uint32(v[2]))
		}
		r.Hops++
		v = v[min(align(size), len(v)):]
	}
}

// RouteKey is the key of a route in errors and status: "route 10.0.0.0/26",
// with its metric if it has one.
func RouteKey(k host.RouteKey) string {
	if k.Metric == 0 {
		return "route " + k.Dst.String()
	}
	return fmt.Sprintf("route %s metric %d", k.Dst, k.Metric)
}

// ApplyRoutes sets and deletes routes of the main table in one batch, first
// set, then del. A route in set takes the place of what has its destination
// and metric; one in del goes only if protocol, type, device and next hop
// match too, and to find it gone already is no error. Each that fails is a
// reconcile.KeyError of RouteKey in the joined error; the others are done.
func (h *Handle) ApplyRoutes(ctx context.Context, set, del []host.Route) error {
	present, err := h.resolve(ctx, devicesOf(set, del))
	if err != nil {
		return err
	}
	b := roomyBatch(len(set) + len(del))
	var errs []error
	for _, r := range set {
		l, ok := present[r.Dev]
		if !ok && r.Dev != "" {
			key := RouteKey(r.Key())
			errs = append(errs, keyed(key, fault.New(fault.NotFound, "set %s: find link %s: %w", key, r.Dev, unix.ENODEV)))
			continue
		}
		b.route(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, "set", r, l.Index)
	}
	sets := len(b.msgs)
	for _, r := range del {
		l, ok := present[r.Dev]
		if !ok && r.Dev != "" {
			continue // gone with its device
		}
		b.route(unix.RTM_DELROUTE, 0, "delete", r, l.Index)
	}
	for i, err := range h.sendRoutes(ctx, &b) {
		if err == nil || i >= sets && isErrno(err, unix.ESRCH, unix.ENODEV) {
			continue
		}
		errs = append(errs, keyed(RouteKey(b.msgs[i].route), err))
	}
	return errors.Join(errs...)
}

// devicesOf is the set of device names in lists of routes.
func devicesOf(lists ...[]host.Route) map[string]bool {
	devices := map[string]bool{}
	for _, routes := range lists {
		for _, r := range routes {
			if r.Dev != "" {
				devices[r.Dev] = true
			}
		}
	}
	return devices
}

// route adds a message that makes or deletes r in the main table, as verb says
// in errors; index is its device's, 0 for none.
func (b *batch) route(typ, flags uint16, verb string, r host.Route, index int) {
	header := rtHeader{dst: r.Dst.Bits(), table: unix.RT_TABLE_MAIN, proto: r.Proto, scope: uint8(r.Scope), typ: toKernelType[r.Type]}
	if r.OnLink {
		header.flags = unix.RTNH_F_ONLINK
	}
	b.add(typ, flags, verb, rtmsg(header))
	b.msgs[len(b.msgs)-1].route = r.Key()
	if r.Dst.Bits() > 0 {
		b.ip4(unix.RTA_DST, r.Dst.Addr())
	}
	if r.Via.IsValid() {
		b.ip4(unix.RTA_GATEWAY, r.Via)
	}
	if r.Src.IsValid() {
		b.ip4(unix.RTA_PREFSRC, r.Src)
	}
	if index != 0 {
		b.u32(unix.RTA_OIF, uint32(index))
	}
	if r.Metric != 0 {
		b.u32(unix.RTA_PRIORITY, r.Metric)
	}
}
