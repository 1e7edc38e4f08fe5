// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/cluster"
)

// biggest is how many of the largest users an error names.
const biggest = 3

// describe says for each pool how many addresses it has, how they are used and
// by which nodes most: what an operator asks first when a pool is exhausted.
func describe(pools []cluster.Pool, blocks []*alloc.Block, kept reserved) string {
	var parts []string
	for _, p := range pools {
		inside := slices.DeleteFunc(slices.Clone(blocks), func(b *alloc.Block) bool { return !cidr.Covers(p.CIDR, b.CIDR) })
		u := poolUse(p, inside, kept)
		text := fmt.Sprintf("pool %s %s has %s addresses: %d in use, %d held ready, %s reserved, %s free",
			p.Name, p.CIDR, u.Capacity, u.InUse-u.Held, u.Held, u.Reserved, u.Available)
		if users := users(inside); users != "" {
			text += ", most of them used by " + users
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "; ")
}

// users names the nodes that hold most addresses, in use or held ready.
func users(blocks []*alloc.Block) string {
	byNode := map[string]int{}
	for _, b := range blocks {
		for who, n := range b.Holders() {
			node := who.Secondary[alloc.AttrNode]
			if node == "" {
				node = "no node"
			}
			byNode[node] += n
		}
	}
	most := slices.SortedFunc(maps.Keys(byNode), func(a, b string) int {
		return cmp.Or(cmp.Compare(byNode[b], byNode[a]), cmp.Compare(a, b))
	})
	var parts []string
	for _, node := range most[:min(biggest, len(most))] {
		parts = append(parts, fmt.Sprintf("%s (%d)", node, byNode[node]))
	}
	return strings.Join(parts, ", ")
}
