// SPDX-License-Identifier: Apache-2.0

package core

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/host"
)

// Names of the sets of FilterTable.
const (
	PoolsSet      = "pools"            // every IPv4 pool: nothing is masqueraded on the way there
	MasqueradeSet = "masquerade-pools" // pools with natOutgoing: what comes from there is
)

// wantNAT masquerades what goes from pools with natOutgoing to somewhere that
// is in no pool. Disabled pools count on both sides, as in Calico: their pods
// live on, and a pool may be there only to say where nothing is masqueraded.
//
// The chain stands from the first pool with natOutgoing on, also when that says
// so no more: without any NAT the kernel translates nothing, and taking the
// chain away would break the connections of the moment. On nodes that never had
// such a pool there is none, and the kernel tracks no connections for us.
func wantNAT(s *cluster.Snapshot) ([]host.Set, []host.Chain) {
	var all, from []netip.Prefix
	for _, p := range s.Pools {
		if !p.CIDR.Addr().Is4() {
			continue
		}
		all = append(all, p.CIDR)
		if p.NATOutgoing {
			from = append(from, p.CIDR)
		}
	}
	if len(all) == 0 || len(from) == 0 && !s.HadNAT {
		return nil, nil
	}
	return []host.Set{{Name: PoolsSet, Prefixes: apart(all)}, {Name: MasqueradeSet, Prefixes: apart(from)}},
		[]host.Chain{{Name: "postrouting", Hook: host.Postrouting, Priority: host.PrioritySrcNAT, Masquerades: []host.Masquerade{
			{From: MasqueradeSet, Except: PoolsSet, Why: "natOutgoing"},
		}}}
}

// apart sorts prefixes and leaves out those that lie in another.
func apart(prefixes []netip.Prefix) []netip.Prefix {
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var kept []netip.Prefix
	for _, p := range prefixes {
		if len(kept) == 0 || !kept[len(kept)-1].Overlaps(p) {
			kept = append(kept, p)
		}
	}
	return kept
}
