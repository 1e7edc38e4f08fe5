// SPDX-License-Identifier: Apache-2.0

package message

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ocicat-net/ocicat/internal/speaker"
)

// SegmentType says how the AS numbers of a segment are ordered.
type SegmentType uint8

// Segment types (RFC 4271 section 4.3). Those of confederations (RFC 5065) are
// malformed here: we are never member of one.
const (
	ASSet      SegmentType = 1
	ASSequence SegmentType = 2

	confedSequence SegmentType = 3
	confedSet      SegmentType = 4
)

// maxSegment is the most AS numbers a segment can hold.
const maxSegment = 255

// Segment is a part of an AS path; it is never empty.
type Segment struct {
	Type SegmentType
	ASNs []speaker.ASN
}

// count is what the segment adds to the length of a path (RFC 4271 section
// 9.1.2.2): a set counts as one.
func (s Segment) count() int {
	if s.Type == ASSet {
		return 1
	}
	return len(s.ASNs)
}

// ASPath is the ASes a route came through, the nearest first; empty for a
// route of our own AS.
type ASPath []Segment

// Length is the length best-path selection compares.
func (p ASPath) Length() int {
	n := 0
	for _, s := range p {
		n += s.count()
	}
	return n
}

// Contains says whether the path came through as.
func (p ASPath) Contains(as speaker.ASN) bool {
	return slices.ContainsFunc(p, func(s Segment) bool { return slices.Contains(s.ASNs, as) })
}

// Neighbor is the AS the route was learned from: the first of the path if it
// begins with a sequence, else 0 (RFC 4271 section 9.1.2.2 c).
func (p ASPath) Neighbor() speaker.ASN {
	if len(p) == 0 || p[0].Type != ASSequence {
		return 0
	}
	return p[0].ASNs[0]
}

// Prepend is the path with as in front; p is not changed (RFC 4271 section
// 5.1.2).
func (p ASPath) Prepend(as speaker.ASN) ASPath {
	if len(p) > 0 && p[0].Type == ASSequence && len(p[0].ASNs) < maxSegment {
		first := Segment{Type: ASSequence, ASNs: append([]speaker.ASN{as}, p[0].ASNs...)}
		return append(ASPath{first}, p[1:]...)
	}
	return append(ASPath{{Type: ASSequence, ASNs: []speaker.ASN{as}}}, p...)
}

// Flat is all AS numbers in the order of the path.
func (p ASPath) Flat() []speaker.ASN {
	var all []speaker.ASN
	for _, s := range p {
		all = append(all, s.ASNs...)
	}
	return all
}

// Equal says whether p and q are the same, segment by segment.
func (p ASPath) Equal(q ASPath) bool {
	return slices.EqualFunc(p, q, func(a, b Segment) bool { return a.Type == b.Type && slices.Equal(a.ASNs, b.ASNs) })
}

// String is the numbers separated by spaces, sets in braces.
func (p ASPath) String() string {
	parts := make([]string, 0, len(p))
	for _, s := range p {
		numbers := make([]string, len(s.ASNs))
		for i, as := range s.ASNs {
			numbers[i] = strconv.FormatUint(uint64(as), 10)
		}
		text := strings.Join(numbers, " ")
		if s.Type == ASSet {
			text = "{" + text + "}"
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, " ")
}

// twoByte says whether every AS number fits into two bytes.
func (p ASPath) twoByte() bool {
	return !slices.ContainsFunc(p, func(s Segment) bool {
		return slices.ContainsFunc(s.ASNs, func(as speaker.ASN) bool { return as > 0xffff })
	})
}

// decodeASPath reads the value of AS_PATH or, with as4, of AS4_PATH. Segments
// of confederations are an error in the first and skipped in the second (RFC
// 7606 section 7.2, RFC 6793 section 6).
func decodeASPath(b []byte, as4, skipConfed bool) (ASPath, error) {
	size := asnSize(as4)
	var path ASPath
	for len(b) > 0 {
		if len(b) < 2 || int(b[1])*size > len(b)-2 {
			return nil, errors.New("segment overruns the attribute")
		}
		kind, n := SegmentType(b[0]), int(b[1])
		value := b[2 : 2+n*size]
		b = b[2+n*size:]
		if n == 0 {
			return nil, errors.New("empty segment")
		}
		switch kind {
		case ASSet, ASSequence:
		case confedSequence, confedSet:
			if skipConfed {
				continue
			}
			return nil, errors.New("segment of a confederation")
		default:
			return nil, fmt.Errorf("segment type %d", kind)
		}
		asns := make([]speaker.ASN, n)
		for i := range asns {
			if asns[i] = readASN(value[i*size:], as4); asns[i] == 0 {
				return nil, errors.New("AS 0") // RFC 7607
			}
		}
		path = append(path, Segment{Type: kind, ASNs: asns})
	}
	return path, nil
}

// merge rebuilds the path of a peer without four-byte numbers from its AS_PATH
// p and AS4_PATH q: what p has more in front stays (RFC 6793 section 4.2.3).
func (p ASPath) merge(q ASPath) ASPath {
	extra := p.Length() - q.Length()
	if len(q) == 0 || extra < 0 {
		return p
	}
	var merged ASPath
	for _, s := range p {
		if extra == 0 {
			break
		}
		if n := s.count(); n > extra { // only a sequence counts more than one
			s.ASNs = s.ASNs[:extra:extra]
		}
		extra -= s.count()
		merged = append(merged, s)
	}
	return append(merged, q...)
}

// appendAttr appends the path as attribute code.
func (p ASPath) appendAttr(dst []byte, code AttrCode, as4 bool) []byte {
	n := 0
	for _, s := range p {
		n += 2 + len(s.ASNs)*asnSize(as4)
	}
	flags := byte(flagTransitive)
	if code == AttrAS4Path {
		flags |= flagOptional
	}
	dst = appendAttrHeader(dst, flags, code, n)
	for _, s := range p {
		dst = append(dst, byte(s.Type), byte(len(s.ASNs)))
		for _, as := range s.ASNs {
			dst = appendASN(dst, as, as4)
		}
	}
	return dst
}

func asnSize(as4 bool) int {
	if as4 {
		return 4
	}
	return 2
}

func readASN(b []byte, as4 bool) speaker.ASN {
	if as4 {
		return speaker.ASN(binary.BigEndian.Uint32(b))
	}
	return speaker.ASN(binary.BigEndian.Uint16(b))
}

// appendASN appends as; in two bytes a larger one becomes AS_TRANS.
func appendASN(dst []byte, as speaker.ASN, as4 bool) []byte {
	if as4 {
		return binary.BigEndian.AppendUint32(dst, uint32(as))
	}
	if as > 0xffff {
		as = asTrans
	}
	return binary.BigEndian.AppendUint16(dst, uint16(as))
}
