// SPDX-License-Identifier: Apache-2.0

package message

import (
	"net/netip"
	"testing"
)

// fullUpdate carries as many /26 blocks as one message holds in a cluster.
func fullUpdate() *Update {
	u := articleUpdate()
	u.Withdrawn, u.NLRI = nil, nil
	for i := range 750 {
		addr := netip.AddrFrom4([4]byte{172, 16 + byte(i>>10), byte(i >> 2), byte(i << 6)})
		u.NLRI = append(u.NLRI, netip.PrefixFrom(addr, 26))
	}
	return u
}

// blockUpdate is one block of a mesh node, the usual message.
func blockUpdate() *Update {
	return &Update{NLRI: prefixes("172.16.0.64/26"), Attrs: &Attrs{
		NextHop: netip.MustParseAddr("192.168.0.10"), LocalPref: 100, HasLocalPref: true,
	}}
}

func BenchmarkDecodeUpdate(b *testing.B) {
	for name, u := range map[string]*Update{"block": blockUpdate(), "full": fullUpdate()} {
		b.Run(name, func(b *testing.B) {
			wire, err := Append(nil, u, internal)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.SetBytes(int64(len(wire)))
			for b.Loop() {
				if _, err := Decode(TypeUpdate, wire[HeaderLen:], internal); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendUpdate(b *testing.B) {
	for name, u := range map[string]*Update{"block": blockUpdate(), "full": fullUpdate()} {
		b.Run(name, func(b *testing.B) {
			var wire []byte
			b.ReportAllocs()
			for b.Loop() {
				var err error
				if wire, err = Append(wire[:0], u, internal); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
