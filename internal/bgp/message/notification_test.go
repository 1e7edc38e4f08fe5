// SPDX-License-Identifier: Apache-2.0

package message

import (
	"strings"
	"testing"
)

func TestNotificationTexts(t *testing.T) {
	for _, c := range []struct {
		n    *Notification
		want string
	}{
		{&Notification{Code: HoldTimerExpired}, "hold timer expired"},
		{&Notification{Code: HoldTimerExpired, Subcode: 3}, "hold timer expired: subcode 3"},
		{&Notification{Code: HeaderError, Subcode: BadMessageType}, "message header error: bad message type"},
		{&Notification{Code: OpenError, Subcode: UnsupportedCapability}, "OPEN message error: unsupported capability"},
		{&Notification{Code: OpenError, Subcode: 11}, "OPEN message error: role mismatch"},
		{&Notification{Code: OpenError, Subcode: 5}, "OPEN message error: subcode 5"},
		{&Notification{Code: UpdateError, Subcode: MalformedASPath}, "UPDATE message error: malformed AS_PATH"},
		{&Notification{Code: UpdateError, Subcode: 7}, "UPDATE message error: subcode 7"},
		{&Notification{Code: FSMError, Subcode: UnexpectedInEstablished}, "finite state machine error: unexpected message in Established"},
		{&Notification{Code: Cease, Subcode: BFDDown}, "cease: BFD down"},
		{&Notification{Code: Cease, Subcode: 200}, "cease: subcode 200"},
		{&Notification{Code: RouteRefreshError, Subcode: 1}, "ROUTE-REFRESH message error: invalid message length"},
		{&Notification{Code: 77, Subcode: 5}, "error code 77 subcode 5"},
		{&Notification{Code: OpenError, Subcode: BadPeerAS, Detail: "AS 0"}, "OPEN message error: bad peer AS: AS 0"},
		{Shutdown(AdminShutdown, "maintenance"), `cease: administrative shutdown: "maintenance"`},
		{Shutdown(AdminReset, ""), "cease: administrative reset"},
		{Hard(&Notification{Code: Cease, Subcode: PeerDeconfigured}), "cease: hard reset: cease: peer deconfigured"},
		{Hard(Hard(&Notification{Code: Cease})), "cease: hard reset: cease: hard reset"},
		{&Notification{Code: Cease, Subcode: HardReset}, "cease: hard reset"},
	} {
		if got := c.n.Error(); got != c.want {
			t.Errorf("%d/%d: %q, want %q", c.n.Code, c.n.Subcode, got, c.want)
		}
	}
}

func TestShutdownCommunication(t *testing.T) {
	long := strings.Repeat("é", 200)
	if got := Shutdown(AdminShutdown, long).ShutdownText(); got != long[:254] {
		t.Errorf("%d bytes kept, want 254: whole characters only", len(got))
	}
	if got := Shutdown(AdminShutdown, "a\xff\nb").ShutdownText(); got != "a??b" {
		t.Errorf("%q, want what cannot be printed replaced", got)
	}
	for name, n := range map[string]*Notification{
		"no data":       {Code: Cease, Subcode: AdminShutdown},
		"overrun":       {Code: Cease, Subcode: AdminShutdown, Data: []byte{5, 'a'}},
		"not UTF-8":     {Code: Cease, Subcode: AdminShutdown, Data: []byte{1, 0xff}},
		"other subcode": {Code: Cease, Subcode: PrefixLimit, Data: []byte{1, 'a'}},
		"other code":    {Code: OpenError, Subcode: BadPeerAS, Data: []byte{1, 'a'}},
	} {
		if got := n.ShutdownText(); got != "" {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestHardResetWrapsItsReason(t *testing.T) {
	inner := &Notification{Code: Cease, Subcode: AdminShutdown, Data: []byte{2, 'h', 'i'}}
	got := reread(t, Hard(inner), Options{}).(*Notification).Encapsulated()
	if d := diff(inner, got); d != "" {
		t.Errorf("-wrapped +read\n%s", d)
	}
	if inner.Encapsulated() != nil {
		t.Error("a plain Cease wraps nothing")
	}
}

func TestNotificationOfTooMuchDataIsCut(t *testing.T) {
	wire := encode(t, &Notification{Code: UpdateError, Data: make([]byte, 5000)}, Options{})
	if len(wire) != MaxLen {
		t.Errorf("%d bytes, want %d", len(wire), MaxLen)
	}
}

func TestNames(t *testing.T) {
	for want, got := range map[string]string{
		"UPDATE":               TypeUpdate.String(),
		"type 9":               Type(9).String(),
		"IPv4 unicast":         IPv4Unicast.String(),
		"IPv6 unicast":         Family{AFI: AFIIPv6, SAFI: SAFIUnicast}.String(),
		"AFI 1 SAFI 128":       Family{AFI: 1, SAFI: 128}.String(),
		"AS_PATH":              AttrASPath.String(),
		"attribute 11":         AttrCode(11).String(),
		"attribute 200":        AttrCode(200).String(),
		"attribute discard":    Discard.String(),
		"treat-as-withdraw":    TreatAsWithdraw.String(),
		"session reset":        SessionReset.String(),
		"IGP":                  OriginIGP.String(),
		"EGP":                  OriginEGP.String(),
		"incomplete":           OriginIncomplete.String(),
		"origin 7":             Origin(7).String(),
		"no-export":            NoExport.String(),
		"no-advertise":         NoAdvertise.String(),
		"no-export-subconfed":  NoExportSubconfed.String(),
		"64512:7":              Community(64512<<16 | 7).String(),
		"x: attribute discard": Flaw{Text: "x", Action: Discard}.String(),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
