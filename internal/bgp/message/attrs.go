// SPDX-License-Identifier: Apache-2.0

package message

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/ocicat-net/ocicat/internal/speaker"
)

// Origin says how the originating AS learned a route (RFC 4271 section 5.1.1).
// The lower the better.
type Origin uint8

// Origins.
const (
	OriginIGP        Origin = 0
	OriginEGP        Origin = 1
	OriginIncomplete Origin = 2
)

// String is the origin's name in the words of other speakers' tables.
func (o Origin) String() string {
	switch o {
	case OriginIGP:
		return "IGP"
	case OriginEGP:
		return "EGP"
	case OriginIncomplete:
		return "incomplete"
	}
	return fmt.Sprintf("origin %d", uint8(o))
}

// Community is a community of RFC 1997: AS number and value.
type Community uint32

// Well-known communities (RFC 1997) that restrict what may be re-advertised.
const (
	NoExport          Community = 0xffffff01 // not to other ASes
	NoAdvertise       Community = 0xffffff02 // to nobody
	NoExportSubconfed Community = 0xffffff03 // not to other ASes, of a confederation neither
)

// String is "64512:1" or the well-known name.
func (c Community) String() string {
	switch c {
	case NoExport:
		return "no-export"
	case NoAdvertise:
		return "no-advertise"
	case NoExportSubconfed:
		return "no-export-subconfed"
	}
	return fmt.Sprintf("%d:%d", c>>16, c&0xffff)
}

// Aggregator names the speaker that formed an aggregate (RFC 4271 section
// 5.1.7).
type Aggregator struct {
	AS speaker.ASN
	ID netip.Addr
}

// Attrs are the path attributes routes share. They are not changed after they
// were decoded: tables keep and share the pointer.
//
// Attributes we have no use for (extended and large communities, unknown
// optional ones) are checked and dropped: a mesh node re-advertises little, and
// what it does not understand must not travel through it. Keeping them is a
// field here and a row in attribute.go.
type Attrs struct {
	Origin          Origin
	ASPath          ASPath
	NextHop         netip.Addr
	MED             uint32 // lower is better; meaningful if HasMED
	HasMED          bool
	LocalPref       uint32 // higher is better; meaningful if HasLocalPref
	HasLocalPref    bool   // always false from an external peer
	AtomicAggregate bool
	Aggregator      *Aggregator // nil when absent
	Communities     []Community
	OriginatorID    netip.Addr   // zero when absent (RFC 4456)
	ClusterList     []netip.Addr // nearest reflector first (RFC 4456)
}

// Equal says whether a and b say the same.
func (a *Attrs) Equal(b *Attrs) bool {
	if a == b || a == nil || b == nil {
		return a == b
	}
	return a.Origin == b.Origin && a.NextHop == b.NextHop &&
		a.MED == b.MED && a.HasMED == b.HasMED &&
		a.LocalPref == b.LocalPref && a.HasLocalPref == b.HasLocalPref &&
		a.AtomicAggregate == b.AtomicAggregate && a.OriginatorID == b.OriginatorID &&
		(a.Aggregator == nil) == (b.Aggregator == nil) && (a.Aggregator == nil || *a.Aggregator == *b.Aggregator) &&
		a.ASPath.Equal(b.ASPath) && slices.Equal(a.Communities, b.Communities) && slices.Equal(a.ClusterList, b.ClusterList)
}

// Attribute flags (RFC 4271 section 4.3).
const (
	flagOptional   = 0x80
	flagTransitive = 0x40
	flagExtended   = 0x10 // the length has two bytes
)

// AppendAttrs appends the path attributes of an UPDATE in the order of their
// codes, without the length of the whole. Callers that send the same
// attributes with many prefixes keep the bytes.
func AppendAttrs(dst []byte, a *Attrs, opt Options) ([]byte, error) {
	if a == nil || !a.NextHop.Is4() {
		return nil, errors.New("routes without an IPv4 next hop")
	}
	dst = append(dst, flagTransitive, byte(AttrOrigin), 1, byte(a.Origin))
	dst = a.ASPath.appendAttr(dst, AttrASPath, opt.AS4)
	dst = appendAddrs(dst, flagTransitive, AttrNextHop, a.NextHop)
	if a.HasMED {
		dst = appendUint32s(dst, flagOptional, AttrMED, a.MED)
	}
	if a.HasLocalPref {
		dst = appendUint32s(dst, flagTransitive, AttrLocalPref, a.LocalPref)
	}
	if a.AtomicAggregate {
		dst = append(dst, flagTransitive, byte(AttrAtomicAggregate), 0)
	}
	if a.Aggregator != nil {
		dst = a.Aggregator.append(dst, AttrAggregator, opt.AS4)
	}
	if len(a.Communities) > 0 {
		dst = appendUint32s(dst, flagOptional|flagTransitive, AttrCommunities, a.Communities...)
	}
	if a.OriginatorID.IsValid() {
		dst = appendAddrs(dst, flagOptional, AttrOriginatorID, a.OriginatorID)
	}
	if len(a.ClusterList) > 0 {
		dst = appendAddrs(dst, flagOptional, AttrClusterList, a.ClusterList...)
	}
	if !opt.AS4 && !a.ASPath.twoByte() {
		dst = a.ASPath.appendAttr(dst, AttrAS4Path, true)
	}
	if !opt.AS4 && a.Aggregator != nil && a.Aggregator.AS > 0xffff {
		dst = a.Aggregator.append(dst, AttrAS4Aggregator, true)
	}
	return dst, nil
}

func (g *Aggregator) append(dst []byte, code AttrCode, as4 bool) []byte {
	id := g.ID.As4()
	if as4 {
		dst = append(dst, flagOptional|flagTransitive, byte(code), 8)
	} else {
		dst = append(dst, flagOptional|flagTransitive, byte(code), 6)
	}
	return append(appendASN(dst, g.AS, as4), id[:]...)
}

// appendAttrHeader appends flags, code and a length of n bytes.
func appendAttrHeader(dst []byte, flags byte, code AttrCode, n int) []byte {
	if n > 255 {
		dst = append(dst, flags|flagExtended, byte(code))
		return binary.BigEndian.AppendUint16(dst, uint16(n))
	}
	return append(dst, flags, byte(code), byte(n))
}

func appendUint32s[T ~uint32](dst []byte, flags byte, code AttrCode, values ...T) []byte {
	dst = appendAttrHeader(dst, flags, code, 4*len(values))
	for _, v := range values {
		dst = binary.BigEndian.AppendUint32(dst, uint32(v))
	}
	return dst
}

func appendAddrs(dst []byte, flags byte, code AttrCode, addrs ...netip.Addr) []byte {
	dst = appendAttrHeader(dst, flags, code, 4*len(addrs))
	for _, a := range addrs {
		b := a.As4()
		dst = append(dst, b[:]...)
	}
	return dst
}
