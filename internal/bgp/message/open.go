// SPDX-License-Identifier: Apache-2.0

package message

import (
	"encoding/binary"
	"net/netip"

	"github.com/ocicat-net/ocicat/internal/speaker"
)

const (
	version4 = 4
	openLen  = 10 // fixed part: version, AS, hold time, identifier, length of parameters

	paramCapability = 2   // optional parameter type (RFC 5492)
	paramExtended   = 255 // optional parameter type that starts the format of RFC 9072

	// asTrans stands for an AS number above 65535 in two bytes (RFC 6793).
	asTrans = 23456
)

// Open is the OPEN message (RFC 4271 section 4.2).
type Open struct {
	AS           speaker.ASN // from the four-byte capability where there is one
	HoldTime     uint16      // seconds; 0 means none, else at least 3
	RouterID     netip.Addr  // BGP Identifier, written as IPv4
	Capabilities Capabilities
}

// Type is TypeOpen.
func (*Open) Type() Type { return TypeOpen }

// decodeOpen checks what can be checked without knowing the peer: whether the
// AS is the expected one and the identifier not our own is the session's.
func decodeOpen(body []byte) (*Open, error) {
	if len(body) < openLen {
		return nil, badLength(TypeOpen, body)
	}
	if body[0] != version4 {
		return nil, refuse(OpenError, UnsupportedVersion, []byte{0, version4}, "version %d, we speak %d", body[0], version4)
	}
	open := &Open{
		AS:       speaker.ASN(binary.BigEndian.Uint16(body[1:])),
		HoldTime: binary.BigEndian.Uint16(body[3:]),
		RouterID: netip.AddrFrom4([4]byte(body[5:9])),
	}
	if err := open.decodeParameters(body[9], body[openLen:]); err != nil {
		return nil, err
	}
	switch {
	case open.AS == 0: // RFC 7607
		return nil, refuse(OpenError, BadPeerAS, nil, "AS 0")
	case open.RouterID == netip.IPv4Unspecified(): // RFC 6286
		return nil, refuse(OpenError, BadIdentifier, nil, "BGP identifier 0.0.0.0")
	case open.HoldTime == 1 || open.HoldTime == 2:
		return nil, refuse(OpenError, UnacceptableHoldTime, nil, "hold time %d s, the least is 3 s", open.HoldTime)
	}
	return open, nil
}

// decodeParameters reads the optional parameters b in the classic or the
// extended format (RFC 9072); length is the classic length byte.
func (o *Open) decodeParameters(length byte, b []byte) error {
	lengthBytes := 1
	total := int(length)
	if length > 0 && len(b) >= 3 && b[0] == paramExtended {
		lengthBytes, total, b = 2, int(binary.BigEndian.Uint16(b[1:])), b[3:]
	}
	if total != len(b) {
		return refuse(OpenError, 0, nil, "optional parameters of %d bytes in %d", total, len(b))
	}
	for len(b) > 0 {
		if len(b) < 1+lengthBytes {
			return refuse(OpenError, 0, nil, "optional parameter is cut off")
		}
		kind, size := b[0], int(b[1])
		if lengthBytes == 2 {
			size = int(binary.BigEndian.Uint16(b[1:]))
		}
		b = b[1+lengthBytes:]
		if size > len(b) {
			return refuse(OpenError, 0, nil, "optional parameter %d of %d bytes in %d", kind, size, len(b))
		}
		if kind != paramCapability {
			return refuse(OpenError, UnsupportedParameter, nil, "optional parameter %d", kind)
		}
		if err := o.decodeCapabilities(b[:size]); err != nil {
			return err
		}
		b = b[size:]
	}
	return nil
}

// appendBody appends the OPEN with all capabilities in one optional parameter.
func (o *Open) appendBody(dst []byte) ([]byte, error) {
	as := uint16(asTrans)
	if o.AS <= 0xffff {
		as = uint16(o.AS)
	}
	capabilities, err := o.appendCapabilities(nil)
	if err != nil {
		return nil, err
	}
	id := o.RouterID.As4()
	dst = append(dst, version4)
	dst = binary.BigEndian.AppendUint16(dst, as)
	dst = binary.BigEndian.AppendUint16(dst, o.HoldTime)
	dst = append(dst, id[:]...)
	switch size := len(capabilities); {
	case size == 0:
		dst = append(dst, 0)
	case size <= 253:
		dst = append(dst, byte(size+2), paramCapability, byte(size))
	default: // RFC 9072
		dst = append(dst, 255, paramExtended)
		dst = binary.BigEndian.AppendUint16(dst, uint16(size+3))
		dst = append(dst, paramCapability)
		dst = binary.BigEndian.AppendUint16(dst, uint16(size))
	}
	return append(dst, capabilities...), nil
}
