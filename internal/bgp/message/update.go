// SPDX-License-Identifier: Apache-2.0

package message

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// updateLen is the least an UPDATE's body holds: two lengths of zero.
const updateLen = 4

// Update is the UPDATE message for IPv4 unicast (RFC 4271 section 4.3). It
// reads the same whether the peer used the classic fields or MP_REACH_NLRI and
// MP_UNREACH_NLRI (RFC 4760); it is sent in the classic fields.
//
// Withdrawn comes before NLRI: a prefix in both is announced.
type Update struct {
	Withdrawn []netip.Prefix // masked; includes the routes RFC 7606 has treated as withdrawn
	NLRI      []netip.Prefix // masked; reachable by Attrs
	Attrs     *Attrs         // nil exactly when NLRI is empty
	EndOfRIB  bool           // the peer has sent its whole table (RFC 4724 section 2)
	Flaws     []Flaw         // what was wrong, but did not end the session; not sent
}

// Type is TypeUpdate.
func (*Update) Type() Type { return TypeUpdate }

// Flaw is one thing wrong with an UPDATE and what was done about it.
type Flaw struct {
	Attr   AttrCode // 0 for a prefix
	Action Action
	Text   string // names the attribute and the RFC that orders the action
}

// String is the text and the action.
func (f Flaw) String() string { return f.Text + ": " + f.Action.String() }

// TreatedAsWithdrawn says whether the message's routes were turned into
// withdrawals for an error in it (RFC 7606).
func (u *Update) TreatedAsWithdrawn() bool {
	return slices.ContainsFunc(u.Flaws, func(f Flaw) bool { return f.Action == TreatAsWithdraw })
}

// decodeUpdate reads an UPDATE. Only errors that leave the extent of the
// routes unknown end the session, see attribute.go.
func decodeUpdate(body []byte, opt Options) (*Update, error) {
	withdrawn, attrs, nlri, err := splitUpdate(body)
	if err != nil {
		return nil, err
	}
	u := &Update{}
	if u.Withdrawn, err = decodePrefixes(nil, withdrawn); err != nil {
		return nil, refuse(UpdateError, InvalidNetworkField, nil, "withdrawn routes: %v", err)
	}
	d := attrDecoder{opt: opt}
	d.decode(attrs)
	if u.NLRI, err = decodePrefixes(nil, nlri); err != nil {
		return nil, refuse(UpdateError, InvalidNetworkField, nil, "network layer reachability information: %v", err)
	}
	if err := d.finish(u); err != nil {
		return nil, err
	}
	u.EndOfRIB = len(body) == updateLen || d.endOfRIB(u)
	return u, nil
}

// splitUpdate cuts the body into its three fields (RFC 4271 section 6.3).
func splitUpdate(body []byte) (withdrawn, attrs, nlri []byte, err error) {
	withdrawn, rest, ok := cutField(body)
	if !ok {
		return nil, nil, nil, refuse(UpdateError, MalformedAttributeList, nil, "withdrawn routes overrun the message")
	}
	attrs, nlri, ok = cutField(rest)
	if !ok {
		return nil, nil, nil, refuse(UpdateError, MalformedAttributeList, nil, "path attributes overrun the message")
	}
	return withdrawn, attrs, nlri, nil
}

// cutField cuts a field off b that begins with its length in two bytes.
func cutField(b []byte) (field, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	size := int(binary.BigEndian.Uint16(b))
	if size > len(b)-2 {
		return nil, nil, false
	}
	return b[2 : 2+size : 2+size], b[2+size:], true
}

// appendBody appends the UPDATE in the classic fields.
func (u *Update) appendBody(dst []byte, opt Options) ([]byte, error) {
	if len(u.Withdrawn) == 0 && len(u.NLRI) == 0 && !u.EndOfRIB {
		return nil, errors.New("neither routes nor End-of-RIB to send")
	}
	if u.EndOfRIB && len(u.Withdrawn)+len(u.NLRI) > 0 {
		return nil, errors.New("End-of-RIB with routes in it")
	}
	dst, err := appendField(dst, func(dst []byte) ([]byte, error) { return appendPrefixes(dst, u.Withdrawn) })
	if err != nil {
		return nil, err
	}
	dst, err = appendField(dst, func(dst []byte) ([]byte, error) {
		if len(u.NLRI) == 0 {
			return dst, nil
		}
		return AppendAttrs(dst, u.Attrs, opt)
	})
	if err != nil {
		return nil, err
	}
	return appendPrefixes(dst, u.NLRI)
}

// appendField appends what body appends, its length in two bytes before it.
func appendField(dst []byte, body func([]byte) ([]byte, error)) ([]byte, error) {
	start := len(dst)
	dst, err := body(append(dst, 0, 0))
	if err != nil {
		return nil, err
	}
	size := len(dst) - start - 2
	if size > MaxLen {
		return nil, fmt.Errorf("field of %d bytes", size)
	}
	binary.BigEndian.PutUint16(dst[start:], uint16(size))
	return dst, nil
}

func appendPrefixes(dst []byte, prefixes []netip.Prefix) ([]byte, error) {
	for _, p := range prefixes {
		if !p.IsValid() || !p.Addr().Is4() {
			return nil, fmt.Errorf("prefix %v is not IPv4", p)
		}
		dst = appendPrefix(dst, p)
	}
	return dst, nil
}
