// SPDX-License-Identifier: Apache-2.0

package core

import (
	"net/netip"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/host"
)

// FilterTable is the name of our nftables table, by which it is recognised as
// ours.
const FilterTable = "ocicat"

// bgpPort is where BGP speakers listen, RFC 4271.
const bgpPort = 179

var loopback = netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)

// Filter is our nftables table: what no pod may send, whatever rp_filter and
// route_localnet say for all devices together, and what leaves with the node's
// address.
func Filter(s *cluster.Snapshot) host.Table {
	pods := s.Settings.InterfacePrefix
	sets, nat := wantNAT(s)
	return host.Table{Name: FilterTable, Sets: sets, Chains: append([]host.Chain{
		{Name: "prerouting", Hook: host.Prerouting, Priority: host.PriorityRaw, Drops: []host.Drop{
			{In: pods, Src: loopback, Why: "127/8 stays inside the host"},
			{In: pods, Dst: loopback, Why: "127/8 stays inside the host"},
			{In: pods, NoReturn: true, Why: "a pod sends from its own address only"},
		}},
		{Name: "input", Hook: host.Input, Priority: host.PriorityFilter, Drops: wantClosed(s)},
	}, nat...)}
}

// wantClosed closes the node's own services to its pods: BGP, BFD and the
// datastore.
func wantClosed(s *cluster.Snapshot) []host.Drop {
	pods := s.Settings.InterfacePrefix
	drops := []host.Drop{{In: pods, Proto: "tcp", Port: bgpPort, Why: "BGP"}}
	if port := s.BGP.Port; port != 0 && port != bgpPort {
		drops = append(drops, host.Drop{In: pods, Proto: "tcp", Port: port, Why: "BGP"})
	}
	return append(drops,
		host.Drop{In: pods, Proto: "udp", Port: 3784, Why: "BFD, RFC 5881"},
		host.Drop{In: pods, Proto: "udp", Port: 3785, Why: "BFD echo, RFC 5881"},
		host.Drop{In: pods, Proto: "udp", Port: 4784, Why: "BFD over several hops, RFC 5883"},
		host.Drop{In: pods, Proto: "tcp", Port: 2379, Why: "etcd, for clients"},
		host.Drop{In: pods, Proto: "tcp", Port: 2380, Why: "etcd, for its members"},
	)
}
