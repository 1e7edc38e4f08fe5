// SPDX-License-Identifier: Apache-2.0

package table

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
)

// segment is some messages for the same peers; it is never changed.
type segment struct {
	messages [][]byte
	to       audience
	first    netip.Prefix // in the first message, for order
}

// endOfRIB tells everybody that the table was sent.
func endOfRIB() segment { return segment{messages: [][]byte{message.PackEndOfRIB()}} }

// batch collects changes that peers are told together.
type batch struct {
	announced map[offer][]netip.Prefix
	withdrawn map[audience][]netip.Prefix
}

func (b *batch) announce(prefix netip.Prefix, as offer) {
	if b.announced == nil {
		b.announced = make(map[offer][]netip.Prefix)
	}
	b.announced[as] = append(b.announced[as], prefix)
}

func (b *batch) withdraw(prefix netip.Prefix, from audience) {
	if b.withdrawn == nil {
		b.withdrawn = make(map[audience][]netip.Prefix)
	}
	b.withdrawn[from] = append(b.withdrawn[from], prefix)
}

func (b *batch) empty() bool { return len(b.announced)+len(b.withdrawn) == 0 }

// segments encodes the batch, as many prefixes to a message as it holds and
// always in the same order: announcements, so that peers have the new way
// before they lose an old one, then withdrawals. No peer is told of one prefix
// in both.
func (b *batch) segments() []segment {
	announced := make([]segment, 0, len(b.announced)+len(b.withdrawn))
	for as, prefixes := range b.announced {
		slices.SortFunc(prefixes, netip.Prefix.Compare)
		announced = append(announced, segment{message.PackAnnounced(as.wire, prefixes), as.to, prefixes[0]})
	}
	var withdrawn []segment
	for from, prefixes := range b.withdrawn {
		slices.SortFunc(prefixes, netip.Prefix.Compare)
		withdrawn = append(withdrawn, segment{message.PackWithdrawn(prefixes), from, prefixes[0]})
	}
	slices.SortFunc(announced, compareSegments)
	slices.SortFunc(withdrawn, compareSegments)
	return append(announced, withdrawn...)
}

func compareSegments(a, b segment) int {
	return cmp.Or(a.first.Compare(b.first), a.to.only.Compare(b.to.only))
}
