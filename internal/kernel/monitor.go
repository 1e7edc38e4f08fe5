// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/host"
)

// Event is a change the kernel reported: a hint, as events may be lost. Of
// Route, Neigh and Link one is set, or Addr for a device whose addresses or
// settings changed, or Overflow.
type Event struct {
	Deleted  bool
	Route    *host.Route // of the main table
	Neigh    *host.Neigh
	Link     *host.Link // without addresses
	Device   string     // addresses or settings of this device changed
	Addr     netip.Prefix
	Overflow bool // events were lost: look at everything
}

// monitorBuffer holds the events of 20,000 route changes at once (measured);
// the default holds 256 messages.
const monitorBuffer = 32 << 20

// monitorGroups are the rtnetlink multicast groups listened to. The last one
// reports changes of per-device settings.
var monitorGroups = []int{unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_NETCONF}

// Monitor reports the namespace's changes to each until ctx ends. The first
// event is an Overflow: what happened before is not known.
func (h *Handle) Monitor(ctx context.Context, each func(Event)) error {
	s, err := openIn(int(h.netns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.listen(); err != nil {
		return err
	}
	m := monitor{handle: h, devices: map[int]string{}}
	if err := m.learnDevices(ctx); err != nil {
		return err
	}
	each(Event{Overflow: true})
	for ctx.Err() == nil {
		polled := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(polled, monitorPoll); n == 0 || errors.Is(err, unix.EINTR) {
			continue
		}
		err := s.read(func(msg netlinkMessage) {
			if ev, ok := m.event(msg); ok {
				each(ev)
			}
		})
		if isErrno(err, unix.ENOBUFS) {
			if err := m.learnDevices(ctx); err != nil {
				return err
			}
			each(Event{Overflow: true})
			continue
		}
		if err != nil && !isErrno(err, unix.EAGAIN) {
			return err
		}
	}
	return nil
}

// monitorPoll is how long a quiet monitor sleeps before it looks at its
// context, in milliseconds.
const monitorPoll = 200

func (s *socket) listen() error {
	if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, monitorBuffer); err != nil {
		return wrap("set monitor's receive buffer", err)
	}
	for _, group := range monitorGroups {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
			return wrap("listen to netlink group", err)
		}
	}
	return nil
}

// monitor names devices in events.
type monitor struct {
	handle  *Handle
	devices map[int]string
}

func (m *monitor) learnDevices(ctx context.Context) error {
	all, _, err := m.handle.links(ctx)
	if err != nil {
		return err
	}
	m.devices = names(all)
	return nil
}

// event reads one message.
func (m *monitor) event(msg netlinkMessage) (Event, bool) {
	switch msg.typ {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		l, ok := parseLink(msg.payload)
		if !ok || msg.payload[0] != unix.AF_UNSPEC {
			return Event{}, false
		}
		deleted := msg.typ == unix.RTM_DELLINK
		if deleted {
			delete(m.devices, l.Index)
		} else {
			m.devices[l.Index] = l.Name
		}
		return Event{Deleted: deleted, Link: &l.Link}, true
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		r, table, ok := parseRoute(msg.payload, m.devices)
		return Event{Deleted: msg.typ == unix.RTM_DELROUTE, Route: &r}, ok && table == unix.RT_TABLE_MAIN
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		n, ok := parseNeigh(msg.payload, m.devices)
		return Event{Deleted: msg.typ == unix.RTM_DELNEIGH, Neigh: &n}, ok
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if len(msg.payload) < unix.SizeofIfAddrmsg {
			return Event{}, false
		}
		local := addr(find(msg.payload[unix.SizeofIfAddrmsg:], unix.IFA_LOCAL))
		index := int(binary.NativeEndian.Uint32(msg.payload[4:]))
		return Event{Deleted: msg.typ == unix.RTM_DELADDR, Device: deviceName(m.devices, index), Addr: netip.PrefixFrom(local, int(msg.payload[1]))}, true
	case unix.RTM_NEWNETCONF:
		if len(msg.payload) < sizeofNetconfmsg {
			return Event{}, false
		}
		index := int(int32(number(find(msg.payload[sizeofNetconfmsg:], netconfaIfindex))))
		return Event{Device: deviceName(m.devices, index)}, true
	}
	return Event{}, false
}

// What linux/netconf.h says and x/sys/unix does not.
const (
	sizeofNetconfmsg = 4 // one byte, padded
	netconfaIfindex  = 1
)
