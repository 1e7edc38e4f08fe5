// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/google/nftables"
)

// Has says whether there is a table inet NAME.
func (h *Handle) Has(name string) (bool, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(int(h.netns.Fd())))
	if err != nil {
		return false, wrap("reach nftables", err)
	}
	table, err := find(conn, name)
	return table != nil, wrap("list tables", err)
}

// Delete deletes table inet NAME with all that is in it, in one transaction; to
// find none is no error.
func (h *Handle) Delete(name string) error {
	conn, err := nftables.New(nftables.WithNetNSFd(int(h.netns.Fd())), nftables.AsLasting())
	if err != nil {
		return wrap("reach nftables", err)
	}
	defer func() { _ = conn.CloseLasting() }()
	table := &nftables.Table{Name: name, Family: nftables.TableFamilyINet}
	conn.AddTable(table) // deleting one that is not there would fail
	conn.DelTable(table)
	return wrap("delete table inet "+name, conn.Flush())
}

// Prefixes are the elements of a set of table inet NAME that are whole
// prefixes, as all are that Apply wrote; a table or a set that is not there has
// none.
func (h *Handle) Prefixes(name, set string) ([]netip.Prefix, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(int(h.netns.Fd())))
	if err != nil {
		return nil, wrap("reach nftables", err)
	}
	table, err := find(conn, name)
	if err != nil || table == nil {
		return nil, wrap("read table inet "+name, err)
	}
	sets, err := conn.GetSets(table)
	if err != nil {
		return nil, wrap("read sets of table inet "+name, err)
	}
	i := slices.IndexFunc(sets, func(s *nftables.Set) bool { return s.Name == set })
	if i < 0 {
		return nil, nil
	}
	elements, err := conn.GetSetElements(sets[i])
	return prefixes(elements), wrap("read set "+set, err)
}

// prefixes reads intervals: the first address of each, and the one behind its
// last, which the last interval of all addresses lacks.
func prefixes(elements []nftables.SetElement) []netip.Prefix {
	slices.SortStableFunc(elements, order)
	var found []netip.Prefix
	for i, e := range elements {
		if e.IntervalEnd || len(e.Key) != 4 {
			continue
		}
		first, behind := uint64(binary.BigEndian.Uint32(e.Key)), uint64(1)<<32
		for _, next := range elements[i+1:] {
			if next.IntervalEnd && len(next.Key) == 4 {
				behind = uint64(binary.BigEndian.Uint32(next.Key))
				break
			}
		}
		size := behind - first
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte(e.Key)), 32-bits.TrailingZeros64(size))
		if bits.OnesCount64(size) == 1 && p == p.Masked() {
			found = append(found, p)
		}
	}
	return found
}
