// SPDX-License-Identifier: Apache-2.0

package message

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Code is the error code of a NOTIFICATION (RFC 4271 section 4.5).
type Code uint8

// Error codes.
const (
	HeaderError       Code = 1
	OpenError         Code = 2
	UpdateError       Code = 3
	HoldTimerExpired  Code = 4
	FSMError          Code = 5
	Cease             Code = 6
	RouteRefreshError Code = 7 // RFC 7313
)

// Subcode refines a Code; 0 is "unspecific" under every code.
type Subcode uint8

// Subcodes of HeaderError (RFC 4271 section 6.1).
const (
	NotSynchronized  Subcode = 1
	BadMessageLength Subcode = 2
	BadMessageType   Subcode = 3
)

// Subcodes of OpenError (RFC 4271 section 6.2, RFC 5492).
const (
	UnsupportedVersion    Subcode = 1
	BadPeerAS             Subcode = 2
	BadIdentifier         Subcode = 3
	UnsupportedParameter  Subcode = 4
	UnacceptableHoldTime  Subcode = 6
	UnsupportedCapability Subcode = 7
)

// Subcodes of UpdateError (RFC 4271 section 6.3).
const (
	MalformedAttributeList Subcode = 1
	UnrecognizedWellKnown  Subcode = 2
	MissingWellKnown       Subcode = 3
	AttributeFlagsError    Subcode = 4
	AttributeLengthError   Subcode = 5
	InvalidOrigin          Subcode = 6
	InvalidNextHop         Subcode = 8
	OptionalAttributeError Subcode = 9
	InvalidNetworkField    Subcode = 10
	MalformedASPath        Subcode = 11
)

// Subcodes of FSMError (RFC 6608): a message that does not belong into the
// state.
const (
	UnexpectedInOpenSent    Subcode = 1
	UnexpectedInOpenConfirm Subcode = 2
	UnexpectedInEstablished Subcode = 3
)

// Subcodes of Cease (RFC 4486, RFC 8538, RFC 9384).
const (
	PrefixLimit         Subcode = 1
	AdminShutdown       Subcode = 2
	PeerDeconfigured    Subcode = 3
	AdminReset          Subcode = 4
	ConnectionRejected  Subcode = 5
	ConfigurationChange Subcode = 6
	CollisionResolution Subcode = 7
	OutOfResources      Subcode = 8
	HardReset           Subcode = 9
	BFDDown             Subcode = 10
)

// codeNames name codes and subcodes for people; index 0 of a list is unused.
var codeNames = map[Code]struct {
	name     string
	subcodes []string
}{
	HeaderError: {"message header error", []string{"", "connection not synchronized", "bad message length", "bad message type"}},
	OpenError: {"OPEN message error", []string{"", "unsupported version number", "bad peer AS", "bad BGP identifier",
		"unsupported optional parameter", "", "unacceptable hold time", "unsupported capability", "", "", "", "role mismatch"}},
	UpdateError: {"UPDATE message error", []string{"", "malformed attribute list", "unrecognized well-known attribute",
		"missing well-known attribute", "attribute flags error", "attribute length error", "invalid ORIGIN attribute", "",
		"invalid NEXT_HOP attribute", "optional attribute error", "invalid network field", "malformed AS_PATH"}},
	HoldTimerExpired: {"hold timer expired", nil},
	FSMError: {"finite state machine error", []string{"", "unexpected message in OpenSent", "unexpected message in OpenConfirm",
		"unexpected message in Established"}},
	Cease: {"cease", []string{"", "maximum number of prefixes reached", "administrative shutdown", "peer deconfigured",
		"administrative reset", "connection rejected", "other configuration change", "connection collision resolution",
		"out of resources", "hard reset", "BFD down"}},
	RouteRefreshError: {"ROUTE-REFRESH message error", []string{"", "invalid message length"}},
}

// Text is the name of c and s for people: "cease: administrative reset".
func (c Code) Text(s Subcode) string {
	entry, known := codeNames[c]
	switch {
	case !known:
		return fmt.Sprintf("error code %d subcode %d", uint8(c), uint8(s))
	case s == 0:
		return entry.name
	case int(s) < len(entry.subcodes) && entry.subcodes[s] != "":
		return entry.name + ": " + entry.subcodes[s]
	}
	return fmt.Sprintf("%s: subcode %d", entry.name, uint8(s))
}

// Notification ends a session (RFC 4271 section 4.5). As an error it means:
// send this, then close.
type Notification struct {
	Code    Code
	Subcode Subcode
	Data    []byte
	// Detail says what exactly was wrong. It is for our own logs and status,
	// is not sent, and is empty in a Notification received.
	Detail string
}

// Type is TypeNotification.
func (*Notification) Type() Type { return TypeNotification }

// Error is the text of code and subcode with the detail or the peer's
// shutdown communication, if any.
func (n *Notification) Error() string {
	text := n.Code.Text(n.Subcode)
	if n.Detail != "" {
		return text + ": " + n.Detail
	}
	if words := n.ShutdownText(); words != "" {
		return fmt.Sprintf("%s: %q", text, words)
	}
	if hard := n.Encapsulated(); hard != nil {
		text += ": " + hard.Code.Text(hard.Subcode)
		if words := hard.ShutdownText(); words != "" {
			text += fmt.Sprintf(": %q", words)
		}
	}
	return text
}

// refuse is the error for something the peer sent; data is copied.
func refuse(c Code, s Subcode, data []byte, format string, args ...any) error {
	return &Notification{Code: c, Subcode: s, Data: clone(data), Detail: fmt.Sprintf(format, args...)}
}

// maxShutdownText is the longest shutdown communication in bytes (RFC 9003
// section 2).
const maxShutdownText = 255

// Shutdown is a Cease of the given subcode that tells the peer's operator why
// (RFC 9003: AdminShutdown or AdminReset only). Text that is too long is cut
// at a character's border.
func Shutdown(s Subcode, text string) *Notification {
	n := &Notification{Code: Cease, Subcode: s}
	if text = strings.ToValidUTF8(text, "?"); text == "" {
		return n
	}
	for len(text) > maxShutdownText {
		_, size := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-size]
	}
	n.Data = append([]byte{byte(len(text))}, text...)
	return n
}

// ShutdownText is the peer's shutdown communication (RFC 9003), "" when there
// is none or it is malformed. Characters that do not print are replaced.
func (n *Notification) ShutdownText() string {
	if n.Code != Cease || n.Subcode != AdminShutdown && n.Subcode != AdminReset || len(n.Data) == 0 {
		return ""
	}
	size, text := int(n.Data[0]), n.Data[1:]
	if size > len(text) || !utf8.Valid(text[:size]) {
		return ""
	}
	return printable(string(text[:size]))
}

// printable replaces control characters, which could forge lines in a log.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// Hard wraps n into a Cease of subcode HardReset: the peer must not keep our
// routes although it announced the N bit (RFC 8538 section 3).
func Hard(n *Notification) *Notification {
	return &Notification{
		Code:    Cease,
		Subcode: HardReset,
		Data:    append([]byte{byte(n.Code), byte(n.Subcode)}, n.Data...),
		Detail:  n.Detail,
	}
}

// Encapsulated is the reason inside a hard reset (RFC 8538 section 3.1), nil
// when n is none or gives none.
func (n *Notification) Encapsulated() *Notification {
	if n.Code != Cease || n.Subcode != HardReset || len(n.Data) < 2 {
		return nil
	}
	return &Notification{Code: Code(n.Data[0]), Subcode: Subcode(n.Data[1]), Data: clone(n.Data[2:])}
}

func decodeNotification(body []byte) (*Notification, error) {
	if len(body) < 2 {
		return nil, badLength(TypeNotification, body)
	}
	return &Notification{Code: Code(body[0]), Subcode: Subcode(body[1]), Data: clone(body[2:])}, nil
}

// appendBody appends code, subcode and as much of the data as fits.
func (n *Notification) appendBody(dst []byte) []byte {
	data := n.Data[:min(len(n.Data), MaxLen-HeaderLen-2)]
	return append(append(dst, byte(n.Code), byte(n.Subcode)), data...)
}

// clone copies b; an empty b is nil.
func clone(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return append([]byte(nil), b...)
}
