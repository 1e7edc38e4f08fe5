// SPDX-License-Identifier: Apache-2.0

package message

import (
	"fmt"
	"net/netip"
)

// families are the ones whose routes are read; routes of others are skipped.
// IPv6 unicast is one more line here, with its own prefix decoder, and
// MP_REACH_NLRI when sending.
var families = map[Family]struct {
	nextHop  int // bytes of a next hop in MP_REACH_NLRI
	prefixes func(dst []netip.Prefix, b []byte) ([]netip.Prefix, error)
}{
	IPv4Unicast: {nextHop: 4, prefixes: decodePrefixes},
}

// decodePrefixes appends the prefixes in b, each a length in bits and as many
// bytes as that needs (RFC 4271 section 4.3). Bits beyond the length are
// ignored, as the RFC says.
func decodePrefixes(dst []netip.Prefix, b []byte) ([]netip.Prefix, error) {
	if len(b) > 0 && dst == nil {
		dst = make([]netip.Prefix, 0, len(b)/4+1)
	}
	for len(b) > 0 {
		bits := int(b[0])
		size := (bits + 7) / 8
		if bits > 32 {
			return nil, fmt.Errorf("prefix of %d bits", bits)
		}
		if size > len(b)-1 {
			return nil, fmt.Errorf("prefix of %d bits is cut off", bits)
		}
		var addr [4]byte
		copy(addr[:], b[1:1+size])
		dst = append(dst, netip.PrefixFrom(netip.AddrFrom4(addr), bits).Masked())
		b = b[1+size:]
	}
	return dst, nil
}

// appendPrefix appends one IPv4 prefix in wire form.
func appendPrefix(dst []byte, p netip.Prefix) []byte {
	addr := p.Masked().Addr().As4()
	bits := p.Bits()
	return append(append(dst, byte(bits)), addr[:(bits+7)/8]...)
}

// prefixLen is the number of bytes appendPrefix appends.
func prefixLen(p netip.Prefix) int { return 1 + (p.Bits()+7)/8 }

// forwardable says whether a route to p can make sense: RFC 4271 section 6.3
// has prefixes that are semantically wrong ignored, one by one. Prefixes
// shorter than 8 bits that begin with 0 cover more than 0/8.
func forwardable(p netip.Prefix) bool {
	return usable(p.Addr()) || p.Bits() < 8 && p.Addr() == netip.IPv4Unspecified()
}

// usable says whether a is a unicast address that may stand in a packet
// between hosts: not of 0/8, 127/8, multicast or class E.
func usable(a netip.Addr) bool {
	first := a.As4()[0]
	return first != 0 && first != 127 && first < 224
}
