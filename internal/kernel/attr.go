// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/host"
)

// attributes iterates over netlink attributes as type without flags, and
// value. What is cut short ends it: the kernel sends whole messages.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofNlAttr {
			size := int(binary.NativeEndian.Uint16(b))
			if size < unix.SizeofNlAttr || size > len(b) {
				return
			}
			typ := binary.NativeEndian.Uint16(b[2:]) & ^uint16(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER)
			if !yield(typ, b[unix.SizeofNlAttr:size]) {
				return
			}
			b = b[min(align(size), len(b)):]
		}
	}
}

// find is the value of the first attribute of type typ, nil without one.
func find(b []byte, typ uint16) []byte {
	for t, v := range attributes(b) {
		if t == typ {
			return v
		}
	}
	return nil
}

func align(n int) int {
	return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1)
}

// number is a u32 attribute's value, 0 when it is shorter.
func number(v []byte) uint32 {
	if len(v) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(v)
}

func text(v []byte) string { return strings.TrimRight(string(v), "\x00") }

func macOf(v []byte) host.MAC {
	var m host.MAC
	if len(v) == len(m) {
		copy(m[:], v)
	}
	return m
}

// addr is an address attribute's value, the zero Addr if it is none.
func addr(v []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(v)
	return a
}
