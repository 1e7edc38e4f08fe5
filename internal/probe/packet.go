// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/netns"
)

// ICMP types of RFC 792.
const (
	echoReply   = 0
	echoRequest = 8
)

// echoData is the length of an echo's data: what ping sends by default.
const echoData = 56

// Send writes one echo request from the sender's namespace; the kernel of the
// pod adds the IP header, so the packet goes where the pod's packets go.
func (k *Kernels) Send(_ context.Context, from Sender, to netip.Addr, tag Tag) (time.Time, error) {
	place := k.places[from.At]
	switch {
	case place == nil:
		return time.Time{}, fault.New(fault.NotFound, "send probe from %s: its network namespace is gone", from.At)
	case !from.Addr.Is4() || !to.Is4():
		return time.Time{}, fault.New(fault.Invalid, "send probe from %s to %s: want two IPv4 addresses", from.Addr, to)
	}
	sent := time.Now()
	err := netns.Do(place.ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: from.Addr.As4()}); err != nil {
			return err
		}
		return unix.Sendto(fd, echo(tag), 0, &unix.SockaddrInet4{Addr: to.As4()})
	})
	if err != nil && !isUnreachable(err) {
		return sent, fault.New(fault.Internal, "send probe from %s to %s: %w", from.Addr, to, err)
	}
	return sent, nil
}

// isUnreachable reports whether the pod's own kernel refused to send: a
// broken path, which the missing frames show.
func isUnreachable(err error) bool {
	switch err {
	case unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENETDOWN, unix.EADDRNOTAVAIL, unix.EINVAL:
		return true
	}
	return false
}

// echo is the ICMP message.
func echo(tag Tag) []byte {
	b := make([]byte, 8+echoData)
	b[0] = echoRequest
	binary.BigEndian.PutUint16(b[4:], tag.id())
	binary.BigEndian.PutUint16(b[6:], 1)
	copy(b[8:], tag[:])
	copy(b[8+len(tag):], "ocicat trace")
	binary.BigEndian.PutUint16(b[2:], checksum(b))
	return b
}

// checksum is the Internet checksum of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// attachFilter lets only ICMP packets with the tag's first bytes through, so
// that a busy interface does not overflow the socket. The identifier would not
// do: masquerading changes it.
func attachFilter(fd int, tag Tag) error {
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 12},                               // EtherType
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.ETH_P_IP, Jt: 0, Jf: 5},     // IPv4
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 23},                               // protocol
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.IPPROTO_ICMP, Jt: 0, Jf: 3}, // ICMP
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 42},                               // data, behind an IP header of 20 bytes
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: binary.BigEndian.Uint32(tag[:]), Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &filter); err != nil {
		return fault.New(fault.Internal, "attach filter to packet socket: %w", err)
	}
	return nil
}

// interfaceIndex is the index of dev in the thread's namespace.
func interfaceIndex(dev string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fault.New(fault.Internal, "open socket: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(dev)
	if err != nil {
		return 0, fault.New(fault.Invalid, "interface %q: %w", dev, err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
		return 0, fault.New(fault.NotFound, "find interface %s: %w", dev, err)
	}
	return int(req.Uint32()), nil
}
