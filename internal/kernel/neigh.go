// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
)

// neighStates are the kernel's NUD_ bits in iproute2's words.
var neighStates = map[uint16]string{
	unix.NUD_INCOMPLETE: "INCOMPLETE",
	unix.NUD_REACHABLE:  "REACHABLE",
	unix.NUD_STALE:      "STALE",
	unix.NUD_DELAY:      "DELAY",
	unix.NUD_PROBE:      "PROBE",
	unix.NUD_FAILED:     "FAILED",
	unix.NUD_NOARP:      "NOARP",
	unix.NUD_PERMANENT:  host.Permanent,
}

// parseNeigh reads an RTM_NEWNEIGH or RTM_DELNEIGH message of an IPv4 entry.
func parseNeigh(payload []byte, devices map[int]string) (host.Neigh, bool) {
	if len(payload) < unix.SizeofNdMsg || payload[0] != unix.AF_INET {
		return host.Neigh{}, false
	}
	attrs := payload[unix.SizeofNdMsg:]
	n := host.Neigh{
		Dev:   deviceName(devices, int(binary.NativeEndian.Uint32(payload[4:]))),
		IP:    addr(find(attrs, unix.NDA_DST)),
		MAC:   macOf(find(attrs, unix.NDA_LLADDR)),
		State: neighStates[binary.NativeEndian.Uint16(payload[8:])],
	}
	return n, n.IP.IsValid()
}

// Neighbours returns the IPv4 neighbour entries of every state, those of dev
// only unless it is "". NotFound if there is no such device.
func (h *Handle) Neighbours(ctx context.Context, dev string) ([]host.Neigh, error) {
	all, _, err := h.links(ctx)
	if err != nil {
		return nil, err
	}
	return h.neighbours(ctx, names(all), dev)
}

func (h *Handle) neighbours(ctx context.Context, devices map[int]string, dev string) ([]host.Neigh, error) {
	var b batch
	b.add(unix.RTM_GETNEIGH, 0, "list neighbours", ndmsg(0, 0))
	if dev != "" {
		index, ok := indexOf(devices, dev)
		if !ok {
			return nil, fault.New(fault.NotFound, "list neighbours of %s: %w", dev, unix.ENODEV)
		}
		b.u32(unix.NDA_IFINDEX, uint32(index))
	}
	var neighs []host.Neigh
	err := h.dump(ctx, &b, func() { neighs = neighs[:0] }, func(r reply) {
		if n, ok := parseNeigh(r.payload, devices); ok {
			neighs = append(neighs, n)
		}
	})
	return neighs, err
}

// Neighbour returns the entry of ip on dev; NotFound without one.
func (h *Handle) Neighbour(ctx context.Context, dev string, ip netip.Addr) (host.Neigh, error) {
	l, err := h.link(ctx, dev)
	if err != nil {
		return host.Neigh{}, err
	}
	var found host.Neigh
	var b batch
	b.add(unix.RTM_GETNEIGH, 0, "find neighbour "+ip.String()+" on "+dev, ndmsg(l.Index, 0))
	b.bytes(unix.NDA_DST, ip.AsSlice())
	err = h.withSocket(func(s *socket) error {
		errs, err := s.send(ctx, &b, func(r reply) {
			found, _ = parseNeigh(r.payload, map[int]string{l.Index: dev})
		})
		if err == nil {
			err = errs[0]
		}
		return err
	})
	return found, err
}

// NeighKey is the key of a neighbour entry in errors and status: "neighbour
// 10.0.0.1 on cali1".
func NeighKey(k host.NeighKey) string { return "neighbour " + k.IP.String() + " on " + k.Dev }

// neigh adds a message that makes the permanent entry n on device index, in
// place of any other for that address.
func (b *batch) neigh(what string, n host.Neigh, index int) {
	b.add(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, what, ndmsg(index, unix.NUD_PERMANENT))
	b.bytes(unix.NDA_DST, n.IP.AsSlice())
	b.mac(unix.NDA_LLADDR, n.MAC)
}
