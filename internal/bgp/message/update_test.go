// SPDX-License-Identifier: Apache-2.0

package message

import (
	"net/netip"
	"slices"
	"testing"
)

// Written by hand from RFC 4271 section 4.3.
const articleUpdateWire = `
	ffffffffffffffffffffffffffffffff 0081 02
	0005 1a ac100100
	005b
	40 01 01 00
	40 02 14 02 02 0000fc00 fa56ea00 01 02 00000001 00010000
	40 03 04 c0a8000a
	80 04 04 00000005
	40 05 04 00000064
	40 06 00
	c0 07 08 00011170 0a000009
	c0 08 08 ffffff01 fc000007
	80 09 04 c0a8000b
	80 0a 08 0a000001 0a000002
	1a ac100040 1a ac100080`

func TestUpdateOnTheWire(t *testing.T) {
	want := unhex(t, articleUpdateWire)
	if got := encode(t, articleUpdate(), internal); !slices.Equal(got, want) {
		t.Errorf("sent\n%x, want\n%x", got, want)
	}
	got, err := Decode(TypeUpdate, want[HeaderLen:], internal)
	if err != nil {
		t.Fatal(err)
	}
	if d := diff(articleUpdate(), got); d != "" {
		t.Errorf("-want +read\n%s", d)
	}
}

func TestLongAttributesUseTheExtendedLength(t *testing.T) {
	u := articleUpdate()
	for i := range 100 {
		u.Attrs.Communities = append(u.Attrs.Communities, Community(i))
	}
	long := make(ASPath, 1)
	long[0] = Segment{Type: ASSequence, ASNs: slices.Repeat(asns(7), 200)}
	u.Attrs.ASPath = long
	if d := diff(u, reread(t, u, internal)); d != "" {
		t.Errorf("-sent +read\n%s", d)
	}
}

// What a peer with two-byte AS numbers is told (RFC 6793 section 4.2.2).
func TestUpdateToATwoBytePeer(t *testing.T) {
	wire := encode(t, articleUpdate(), Options{Internal: true})
	for name, attr := range map[string]string{
		"AS_PATH":        "40 02 0c 02 02 fc00 5ba0 01 02 0001 5ba0",
		"AS4_PATH":       "c0 11 14 02 02 0000fc00 fa56ea00 01 02 00000001 00010000",
		"AGGREGATOR":     "c0 07 06 5ba0 0a000009",
		"AS4_AGGREGATOR": "c0 12 08 00011170 0a000009",
	} {
		if !contains(wire, unhex(t, attr)) {
			t.Errorf("%s is not in %x", name, wire)
		}
	}
	small := articleUpdate()
	small.Attrs.ASPath, small.Attrs.Aggregator.AS = ASPath{sequence(1, 65535)}, 1
	if wire := encode(t, small, Options{Internal: true}); contains(wire, []byte{0xc0, byte(AttrAS4Path)}) || contains(wire, []byte{0xc0, byte(AttrAS4Aggregator)}) {
		t.Errorf("AS4 attributes without need in %x", wire)
	}
}

func contains(b, part []byte) bool {
	for ; len(b) >= len(part); b = b[1:] {
		if slices.Equal(b[:len(part)], part) {
			return true
		}
	}
	return false
}

// An AGGREGATOR that does not say AS_TRANS was set by a speaker that knew
// nothing of the AS4 attributes: both are out of date (RFC 6793 section 4.2.3).
func TestStaleAS4AttributesAreIgnored(t *testing.T) {
	for _, c := range []struct {
		name       string
		aggregator []byte
		path       ASPath
		as         uint32
	}{
		{"mappable", []byte{0, 9}, ASPath{sequence(65001)}, 9},
		{"AS_TRANS", []byte{0x5b, 0xa0}, ASPath{sequence(70001)}, 70000},
	} {
		body := announce(oldGood(
			attr(0xc0, AttrAggregator, append(c.aggregator, 1, 1, 1, 1)...),
			attr(0xc0, AttrAS4Path, 2, 1, 0, 1, 0x11, 0x71),
			attr(0xc0, AttrAS4Aggregator, 0, 1, 0x11, 0x70, 1, 1, 1, 1)))
		m, err := Decode(TypeUpdate, body, old)
		if err != nil {
			t.Fatal(err)
		}
		got := m.(*Update).Attrs
		if !got.ASPath.Equal(c.path) || uint32(got.Aggregator.AS) != c.as {
			t.Errorf("%s: path %v aggregator %d, want %v %d", c.name, got.ASPath, got.Aggregator.AS, c.path, c.as)
		}
	}
}

func TestMultiprotocolFieldsReadLikeClassicOnes(t *testing.T) {
	v4 := attr(0x80, AttrMPReach, mpReach(1, 1, 192, 168, 0, 11)...)
	for _, c := range []struct {
		name            string
		attrs           []byte
		nlri, withdrawn []netip.Prefix
	}{
		{"reach", good(AttrNextHop, v4), prefixes("172.16.9.0/26"), nil},
		{"reach with NEXT_HOP", good(0, v4), prefixes("172.16.9.0/26"), nil},
		{"unreach", attr(0x80, AttrMPUnreach, 0, 1, 1, 8, 10), nil, prefixes("10.0.0.0/8")},
		{"both", good(AttrNextHop, v4, attr(0x80, AttrMPUnreach, 0, 1, 1, 8, 10)), prefixes("172.16.9.0/26"), prefixes("10.0.0.0/8")},
	} {
		m, err := Decode(TypeUpdate, slices.Concat(field(), field(c.attrs...)), external)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		u := m.(*Update)
		if diff(c.nlri, u.NLRI) != "" || diff(c.withdrawn, u.Withdrawn) != "" || u.Flaws != nil || u.EndOfRIB {
			t.Errorf("%s: %+v", c.name, u)
		}
		if c.nlri != nil && u.Attrs.NextHop != netip.MustParseAddr("192.168.0.11") {
			t.Errorf("%s: next hop %v", c.name, u.Attrs.NextHop)
		}
	}
}

func TestEndOfRIB(t *testing.T) {
	for _, c := range []struct {
		name string
		body []byte
		want bool
	}{
		{"empty", []byte{0, 0, 0, 0}, true},
		{"multiprotocol", slices.Concat(field(), field(attr(0x80, AttrMPUnreach, 0, 1, 1)...)), true},
		{"of IPv6", slices.Concat(field(), field(attr(0x80, AttrMPUnreach, 0, 2, 1)...)), false},
		{"attributes", slices.Concat(field(), field(good(0)...)), false},
		{"withdrawal", slices.Concat(field(goodNLRI...), field()), false},
		{"multiprotocol withdrawal", slices.Concat(field(), field(attr(0x80, AttrMPUnreach, 0, 1, 1, 8, 10)...)), false},
		{"route", announce(good(0)), false},
	} {
		m, err := Decode(TypeUpdate, c.body, external)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := m.(*Update).EndOfRIB; got != c.want {
			t.Errorf("%s: End-of-RIB %v, want %v", c.name, got, c.want)
		}
	}
}

func TestPrefixesAreMaskedAndChecked(t *testing.T) {
	body := slices.Concat(field(), field(good(0)...),
		[]byte{26, 172, 16, 0, 127},                                    // host bits set
		[]byte{0},                                                      // the default route
		[]byte{1, 0x7f},                                                // 0.0.0.0/1
		[]byte{4, 0xe0}, []byte{8, 0}, []byte{8, 127}, []byte{5, 0xf0}) // multicast, 0/8, loopback, class E
	m, err := Decode(TypeUpdate, body, external)
	if err != nil {
		t.Fatal(err)
	}
	if d := diff(prefixes("172.16.0.64/26", "0.0.0.0/0", "0.0.0.0/1"), m.(*Update).NLRI); d != "" {
		t.Errorf("-want +read\n%s", d)
	}
}

func TestDecodeKeepsNothingOfItsInput(t *testing.T) {
	wire := encode(t, articleUpdate(), internal)
	m, err := Decode(TypeUpdate, wire[HeaderLen:], internal)
	if err != nil {
		t.Fatal(err)
	}
	clear(wire)
	if d := diff(articleUpdate(), m); d != "" {
		t.Errorf("-want +after the buffer was reused\n%s", d)
	}
}

func TestAttrsEqual(t *testing.T) {
	changes := []func(*Attrs){
		func(a *Attrs) { a.Origin = OriginEGP },
		func(a *Attrs) { a.ASPath = nil },
		func(a *Attrs) { a.ASPath = ASPath{set(64512)} },
		func(a *Attrs) { a.NextHop = netip.MustParseAddr("1.1.1.1") },
		func(a *Attrs) { a.MED++ },
		func(a *Attrs) { a.HasMED = false },
		func(a *Attrs) { a.LocalPref++ },
		func(a *Attrs) { a.HasLocalPref = false },
		func(a *Attrs) { a.AtomicAggregate = false },
		func(a *Attrs) { a.Aggregator = nil },
		func(a *Attrs) { a.Aggregator = &Aggregator{AS: 1, ID: a.Aggregator.ID} },
		func(a *Attrs) { a.Communities = nil },
		func(a *Attrs) { a.OriginatorID = netip.Addr{} },
		func(a *Attrs) { a.ClusterList = a.ClusterList[:1] },
	}
	same := articleUpdate().Attrs
	if !same.Equal(articleUpdate().Attrs) || same.Equal(nil) || !(*Attrs)(nil).Equal(nil) {
		t.Error("wrong about equal attributes or nil")
	}
	for i, change := range changes {
		other := articleUpdate().Attrs
		change(other)
		if same.Equal(other) || other.Equal(same) {
			t.Errorf("change %d goes unnoticed", i)
		}
	}
}
