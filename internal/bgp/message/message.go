// SPDX-License-Identifier: Apache-2.0

// Package message is the BGP-4 codec: bytes to values and back, for the
// messages a unicast speaker needs (RFC 4271, 2918, 4760, 5492, 6793, 9072).
// Errors in path attributes follow RFC 7606 by the table in attribute.go.
//
// It owns the wire format and nothing else: no socket, no clock, no state. A
// decoder reads only inside the slice it is given and keeps no part of it, so
// the caller may reuse its buffer. Errors returned by ReadHeader and Decode
// are always *Notification, ready to be sent.
package message

import (
	"encoding/binary"
	"fmt"
)

// Sizes of a message in bytes (RFC 4271 section 4.1). RFC 8654's longer
// messages are neither offered nor accepted.
const (
	HeaderLen = 19
	MaxLen    = 4096

	markerLen = 16
)

// Type is the message type of RFC 4271 section 4.1 and RFC 2918.
type Type uint8

// Message types.
const (
	TypeOpen         Type = 1
	TypeUpdate       Type = 2
	TypeNotification Type = 3
	TypeKeepalive    Type = 4
	TypeRouteRefresh Type = 5
)

// types holds the name and the length limits of each message, header included
// (RFC 4271 section 6.1, RFC 2918 section 3).
var types = [...]struct {
	name     string
	min, max int
}{
	TypeOpen:         {"OPEN", HeaderLen + openLen, MaxLen},
	TypeUpdate:       {"UPDATE", HeaderLen + updateLen, MaxLen},
	TypeNotification: {"NOTIFICATION", HeaderLen + 2, MaxLen},
	TypeKeepalive:    {"KEEPALIVE", HeaderLen, HeaderLen},
	TypeRouteRefresh: {"ROUTE-REFRESH", HeaderLen + refreshLen, HeaderLen + refreshLen},
}

// known says whether t is a type this package decodes.
func (t Type) known() bool { return t >= TypeOpen && int(t) < len(types) }

// String is the type's name as the RFCs write it.
func (t Type) String() string {
	if t.known() {
		return types[t].name
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Message is one of *Open, *Update, *Notification, *Keepalive, *RouteRefresh.
type Message interface {
	// Type is the type the message has on the wire.
	Type() Type
}

// Options are the properties of a session that change how bytes read.
type Options struct {
	AS4      bool // both ends announced four-byte AS numbers (RFC 6793)
	Internal bool // the peer is in our AS
}

// Keepalive is the KEEPALIVE message (RFC 4271 section 4.4).
type Keepalive struct{}

// Type is TypeKeepalive.
func (*Keepalive) Type() Type { return TypeKeepalive }

// RouteRefresh asks for a family's routes again (RFC 2918).
type RouteRefresh struct {
	Family Family
	// Subtype is 0 for a request; RFC 7313 marks begin (1) and end (2) of a
	// refresh with it, which we never ask for.
	Subtype uint8
}

const refreshLen = 4

// Type is TypeRouteRefresh.
func (*RouteRefresh) Type() Type { return TypeRouteRefresh }

// ReadHeader reads the header at the start of b, which holds HeaderLen bytes
// at least. length is that of the whole message, header included; it is within
// the limits of the type (RFC 4271 section 6.1).
func ReadHeader(b []byte) (typ Type, length int, err error) {
	if len(b) < HeaderLen {
		return 0, 0, refuse(HeaderError, BadMessageLength, nil, "header has %d of %d bytes", len(b), HeaderLen)
	}
	for _, octet := range b[:markerLen] {
		if octet != 0xff {
			return 0, 0, refuse(HeaderError, NotSynchronized, nil, "marker is not all ones")
		}
	}
	length = int(binary.BigEndian.Uint16(b[markerLen:]))
	typ = Type(b[markerLen+2])
	if length < HeaderLen || length > MaxLen {
		return 0, 0, refuse(HeaderError, BadMessageLength, b[markerLen:markerLen+2], "length %d", length)
	}
	if !typ.known() {
		return 0, 0, refuse(HeaderError, BadMessageType, b[markerLen+2:HeaderLen], "type %d", uint8(typ))
	}
	if limit := types[typ]; length < limit.min || length > limit.max {
		return 0, 0, refuse(HeaderError, BadMessageLength, b[markerLen:markerLen+2], "length %d of %v", length, typ)
	}
	return typ, length, nil
}

// Decode reads the body of a message, without its header.
func Decode(typ Type, body []byte, opt Options) (Message, error) {
	switch typ {
	case TypeOpen:
		return asMessage(decodeOpen(body))
	case TypeUpdate:
		return asMessage(decodeUpdate(body, opt))
	case TypeNotification:
		return asMessage(decodeNotification(body))
	case TypeKeepalive:
		if len(body) > 0 {
			return nil, badLength(typ, body)
		}
		return &Keepalive{}, nil
	case TypeRouteRefresh:
		return asMessage(decodeRouteRefresh(body))
	}
	return nil, refuse(HeaderError, BadMessageType, []byte{byte(typ)}, "type %d", uint8(typ))
}

// asMessage keeps a nil pointer from becoming a Message that is not nil.
func asMessage[M interface {
	*T
	Message
}, T any](m M, err error) (Message, error) {
	if err != nil {
		return nil, err
	}
	return m, nil
}

func decodeRouteRefresh(body []byte) (*RouteRefresh, error) {
	if len(body) != refreshLen {
		return nil, badLength(TypeRouteRefresh, body)
	}
	return &RouteRefresh{
		Family:  Family{AFI: AFI(binary.BigEndian.Uint16(body)), SAFI: SAFI(body[3])},
		Subtype: body[2],
	}, nil
}

// badLength is the error for a body whose length its type does not allow.
func badLength(typ Type, body []byte) error {
	length := len(body) + HeaderLen
	data := binary.BigEndian.AppendUint16(nil, uint16(min(length, 0xffff)))
	return refuse(HeaderError, BadMessageLength, data, "length %d of %v", length, typ)
}

// Append appends the whole message m, header included, to dst. It fails, with
// dst unchanged, when m does not fit into MaxLen bytes or cannot be said.
func Append(dst []byte, m Message, opt Options) ([]byte, error) {
	start := len(dst)
	out := appendHeader(dst, m.Type())
	var err error
	switch m := m.(type) {
	case *Open:
		out, err = m.appendBody(out)
	case *Update:
		out, err = m.appendBody(out, opt)
	case *Notification:
		out = m.appendBody(out)
	case *RouteRefresh:
		out = binary.BigEndian.AppendUint16(out, uint16(m.Family.AFI))
		out = append(out, m.Subtype, byte(m.Family.SAFI))
	}
	if err != nil {
		return dst, fmt.Errorf("encode %v: %w", m.Type(), err)
	}
	if length := len(out) - start; length > MaxLen {
		return dst, fmt.Errorf("encode %v: %d bytes are more than %d", m.Type(), length, MaxLen)
	}
	setLength(out, start)
	return out, nil
}

// appendHeader appends a header whose length setLength fills in.
func appendHeader(dst []byte, typ Type) []byte {
	for range markerLen {
		dst = append(dst, 0xff)
	}
	return append(dst, 0, 0, byte(typ))
}

// setLength writes the length of the message from start to the end of b.
func setLength(b []byte, start int) {
	binary.BigEndian.PutUint16(b[start+markerLen:], uint16(len(b)-start))
}
