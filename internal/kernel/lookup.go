// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
)

// Query is one route lookup as the kernel does it for a packet.
type Query struct {
	Dst, Src netip.Addr // Src zero: the kernel chooses
	Iif      string     // device the packet came in by; "" when this namespace sends it
}

// Lookup asks the kernel for the FIB entry its own lookup selects (fib match,
// Linux 4.13). NotFound when it has none for the packet, or refuses it for
// another reason, like its source.
func (h *Handle) Lookup(ctx context.Context, q Query) (host.Route, error) {
	all, _, err := h.links(ctx)
	if err != nil {
		return host.Route{}, err
	}
	devices := names(all)
	what := "look up route to " + q.Dst.String()
	var b batch
	header := rtHeader{dst: 32, flags: unix.RTM_F_FIB_MATCH | unix.RTM_F_LOOKUP_TABLE}
	if q.Src.IsValid() {
		header.src = 32
	}
	b.add(unix.RTM_GETROUTE, 0, what, rtmsg(header))
	b.bytes(unix.RTA_DST, q.Dst.AsSlice())
	if q.Src.IsValid() {
		b.bytes(unix.RTA_SRC, q.Src.AsSlice())
	}
	if q.Iif != "" {
		index, ok := indexOf(devices, q.Iif)
		if !ok {
			return host.Route{}, fault.New(fault.NotFound, "%s: find link %s: %w", what, q.Iif, unix.ENODEV)
		}
		b.u32(unix.RTA_IIF, uint32(index))
	}
	var found host.Route
	var known bool
	err = h.withSocket(func(s *socket) error {
		errs, err := s.send(ctx, &b, func(r reply) { found, _, known = parseRoute(r.payload, devices) })
		if err == nil {
			err = errs[0]
		}
		if isErrno(err, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ESRCH, unix.EINVAL, unix.EACCES, unix.ENODEV, unix.EXDEV) {
			return nil
		}
		return err
	})
	if err != nil || known {
		return found, err
	}
	return h.refusing(ctx, devices, q.Dst)
}

// refusing is the entry that makes a lookup fail: a blackhole or its kin. The
// kernel answers such a lookup with an error and not with the entry.
func (h *Handle) refusing(ctx context.Context, devices map[int]string, dst netip.Addr) (host.Route, error) {
	routes, err := h.routes(ctx, devices, Filter{})
	if err != nil {
		return host.Route{}, err
	}
	var best host.Route
	found := false
	for _, r := range routes {
		if r.Dst.Contains(dst) && !r.Down && (!found || r.Dst.Bits() > best.Dst.Bits()) {
			best, found = r, true
		}
	}
	if !found || best.Type == host.Unicast {
		return host.Route{}, fault.New(fault.NotFound, "look up route to %s: no route", dst)
	}
	return best, nil
}
