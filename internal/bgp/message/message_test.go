// SPDX-License-Identifier: Apache-2.0

package message

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// equal compares messages field by field.
var equal = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

var equalPrefix = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

func diff(want, got any) string { return cmp.Diff(want, got, equal, equalPrefix) }

// encode is Append of a message that must be right.
func encode(t *testing.T, m Message, opt Options) []byte {
	t.Helper()
	wire, err := Append([]byte("kept"), m, opt)
	if err != nil {
		t.Fatal(err)
	}
	if string(wire[:4]) != "kept" {
		t.Fatal("Append changed what was there")
	}
	return wire[4:]
}

// reread encodes m, reads it back and returns what came.
func reread(t *testing.T, m Message, opt Options) Message {
	t.Helper()
	wire := encode(t, m, opt)
	typ, length, err := ReadHeader(wire)
	if err != nil || typ != m.Type() || length != len(wire) {
		t.Fatalf("header of %v: %v, %d of %d bytes, %v", m.Type(), typ, length, len(wire), err)
	}
	got, err := Decode(typ, wire[HeaderLen:], opt)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestMessagesSurviveTheWire(t *testing.T) {
	for _, m := range []Message{
		&Keepalive{},
		&RouteRefresh{Family: IPv4Unicast},
		&Notification{Code: Cease, Subcode: AdminShutdown},
		&Notification{Code: UpdateError, Subcode: MalformedASPath, Data: []byte{1, 2, 3}},
		articleOpen(),
		&Open{AS: 70000, HoldTime: 0, RouterID: netip.MustParseAddr("10.0.0.1"), Capabilities: Capabilities{AS4: true}},
		&Open{AS: 1, HoldTime: 3, RouterID: netip.MustParseAddr("255.255.255.255")},
		&Open{AS: 1, HoldTime: 3, RouterID: netip.MustParseAddr("1.2.3.4"), Capabilities: Capabilities{Unknown: []Capability{
			{Code: 73, Value: make([]byte, 200)}, {Code: 73, Value: make([]byte, 255)}, {Code: 99},
		}}},
		&Update{EndOfRIB: true},
		&Update{Withdrawn: prefixes("0.0.0.0/0", "10.0.0.0/8", "172.16.0.64/26", "192.0.2.1/32")},
		articleUpdate(),
	} {
		for _, opt := range []Options{{Internal: true}, {Internal: true, AS4: true}} {
			if d := diff(m, reread(t, m, opt)); d != "" {
				t.Errorf("%v %+v: -sent +read\n%s", m.Type(), opt, d)
			}
		}
	}
}

func TestHeaderErrors(t *testing.T) {
	header := func(length uint16, typ byte) []byte {
		b := appendHeader(nil, Type(typ))
		binary.BigEndian.PutUint16(b[16:], length)
		return b
	}
	for _, c := range []struct {
		name    string
		b       []byte
		subcode Subcode
		data    []byte
	}{
		{"marker", append([]byte{0xfe}, header(19, 4)[1:]...), NotSynchronized, nil},
		{"cut off", header(19, 4)[:18], BadMessageLength, nil},
		{"length 18", header(18, 4), BadMessageLength, []byte{0, 18}},
		{"length 4097", header(4097, 2), BadMessageLength, []byte{0x10, 1}},
		{"length 5000", header(5000, 2), BadMessageLength, []byte{0x13, 0x88}},
		{"type 99", header(19, 99), BadMessageType, []byte{99}},
		{"type 0", header(19, 0), BadMessageType, []byte{0}},
		{"short OPEN", header(28, 1), BadMessageLength, []byte{0, 28}},
		{"short UPDATE", header(22, 2), BadMessageLength, []byte{0, 22}},
		{"short NOTIFICATION", header(20, 3), BadMessageLength, []byte{0, 20}},
		{"long KEEPALIVE", header(20, 4), BadMessageLength, []byte{0, 20}},
		{"long ROUTE-REFRESH", header(24, 5), BadMessageLength, []byte{0, 24}},
	} {
		_, _, err := ReadHeader(c.b)
		wantNotification(t, c.name, err, HeaderError, c.subcode, c.data)
	}
}

// wantNotification checks that err is the Notification to answer with.
func wantNotification(t *testing.T, name string, err error, code Code, subcode Subcode, data []byte) {
	t.Helper()
	var n *Notification
	if !errors.As(err, &n) {
		t.Errorf("%s: %v is no Notification", name, err)
		return
	}
	if n.Code != code || n.Subcode != subcode || string(n.Data) != string(data) {
		t.Errorf("%s: %d/%d %x (%v), want %d/%d %x", name, n.Code, n.Subcode, n.Data, n, code, subcode, data)
	}
	if n.Detail == "" {
		t.Errorf("%s: no detail for people", name)
	}
}

func TestBodiesOfWrongLengthAreRefused(t *testing.T) {
	for typ, size := range map[Type]int{TypeOpen: 9, TypeNotification: 1, TypeKeepalive: 1, TypeRouteRefresh: 3} {
		_, err := Decode(typ, make([]byte, size), Options{})
		data := []byte{0, byte(HeaderLen + size)}
		wantNotification(t, typ.String(), err, HeaderError, BadMessageLength, data)
	}
	_, err := Decode(6, nil, Options{})
	wantNotification(t, "type 6", err, HeaderError, BadMessageType, []byte{6})
}

func TestAppendRefusesWhatCannotBeSaid(t *testing.T) {
	many := make([]netip.Prefix, 900)
	for i := range many {
		many[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i)}), 32)
	}
	big := make([]byte, 256)
	for name, m := range map[string]Message{
		"too long":            &Update{Withdrawn: many},
		"empty":               &Update{},
		"End-of-RIB + routes": &Update{EndOfRIB: true, Withdrawn: many[:1]},
		"no attributes":       &Update{NLRI: many[:1]},
		"no next hop":         &Update{NLRI: many[:1], Attrs: &Attrs{}},
		"IPv6":                &Update{Withdrawn: prefixes("2001:db8::/32")},
		"restart time":        &Open{Capabilities: Capabilities{Restart: &GracefulRestart{Time: 4096}}},
		"restart families":    &Open{Capabilities: Capabilities{Restart: &GracefulRestart{Families: make([]RestartFamily, 64)}}},
		"capability":          &Open{Capabilities: Capabilities{Unknown: []Capability{{Value: big}}}},
	} {
		if open, ok := m.(*Open); ok {
			open.RouterID = netip.MustParseAddr("10.0.0.1")
		}
		if got, err := Append([]byte{1}, m, Options{}); err == nil || len(got) != 1 {
			t.Errorf("%s: %d bytes, error %v; want an error and dst unchanged", name, len(got), err)
		}
	}
}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func articleOpen() *Open {
	return &Open{
		AS: 64512, HoldTime: 90, RouterID: netip.MustParseAddr("192.168.0.10"),
		Capabilities: Capabilities{
			Families:     []Family{IPv4Unicast},
			RouteRefresh: true,
			AS4:          true,
			Restart: &GracefulRestart{
				Restarting: true, Notification: true, Time: 120,
				Families: []RestartFamily{{Family: IPv4Unicast, Forwarding: true}},
			},
		},
	}
}

func articleUpdate() *Update {
	return &Update{
		Withdrawn: prefixes("172.16.1.0/26"),
		NLRI:      prefixes("172.16.0.64/26", "172.16.0.128/26"),
		Attrs: &Attrs{
			ASPath: ASPath{
				{Type: ASSequence, ASNs: asns(64512, 4200000000)},
				{Type: ASSet, ASNs: asns(1, 65536)},
			},
			NextHop: netip.MustParseAddr("192.168.0.10"),
			MED:     5, HasMED: true,
			LocalPref: 100, HasLocalPref: true,
			AtomicAggregate: true,
			Aggregator:      &Aggregator{AS: 70000, ID: netip.MustParseAddr("10.0.0.9")},
			Communities:     []Community{NoExport, 64512<<16 | 7},
			OriginatorID:    netip.MustParseAddr("192.168.0.11"),
			ClusterList:     []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")},
		},
	}
}
