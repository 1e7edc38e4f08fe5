// SPDX-License-Identifier: Apache-2.0

package message

import (
	"encoding/hex"
	"slices"
	"strings"
	"testing"
)

// unhex reads hex in which spaces group the fields.
func unhex(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The bytes are written by hand from RFC 4271 section 4.2 and the RFCs of the
// capabilities, so that encoder and decoder cannot agree on an error.
const articleOpenWire = `
	ffffffffffffffffffffffffffffffff 0035 01
	04 fc00 005a c0a8000a 18
	02 16
	01 04 0001 00 01
	02 00
	40 06 c078 0001 01 80
	41 04 0000fc00`

func TestOpenOnTheWire(t *testing.T) {
	want := unhex(t, articleOpenWire)
	if got := encode(t, articleOpen(), Options{}); !slices.Equal(got, want) {
		t.Errorf("sent\n%x, want\n%x", got, want)
	}
	got, err := Decode(TypeOpen, want[HeaderLen:], Options{})
	if err != nil {
		t.Fatal(err)
	}
	if d := diff(articleOpen(), got); d != "" {
		t.Errorf("-want +read\n%s", d)
	}
}

func TestFourByteASInOpen(t *testing.T) {
	open := articleOpen()
	open.AS = 4200000001
	wire := encode(t, open, Options{})
	if as := wire[HeaderLen+1 : HeaderLen+3]; !slices.Equal(as, []byte{0x5b, 0xa0}) {
		t.Errorf("two-byte AS %x, want AS_TRANS 23456", as)
	}
	if got := reread(t, open, Options{}).(*Open); got.AS != open.AS {
		t.Errorf("AS %d, want %d", got.AS, open.AS)
	}
}

// openBody is version, AS 64512, hold time 90 and identifier 10.0.0.1 with
// the rest given.
func openBody(rest ...byte) []byte {
	return append([]byte{4, 0xfc, 0, 0, 90, 10, 0, 0, 1}, rest...)
}

func TestOpenParametersInEveryForm(t *testing.T) {
	refresh := []byte{2, 2, 2, 0}
	as4 := []byte{2, 6, 65, 4, 0, 0, 0xfc, 0}
	extended := []byte{255, 0, 11, 2, 0, 2, 2, 0, 2, 0, 0, 2, 0, 0}
	for _, c := range []struct {
		name string
		rest []byte
		want Capabilities
	}{
		{"none", []byte{0}, Capabilities{}},
		{"one parameter each", slices.Concat([]byte{12}, refresh, as4), Capabilities{RouteRefresh: true, AS4: true}},
		{"empty parameter", []byte{2, 2, 0}, Capabilities{}},
		{"RFC 9072", slices.Concat([]byte{255}, extended), Capabilities{RouteRefresh: true}},
		{"RFC 9072, other classic length", slices.Concat([]byte{9}, extended), Capabilities{RouteRefresh: true}},
		{"unknown capability", []byte{6, 2, 4, 70, 0, 6, 0}, Capabilities{Unknown: []Capability{{Code: 70}, {Code: 6}}}},
		{"family twice", []byte{14, 2, 12, 1, 4, 0, 1, 0, 1, 1, 4, 0, 1, 0, 1}, Capabilities{Families: []Family{IPv4Unicast}}},
		{"the last restart counts", []byte{10, 2, 8, 64, 2, 0x80, 1, 64, 2, 0, 2}, Capabilities{Restart: &GracefulRestart{Time: 2}}},
	} {
		if c.name == "RFC 9072" || c.name == "RFC 9072, other classic length" {
			c.rest[3] = byte(len(c.rest) - 4)
		}
		m, err := Decode(TypeOpen, openBody(c.rest...), Options{})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if d := diff(c.want, m.(*Open).Capabilities); d != "" {
			t.Errorf("%s: -want +read\n%s", c.name, d)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	with := func(i int, b ...byte) []byte {
		body := openBody(0)
		copy(body[i:], b)
		return body
	}
	for _, c := range []struct {
		name    string
		body    []byte
		subcode Subcode
		data    []byte
	}{
		{"version 3", with(0, 3), UnsupportedVersion, []byte{0, 4}},
		{"AS 0", with(1, 0, 0), BadPeerAS, nil},
		{"AS 0 in four bytes", openBody(8, 2, 6, 65, 4, 0, 0, 0, 0), BadPeerAS, nil},
		{"identifier 0", with(5, 0, 0, 0, 0), BadIdentifier, nil},
		{"hold time 1", with(3, 0, 1), UnacceptableHoldTime, nil},
		{"hold time 2", with(3, 0, 2), UnacceptableHoldTime, nil},
		{"authentication parameter", openBody(3, 1, 1, 0), UnsupportedParameter, nil},
		{"parameters overrun", openBody(4, 2, 2), 0, nil},
		{"parameters too short", openBody(0, 2, 0), 0, nil},
		{"parameter overruns", openBody(3, 2, 2, 2), 0, nil},
		{"parameter cut off", openBody(1, 2), 0, nil},
		{"capability overruns", openBody(4, 2, 2, 2, 1), 0, nil},
		{"capability cut off", openBody(3, 2, 1, 2), 0, nil},
		{"multiprotocol of 3 bytes", openBody(7, 2, 5, 1, 3, 0, 1, 0), 0, nil},
		{"four-byte AS of 2 bytes", openBody(6, 2, 4, 65, 2, 0, 1), 0, nil},
		{"restart of 1 byte", openBody(5, 2, 3, 64, 1, 0), 0, nil},
		{"restart of 5 bytes", openBody(9, 2, 7, 64, 5, 0, 0, 0, 1, 1), 0, nil},
		{"refresh of 1 byte", openBody(5, 2, 3, 2, 1, 0), 0, nil},
		{"RFC 9072 overruns", openBody(255, 255, 0, 9, 2, 0, 0), 0, nil},
		{"RFC 9072 parameter cut off", openBody(255, 255, 0, 2, 2, 0), 0, nil},
	} {
		_, err := Decode(TypeOpen, c.body, Options{})
		wantNotification(t, c.name, err, OpenError, c.subcode, c.data)
	}
}

func TestCapabilityQuestions(t *testing.T) {
	v6 := Family{AFI: AFIIPv6, SAFI: SAFIUnicast}
	var none Capabilities
	if !none.HasFamily(IPv4Unicast) || none.HasFamily(v6) {
		t.Error("an OPEN without multiprotocol means IPv4 unicast alone")
	}
	only6 := Capabilities{Families: []Family{v6}}
	if only6.HasFamily(IPv4Unicast) || !only6.HasFamily(v6) {
		t.Error("an OPEN with IPv6 alone does not mean IPv4")
	}
	open := articleOpen()
	for _, c := range []struct {
		g                   *GracefulRestart
		f                   Family
		forwarding, present bool
	}{
		{nil, IPv4Unicast, false, false},
		{open.Capabilities.Restart, IPv4Unicast, true, true},
		{open.Capabilities.Restart, v6, false, false},
		{&GracefulRestart{Families: []RestartFamily{{Family: v6}}}, v6, false, true},
	} {
		if forwarding, present := c.g.Kept(c.f); forwarding != c.forwarding || present != c.present {
			t.Errorf("%+v of %v: %v %v", c.f, c.g, forwarding, present)
		}
	}
}
