// SPDX-License-Identifier: Apache-2.0

package message

import (
	"encoding/binary"
	"net/netip"
)

// MaxAttrs is the most bytes of path attributes that leave room for a prefix
// in an UPDATE.
const MaxAttrs = packRoom - 5

// packRoom is what an UPDATE has for attributes and prefixes.
const packRoom = MaxLen - HeaderLen - updateLen

// PackAnnounced is UPDATEs that announce the IPv4 prefixes with attributes as
// AppendAttrs wrote them, at most MaxAttrs bytes: as few messages as hold them.
func PackAnnounced(attrs string, prefixes []netip.Prefix) [][]byte {
	var messages [][]byte
	for len(prefixes) > 0 {
		n, size := fit(prefixes, packRoom-len(attrs))
		m := startUpdate(len(attrs) + size)
		m = binary.BigEndian.AppendUint16(m, 0)
		m = binary.BigEndian.AppendUint16(m, uint16(len(attrs)))
		m = append(m, attrs...)
		for _, p := range prefixes[:n] {
			m = appendPrefix(m, p)
		}
		setLength(m, 0)
		messages, prefixes = append(messages, m), prefixes[n:]
	}
	return messages
}

// PackWithdrawn is UPDATEs that withdraw the IPv4 prefixes, as few as hold
// them.
func PackWithdrawn(prefixes []netip.Prefix) [][]byte {
	var messages [][]byte
	for len(prefixes) > 0 {
		n, size := fit(prefixes, packRoom)
		m := startUpdate(size)
		m = binary.BigEndian.AppendUint16(m, uint16(size))
		for _, p := range prefixes[:n] {
			m = appendPrefix(m, p)
		}
		m = binary.BigEndian.AppendUint16(m, 0)
		setLength(m, 0)
		messages, prefixes = append(messages, m), prefixes[n:]
	}
	return messages
}

// PackEndOfRIB is the End-of-RIB marker of IPv4 unicast (RFC 4724 section 2).
func PackEndOfRIB() []byte {
	m := append(startUpdate(0), 0, 0, 0, 0)
	setLength(m, 0)
	return m
}

// startUpdate is the header of an UPDATE with room for size bytes of
// attributes and prefixes.
func startUpdate(size int) []byte {
	return appendHeader(make([]byte, 0, HeaderLen+updateLen+size), TypeUpdate)
}

// fit is how many of the prefixes, one at least, go into room bytes, and how
// many bytes these take.
func fit(prefixes []netip.Prefix, room int) (n, size int) {
	for n < len(prefixes) && (n == 0 || size+prefixLen(prefixes[n]) <= room) {
		size += prefixLen(prefixes[n])
		n++
	}
	return n, size
}
