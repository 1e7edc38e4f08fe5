// SPDX-License-Identifier: Apache-2.0

package v3

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/ocicat-net/ocicat/api/meta"
)

// CheckPools reports pools that overlap another one; of a pair it names the
// later name. Pools whose CIDR does not parse are left out.
func CheckPools(pools []*IPPool) []meta.Finding {
	var found []meta.Finding
	sorted := slices.SortedFunc(slices.Values(pools), func(a, b *IPPool) int {
		return cmp.Compare(a.Metadata.Name, b.Metadata.Name)
	})
	for i, pool := range sorted {
		for _, other := range sorted[:i] {
			a, b := pool.CIDRPrefix(), other.CIDRPrefix()
			if !a.IsValid() || !b.IsValid() || !a.Overlaps(b) {
				continue
			}
			found = append(found, meta.Finding{
				Object: object(KindIPPool, pool.Metadata.Name), Path: "spec.cidr", Value: pool.Spec.CIDR,
				Want: fmt.Sprintf("no overlap with IPPool %s (%s)", other.Metadata.Name, other.Spec.CIDR),
				Hint: "Choose another CIDR, or delete one of the two pools.",
			})
		}
	}
	return found
}

// CheckPoolsAgainstNodes reports pools that overlap the network of a node:
// addresses of pods would hide the node's neighbours.
func CheckPoolsAgainstNodes(pools []*IPPool, nodes []*Node) []meta.Finding {
	var found []meta.Finding
	for _, pool := range pools {
		cidr := pool.CIDRPrefix()
		for _, node := range nodes {
			address := node.IPv4()
			if !cidr.IsValid() || !address.IsValid() || !cidr.Overlaps(address.Masked()) {
				continue
			}
			found = append(found, meta.Finding{
				Object: object(KindIPPool, pool.Metadata.Name), Path: "spec.cidr", Value: pool.Spec.CIDR,
				Want: fmt.Sprintf("no overlap with %s, the network of node %s", address.Masked(), node.Metadata.Name),
				Hint: "Choose a CIDR that no node's network touches.",
			})
		}
	}
	return found
}

// CheckNodes reports nodes that share a BGP address, naming the later name.
func CheckNodes(nodes []*Node) []meta.Finding {
	var found []meta.Finding
	owner := map[netip.Addr]string{}
	sorted := slices.SortedFunc(slices.Values(nodes), func(a, b *Node) int {
		return cmp.Compare(a.Metadata.Name, b.Metadata.Name)
	})
	for _, node := range sorted {
		address := node.IPv4()
		if !address.IsValid() {
			continue
		}
		first, taken := owner[address.Addr()]
		if !taken {
			owner[address.Addr()] = node.Metadata.Name
			continue
		}
		found = append(found, meta.Finding{
			Object: object(KindNode, node.Metadata.Name), Path: "spec.bgp.ipv4Address", Value: node.Spec.BGP.IPv4Address,
			Want: "an address that node " + first + " does not have",
			Hint: "Two nodes with one address cannot both be peered with.",
		})
	}
	return found
}

func object(kind, name string) string { return kind + " " + name }
