// SPDX-License-Identifier: Apache-2.0

package message

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// drawPrefix is any IPv4 prefix of at least 8 bits that can be routed.
func drawPrefix(t *rapid.T) netip.Prefix {
	bits := rapid.IntRange(8, 32).Draw(t, "bits")
	addr := rapid.Uint32Range(0x01000000, 0x7effffff).Draw(t, "addr")
	b := [4]byte{byte(addr >> 24), byte(addr >> 16), byte(addr >> 8), byte(addr)}
	return netip.PrefixFrom(netip.AddrFrom4(b), bits).Masked()
}

// What is packed reads back whole, in order, in messages that are full.
func TestPackedPrefixesReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Custom(drawPrefix), 1, 3000).Draw(t, "prefixes")
		attrs := articleUpdate().Attrs
		attrs.ASPath = ASPath{sequence(slices.Repeat(asns(7), rapid.IntRange(1, 255).Draw(t, "path"))...)}
		wire, err := AppendAttrs(nil, attrs, internal)
		if err != nil {
			t.Fatal(err)
		}
		var announced, gone []netip.Prefix
		packed := PackAnnounced(string(wire), all)
		for _, u := range unpack(t, packed) {
			if !u.Attrs.Equal(attrs) || len(u.Withdrawn) > 0 {
				t.Fatalf("%+v, want %+v", u, attrs)
			}
			announced = append(announced, u.NLRI...)
		}
		for _, u := range unpack(t, PackWithdrawn(all)) {
			gone = append(gone, u.Withdrawn...)
		}
		if !slices.Equal(announced, all) || !slices.Equal(gone, all) {
			t.Fatalf("%d announced, %d withdrawn of %d", len(announced), len(gone), len(all))
		}
		for _, m := range packed[:len(packed)-1] {
			if len(m) < MaxLen-5 {
				t.Fatalf("message of %d bytes before another", len(m))
			}
		}
	})
}

func unpack(t *rapid.T, packed [][]byte) []*Update {
	var all []*Update
	for _, m := range packed {
		typ, length, err := ReadHeader(m)
		if err != nil || typ != TypeUpdate || length != len(m) {
			t.Fatalf("header %v %d of %d: %v", typ, length, len(m), err)
		}
		u, err := Decode(typ, m[HeaderLen:], internal)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, u.(*Update))
	}
	return all
}

func TestPackEdges(t *testing.T) {
	if PackAnnounced("", nil) != nil || PackWithdrawn(nil) != nil {
		t.Error("messages about nothing")
	}
	if want := encode(t, &Update{EndOfRIB: true}, internal); !slices.Equal(PackEndOfRIB(), want) {
		t.Errorf("End-of-RIB %x, want %x", PackEndOfRIB(), want)
	}
	two := prefixes("10.0.0.1/32", "10.0.0.2/32")
	packed := PackAnnounced(string(make([]byte, MaxAttrs)), two)
	if len(packed) != 2 || len(packed[0]) != MaxLen || len(packed[1]) != MaxLen {
		t.Errorf("%d messages for two prefixes beside the most attributes", len(packed))
	}
}
