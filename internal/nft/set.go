// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"bytes"
	"net/netip"
	"reflect"
	"slices"

	"github.com/google/nftables"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
)

// elementsPerMessage bounds one message: the kernel takes no more than 64 KiB
// of elements in it, some 30 bytes each.
const elementsPerMessage = 1000

// set is a set with its elements in the kernel's terms: each interval's first
// address, and the one behind its last marked as an end.
type set struct {
	name     string
	elements []nftables.SetElement
}

// compileSets puts sets into the kernel's terms.
func compileSets(wanted []host.Set) ([]set, error) {
	var sets []set
	for _, w := range wanted {
		compiled := set{name: w.Name}
		for i, p := range w.Prefixes {
			if !p.Addr().Is4() || p != p.Masked() || i > 0 && !before(w.Prefixes[i-1], p) {
				return nil, fault.New(fault.Internal, "set %s: %s is not IPv4, or not behind the one before", w.Name, p)
			}
			compiled.elements = append(compiled.elements, nftables.SetElement{Key: p.Addr().AsSlice()})
			if end := last(p).Next(); end.IsValid() { // the last interval of all has no end
				compiled.elements = append(compiled.elements, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
			}
		}
		slices.SortStableFunc(compiled.elements, order)
		sets = append(sets, compiled)
	}
	return sets, nil
}

// before says whether a lies wholly before b.
func before(a, b netip.Prefix) bool { return last(a).Less(b.Addr()) }

// last is the last address of an IPv4 prefix.
func last(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(a)
}

// order sorts elements by address, an end before a beginning.
func order(a, b nftables.SetElement) int {
	if c := bytes.Compare(a.Key, b.Key); c != 0 || a.IntervalEnd == b.IntervalEnd {
		return c
	}
	if a.IntervalEnd {
		return -1
	}
	return 1
}

// addSet queues a set, whose id is its own in the transaction.
func addSet(conn *nftables.Conn, table *nftables.Table, id uint32, s set) error {
	added := described(s.name)
	added.Table, added.ID = table, id
	if err := conn.AddSet(added, nil); err != nil {
		return err
	}
	for part := range slices.Chunk(s.elements, elementsPerMessage) {
		if err := conn.SetAddElements(added, part); err != nil {
			return err
		}
	}
	return nil
}

// described is a set of ours without its elements.
func described(name string) *nftables.Set {
	return &nftables.Set{Name: name, Interval: true, KeyType: nftables.TypeIPAddr}
}

// holdsSets reports whether the table has these sets, and no others.
func holdsSets(conn *nftables.Conn, table *nftables.Table, want []set) (bool, error) {
	seen, err := conn.GetSets(table)
	if err != nil || len(seen) != len(want) {
		return false, err
	}
	for _, w := range want {
		i := slices.IndexFunc(seen, func(s *nftables.Set) bool { return s.Name == w.name })
		if i < 0 {
			return false, nil
		}
		elements, err := conn.GetSetElements(seen[i])
		if err != nil {
			return false, err
		}
		bare := *seen[i]
		bare.Table, bare.ID = nil, 0
		if !reflect.DeepEqual(bare, *described(w.name)) || !sameElements(w.elements, elements) {
			return false, nil
		}
	}
	return true, nil
}

// sameElements compares in any order. What nft writes begins with an end at
// 0.0.0.0, which means nothing.
func sameElements(want, seen []nftables.SetElement) bool {
	seen = slices.DeleteFunc(seen, func(e nftables.SetElement) bool { return e.IntervalEnd && bytes.Equal(e.Key, make([]byte, 4)) })
	slices.SortStableFunc(seen, order)
	return len(want) == len(seen) && slices.EqualFunc(want, seen, func(a, b nftables.SetElement) bool { return reflect.DeepEqual(a, b) })
}

// InSet reports whether an IPv4 address lies in a set of table inet NAME; a
// table or a set that is not there holds nothing.
func (h *Handle) InSet(name, set string, a netip.Addr) (bool, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(int(h.netns.Fd())))
	if err != nil {
		return false, wrap("reach nftables", err)
	}
	table, err := find(conn, name)
	if err != nil || table == nil {
		return false, wrap("read table inet "+name, err)
	}
	sets, err := conn.GetSets(table)
	if err != nil {
		return false, wrap("read sets of table inet "+name, err)
	}
	i := slices.IndexFunc(sets, func(s *nftables.Set) bool { return s.Name == set })
	if i < 0 {
		return false, nil
	}
	elements, err := conn.GetSetElements(sets[i])
	if err != nil {
		return false, wrap("read set "+set, err)
	}
	return covers(elements, a), nil
}

// covers reports whether the last element at or before the address begins an
// interval.
func covers(elements []nftables.SetElement, a netip.Addr) bool {
	slices.SortStableFunc(elements, order)
	within := false
	for _, e := range elements {
		if bytes.Compare(e.Key, a.AsSlice()) > 0 {
			break
		}
		within = !e.IntervalEnd
	}
	return within
}
