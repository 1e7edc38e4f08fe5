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

// skipStats keeps counters nobody asked for out of answers about links
// (RTEXT_FILTER_SKIP_STATS of linux/rtnetlink.h).
const skipStats = 1 << 3

// link is one device as the kernel describes it.
type link struct {
	host.Link
	group    uint32
	peerNSID int32 // namespace id of the other end, -1: this namespace
	conf4    []byte
	conf6    []byte
}

// parseLink reads an RTM_NEWLINK or RTM_DELLINK message.
func parseLink(payload []byte) (link, bool) {
	if len(payload) < unix.SizeofIfInfomsg {
		return link{}, false
	}
	flags := binary.NativeEndian.Uint32(payload[8:])
	l := link{peerNSID: -1}
	l.Index = int(int32(binary.NativeEndian.Uint32(payload[4:])))
	l.Up = flags&unix.IFF_UP != 0
	l.Lower = flags&unix.IFF_LOWER_UP != 0
	for typ, v := range attributes(payload[unix.SizeofIfInfomsg:]) {
		switch typ {
		case unix.IFLA_IFNAME:
			l.Name = text(v)
		case unix.IFLA_ADDRESS:
			l.MAC = macOf(v)
		case unix.IFLA_MTU:
			l.MTU = int(number(v))
		case unix.IFLA_LINK:
			l.Peer = int(number(v))
		case unix.IFLA_MASTER:
			l.Master = int(number(v))
		case unix.IFLA_LINK_NETNSID:
			l.peerNSID = int32(number(v))
		case unix.IFLA_IFALIAS:
			l.Alias = text(v)
		case unix.IFLA_GROUP:
			l.group = number(v)
		case unix.IFLA_LINKINFO:
			l.Kind = text(find(v, unix.IFLA_INFO_KIND))
		case unix.IFLA_AF_SPEC:
			l.conf4 = find(find(v, unix.AF_INET), unix.IFLA_INET_CONF)
			l.conf6 = find(find(v, unix.AF_INET6), unix.IFLA_INET6_CONF)
		}
	}
	return l, l.Name != ""
}

// own copies what points into a receive buffer.
func (l link) own() link {
	l.conf4, l.conf6 = append([]byte(nil), l.conf4...), append([]byte(nil), l.conf6...)
	return l
}

// Links returns every device of the namespace with its IPv4 addresses, by name.
func (h *Handle) Links(ctx context.Context) (map[string]host.Link, error) {
	_, links, err := h.links(ctx)
	return links, err
}

// links returns every device as the kernel describes it, by index, and as
// Links does.
func (h *Handle) links(ctx context.Context) (map[int]link, map[string]host.Link, error) {
	var all map[int]link
	var b batch
	b.add(unix.RTM_GETLINK, 0, "list links", ifinfo(0, 0, 0))
	b.u32(unix.IFLA_EXT_MASK, skipStats)
	err := h.dump(ctx, &b, func() { all = map[int]link{} }, func(r reply) {
		if l, ok := parseLink(r.payload); ok {
			all[l.Index] = l.own()
		}
	})
	if err != nil {
		return nil, nil, err
	}
	addrs, err := h.addresses(ctx)
	if err != nil {
		return nil, nil, err
	}
	byName := make(map[string]host.Link, len(all))
	for index, l := range all {
		l.Addrs = addrs[index]
		byName[l.Name] = l.Link
	}
	return all, byName, nil
}

// Link returns the device name with its IPv4 addresses; NotFound without it.
func (h *Handle) Link(ctx context.Context, name string) (host.Link, error) {
	l, err := h.link(ctx, name)
	if err != nil {
		return host.Link{}, err
	}
	addrs, err := h.addresses(ctx)
	l.Addrs = addrs[l.Index]
	return l.Link, err
}

func (h *Handle) link(ctx context.Context, name string) (link, error) {
	var found link
	err := h.withSocket(func(s *socket) (err error) {
		found, err = s.link(ctx, name)
		if fault.Is(err, fault.NotFound) {
			found.Name = ""
			err = nil
		}
		return err
	})
	if err == nil && found.Name == "" {
		err = fault.New(fault.NotFound, "find link %s: %w", name, unix.ENODEV)
	}
	return found, err
}

// link returns the device name; NotFound without it.
func (s *socket) link(ctx context.Context, name string) (link, error) {
	var found link
	var b batch
	b.getLink(name)
	errs, err := s.send(ctx, &b, func(r reply) {
		if l, ok := parseLink(r.payload); ok {
			found = l.own()
		}
	})
	if err == nil {
		err = errs[0]
	}
	return found, err
}

func (b *batch) getLink(name string) {
	b.add(unix.RTM_GETLINK, 0, "find link "+name, ifinfo(0, 0, 0))
	b.str(unix.IFLA_IFNAME, name)
	b.u32(unix.IFLA_EXT_MASK, skipStats)
}

// addresses returns the IPv4 addresses of all devices by index, each with the
// mask of its network, in the kernel's order.
func (h *Handle) addresses(ctx context.Context) (map[int][]netip.Prefix, error) {
	var all map[int][]netip.Prefix
	var b batch
	b.add(unix.RTM_GETADDR, 0, "list addresses", ifaddr(0, 0, 0))
	err := h.dump(ctx, &b, func() { all = map[int][]netip.Prefix{} }, func(r reply) {
		if len(r.payload) < unix.SizeofIfAddrmsg {
			return
		}
		index := int(binary.NativeEndian.Uint32(r.payload[4:]))
		a := addr(find(r.payload[unix.SizeofIfAddrmsg:], unix.IFA_LOCAL))
		if p := netip.PrefixFrom(a, int(r.payload[1])); p.IsValid() {
			all[index] = append(all[index], p)
		}
	})
	return all, err
}

// names returns the device names of all by index.
func names(all map[int]link) map[int]string {
	n := make(map[int]string, len(all))
	for i, l := range all {
		n[i] = l.Name
	}
	return n
}

// resolve returns those of the named devices that exist.
func (h *Handle) resolve(ctx context.Context, devices map[string]bool) (map[string]link, error) {
	found := make(map[string]link, len(devices))
	var b batch
	for name := range devices {
		b.getLink(name)
	}
	if len(b.msgs) == 0 {
		return found, nil
	}
	err := h.withSocket(func(s *socket) error {
		_, err := s.send(ctx, &b, func(r reply) {
			if l, ok := parseLink(r.payload); ok {
				found[l.Name] = l.own()
			}
		})
		return err
	})
	if err == nil {
		err = ctx.Err()
	}
	return found, err
}

// describe adds MAC, MTU and alias of want to the current message about a
// link, those of them that are not zero and not so already: to write a MAC
// drops the device's neighbour entries, even if it is the same.
func (b *batch) describe(want, seen host.Link) {
	if want.MAC != seen.MAC {
		b.mac(unix.IFLA_ADDRESS, want.MAC)
	}
	if want.MTU != 0 && want.MTU != seen.MTU {
		b.u32(unix.IFLA_MTU, uint32(want.MTU))
	}
	if want.Alias != "" && want.Alias != seen.Alias {
		b.bytes(unix.IFLA_IFALIAS, []byte(want.Alias))
	}
}

// setLink adds a message that makes an existing link up or down as want is,
// with its MAC, MTU and alias.
func (b *batch) setLink(want, seen host.Link) {
	var flags uint32
	if want.Up {
		flags = unix.IFF_UP
	}
	b.add(unix.RTM_SETLINK, 0, "set "+LinkKey(want.Name), ifinfo(seen.Index, flags, unix.IFF_UP))
	b.describe(want, seen)
}

// LinkKey is the key of a link in errors and status: "link cali1".
func LinkKey(name string) string { return "link " + name }
