// SPDX-License-Identifier: Apache-2.0

package article

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/netns"
	"github.com/ocicat-net/ocicat/test/labtest"
)

// capture captures the echo request and its reply on a device of a node while
// a pod pings an address once, and prints them as tcpdump -e -v would, without
// the time.
func capture(t *testing.T, l *labtest.Lab, node, dev, pod, target string) string {
	t.Helper()
	fd := listen(t, l, node, dev)
	defer unix.Close(fd)
	run(t, l, "pod "+pod, "busybox", "ping", "-c", "1", target)
	var out strings.Builder
	buf := make([]byte, 2048)
	for seen := 0; seen < 2; {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			t.Fatalf("read frame %d on %s: %v", seen+1, dev, err)
		}
		if text, ok := dissect(buf[:n], target); ok {
			out.WriteString(text)
			seen++
		}
	}
	return out.String()
}

// listen opens a packet socket on a device of a node.
func listen(t *testing.T, l *labtest.Lab, node, dev string) int {
	t.Helper()
	state, err := l.State()
	if err != nil {
		t.Fatal(err)
	}
	n, err := state.Node(node)
	if err != nil {
		t.Fatal(err)
	}
	ns, err := netns.Open("/run/netns/" + n.Netns)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	fd := -1
	err = netns.Do(ns, func() error {
		link, err := net.InterfaceByName(dev)
		if err != nil {
			return err
		}
		const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xff00 // in network order
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(5 * time.Second / time.Second)}); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index})
	})
	if err != nil {
		t.Fatalf("listen on %s of %s: %v", dev, node, err)
	}
	return fd
}

// dissect prints an ICMP echo to or from the target; ok is false for any other
// frame.
func dissect(frame []byte, target string) (text string, ok bool) {
	const ethernet, ipv4, icmp = 14, 20, 8
	if len(frame) < ethernet+ipv4+icmp || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_IP {
		return "", false
	}
	ip := frame[ethernet:]
	if ip[0] != 0x45 || ip[9] != unix.IPPROTO_ICMP {
		return "", false
	}
	src, dst := netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	kind, known := map[byte]string{8: "request", 0: "reply"}[ip[ipv4]]
	if !known || src.String() != target && dst.String() != target {
		return "", false
	}
	flags := "none"
	if ip[6]&0x40 != 0 {
		flags = "DF"
	}
	length := binary.BigEndian.Uint16(ip[2:])
	return fmt.Sprintf("%s > %s, ethertype IPv4 (0x0800), length %d: (tos 0x%x, ttl %d, id %d, offset %d, flags [%s], proto ICMP (%d), length %d)\n    %s > %s: ICMP echo %s, id %d, seq %d, length %d\n",
		net.HardwareAddr(frame[6:12]), net.HardwareAddr(frame[:6]), len(frame), ip[1], ip[8], binary.BigEndian.Uint16(ip[4:]),
		binary.BigEndian.Uint16(ip[6:])&0x1fff*8, flags, ip[9], length,
		src, dst, kind, binary.BigEndian.Uint16(ip[ipv4+4:]), binary.BigEndian.Uint16(ip[ipv4+6:]), int(length)-ipv4), true
}
