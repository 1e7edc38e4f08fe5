// SPDX-License-Identifier: Apache-2.0

package v3

import (
	"fmt"
	"net/netip"

	"github.com/ocicat-net/ocicat/api/meta"
)

// CheckPools reports pools that overlap another one; of a pair it is about the
// one that stands later in the list. Pools whose CIDR does not parse are left
// out.
func CheckPools(pools []*IPPool) []meta.Finding {
	var found []meta.Finding
	for i, pool := range pools {
		for _, other := range pools[:i] {
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

// CheckNodes reports nodes that share a BGP address; of a pair it is about the
// one that stands later in the list.
func CheckNodes(nodes []*Node) []meta.Finding {
	var found []meta.Finding
	owner := map[netip.Addr]string{}
	for _, node := range nodes {
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
