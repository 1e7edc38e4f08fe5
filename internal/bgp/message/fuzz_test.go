// SPDX-License-Identifier: Apache-2.0

package message

import (
	"errors"
	"slices"
	"testing"
)

// optionsOf makes Options of the bits of b.
func optionsOf(b byte) Options { return Options{AS4: b&1 != 0, Internal: b&2 != 0} }

// checkRoundTrip decodes body; what it says must survive being sent again, and
// what it does not accept must be answered with a NOTIFICATION.
func checkRoundTrip(t *testing.T, typ Type, body []byte, opt Options) {
	first, err := Decode(typ, body, opt)
	if err != nil {
		var n *Notification
		if !errors.As(err, &n) || n.Code == 0 || n.Error() == "" {
			t.Fatalf("%v is no NOTIFICATION to send", err)
		}
		if _, err := Append(nil, n, opt); err != nil {
			t.Fatal(err)
		}
		return
	}
	if u, ok := first.(*Update); ok {
		checkUpdate(t, u)
		u.Flaws = nil
	}
	wire, err := Append(nil, first, opt)
	if err != nil {
		// A path rebuilt from AS4_PATH can need more room than it came in, and
		// a message about other families has nothing to say in our words.
		if _, ok := first.(*Update); !ok {
			t.Fatal(err)
		}
		return
	}
	typ2, length, err := ReadHeader(wire)
	if err != nil || typ2 != typ || length != len(wire) {
		t.Fatalf("header %v %d of %d bytes: %v", typ2, length, len(wire), err)
	}
	second, err := Decode(typ, wire[HeaderLen:], opt)
	if err != nil {
		t.Fatalf("our own message is refused: %v", err)
	}
	if d := diff(first, second); d != "" {
		t.Fatalf("-read +sent and read again\n%s", d)
	}
}

// checkUpdate states what users of an Update rely on.
func checkUpdate(t *testing.T, u *Update) {
	if (u.Attrs == nil) != (len(u.NLRI) == 0) {
		t.Fatalf("attributes %v with %d routes", u.Attrs, len(u.NLRI))
	}
	if u.TreatedAsWithdrawn() && len(u.NLRI) > 0 {
		t.Fatal("routes are announced although treated as withdrawn")
	}
	if u.EndOfRIB && len(u.NLRI)+len(u.Withdrawn) > 0 {
		t.Fatal("End-of-RIB with routes")
	}
	for _, p := range u.NLRI {
		if p != p.Masked() || !forwardable(p) {
			t.Fatalf("prefix %v", p)
		}
	}
	if u.Attrs == nil {
		return
	}
	if !u.Attrs.NextHop.Is4() || !usable(u.Attrs.NextHop) || u.Attrs.ASPath.Contains(0) {
		t.Fatalf("next hop %v, path %v", u.Attrs.NextHop, u.Attrs.ASPath)
	}
	for _, s := range u.Attrs.ASPath {
		if len(s.ASNs) == 0 || s.Type != ASSet && s.Type != ASSequence {
			t.Fatalf("segment %+v", s)
		}
	}
}

func FuzzDecodeUpdate(f *testing.F) {
	for _, c := range malformedUpdates {
		f.Add(c.body, byte(0))
		f.Add(c.body, byte(3))
	}
	// Nothing is left of what is announced.
	f.Add(slices.Concat(field(32, 10, 0, 0, 1), field(good(0)...), []byte{8, 224}), byte(1))
	for bits := range byte(4) {
		wire, err := Append(nil, articleUpdate(), optionsOf(bits))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire[HeaderLen:], bits)
	}
	f.Fuzz(func(t *testing.T, body []byte, bits byte) {
		if len(body) <= MaxLen-HeaderLen {
			checkRoundTrip(t, TypeUpdate, body, optionsOf(bits))
		}
	})
}

func FuzzDecodeOpen(f *testing.F) {
	wire, err := Append(nil, articleOpen(), Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wire[HeaderLen:])
	f.Add(openBody(0))
	f.Add(openBody(255, 255, 0, 7, 2, 0, 4, 70, 0, 6, 0))
	f.Add(openBody(10, 2, 8, 64, 2, 0x80, 1, 64, 2, 0, 2))
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) <= MaxLen-HeaderLen {
			checkRoundTrip(t, TypeOpen, body, Options{})
		}
	})
}

// FuzzReadHeader reads a whole stream's first message, of any type.
func FuzzReadHeader(f *testing.F) {
	for _, m := range []Message{
		articleOpen(), articleUpdate(), &Keepalive{}, &RouteRefresh{Family: IPv4Unicast},
		Shutdown(AdminShutdown, "maintenance"), Hard(&Notification{Code: Cease, Subcode: AdminShutdown}),
	} {
		wire, err := Append(nil, m, Options{AS4: true})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		typ, length, err := ReadHeader(stream)
		if err != nil {
			var n *Notification
			if !errors.As(err, &n) || n.Code != HeaderError {
				t.Fatalf("%v is no header error", err)
			}
			return
		}
		if length < HeaderLen || length > MaxLen {
			t.Fatalf("length %d", length)
		}
		if length <= len(stream) {
			checkRoundTrip(t, typ, stream[HeaderLen:length], Options{AS4: true})
		}
	})
}
