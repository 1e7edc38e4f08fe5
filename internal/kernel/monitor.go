// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
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
// event is an Overflow: what happened before is not known. Detached links are
// not reported any more.
func (h *Handle) Monitor(ctx context.Context, each func(Event)) error {
	return h.monitor(ctx, monitorBuffer, 0, each)
}

// MonitorOthers is Monitor without the routes that ApplyRoutes of this Handle
// sets and deletes: the kernel does not queue them, so 100,000 at once neither
// cost a read each nor drive out what others did.
func (h *Handle) MonitorOthers(ctx context.Context, each func(Event)) error {
	h.writing.Lock()
	s, err := h.routeWriter()
	h.writing.Unlock()
	if err != nil {
		return err
	}
	port, err := s.port()
	if err != nil {
		return err
	}
	return h.monitor(ctx, monitorBuffer, port, each)
}

// monitor is Monitor with a receive buffer of so many bytes and without the
// routes that the socket with netlink port mute writes; 0 mutes none.
func (h *Handle) monitor(ctx context.Context, buffer int, mute uint32, each func(Event)) error {
	s, err := h.openSocket(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	if err := errors.Join(s.muteRoutes(mute), s.listen(buffer)); err != nil {
		s.close()
		return err
	}
	// Waiting is the runtime's: a thread that sits in a system call keeps its
	// scheduler awake.
	file := os.NewFile(uintptr(s.fd), "netlink monitor")
	defer file.Close()
	conn, err := file.SyscallConn()
	if err != nil {
		return wrap("wait for the kernel's events", err)
	}
	defer context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Unix(1, 0)) })()
	m := monitor{handle: h, devices: map[int]string{}}
	for overflow := true; ; {
		if overflow {
			if err := m.learnDevices(ctx); err != nil {
				return unlessEnded(ctx, err)
			}
			each(Event{Overflow: true})
		}
		var failed error
		ended := conn.Read(func(uintptr) bool {
			failed = m.read(s, each)
			return !isErrno(failed, unix.EAGAIN)
		})
		if overflow = isErrno(failed, unix.ENOBUFS); ended == nil && overflow {
			continue
		}
		if err := cmp.Or(ended, failed); err != nil {
			return unlessEnded(ctx, wrap("wait for the kernel's events", err))
		}
	}
}

// unlessEnded is err, or nil if ctx ended.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// port is the socket's netlink port, by which the kernel names who caused an
// event.
func (s *socket) port() (uint32, error) {
	addr, err := unix.Getsockname(s.fd)
	if err != nil {
		return 0, wrap("read netlink port", err)
	}
	if nl, ok := addr.(*unix.SockaddrNetlink); ok {
		return nl.Pid, nil
	}
	return 0, fault.New(fault.Internal, "read netlink port: %T is no netlink address", addr)
}

// muteRoutes keeps events of routes that port caused from being queued, by a
// classic BPF program over the message's header; 0 mutes none. BPF loads in
// network byte order what netlink has in the machine's.
func (s *socket) muteRoutes(port uint32) error {
	if port == 0 {
		return nil
	}
	var pid, added, deleted [4]byte
	binary.NativeEndian.PutUint32(pid[:], port)
	binary.NativeEndian.PutUint16(added[2:], unix.RTM_NEWROUTE)
	binary.NativeEndian.PutUint16(deleted[2:], unix.RTM_DELROUTE)
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 4}, // type
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: binary.BigEndian.Uint32(added[:])},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 3, K: binary.BigEndian.Uint32(deleted[:])},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 12}, // port
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: binary.BigEndian.Uint32(pid[:])},
		{Code: unix.BPF_RET | unix.BPF_K},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
	}
	return wrapNil("leave out own routes", unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}))
}

func (s *socket) listen(buffer int) error {
	if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer); err != nil {
		return wrap("set monitor's receive buffer", err)
	}
	for _, group := range monitorGroups {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
			return wrap("listen to netlink group", err)
		}
	}
	return wrapNil("make the monitor's reads return", unix.SetNonblock(s.fd, true))
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

// read takes what is there and tells each.
func (m *monitor) read(s *socket, each func(Event)) error {
	return s.read(func(msg netlinkMessage) {
		if ev, ok := m.event(msg); ok {
			each(ev)
		}
	})
}

// event reads one message.
func (m *monitor) event(msg netlinkMessage) (Event, bool) {
	switch msg.typ {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		l, ok := parseLink(msg.payload)
		if !ok || msg.payload[0] != unix.AF_UNSPEC {
			return Event{}, false
		}
		deleted, detached := msg.typ == unix.RTM_DELLINK, l.group == goneGroup
		if deleted || detached {
			delete(m.devices, l.Index)
		} else {
			m.devices[l.Index] = l.Name
		}
		return Event{Deleted: deleted, Link: &l.Link}, !detached
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
		return Event{Deleted: msg.typ == unix.RTM_DELADDR, Device: deviceName(m.devices, index), Addr: netip.PrefixFrom(local, int(msg.payload[1]))}, m.knows(index)
	case unix.RTM_NEWNETCONF:
		if len(msg.payload) < sizeofNetconfmsg {
			return Event{}, false
		}
		index := int(int32(number(find(msg.payload[sizeofNetconfmsg:], netconfaIfindex))))
		return Event{Device: deviceName(m.devices, index)}, m.knows(index)
	}
	return Event{}, false
}

// knows reports whether a device matters: what a detached or destroyed link
// loses is no news. Below 1 are the settings of all devices and the defaults.
func (m *monitor) knows(index int) bool {
	_, known := m.devices[index]
	return known || index < 1
}

// What linux/netconf.h says and x/sys/unix does not.
const (
	sizeofNetconfmsg = 4 // one byte, padded
	netconfaIfindex  = 1
)
