// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/api/meta"
	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/selector"
)

// Validate reports what is wrong with an object on its own, selectors and
// labels included. Its defaults are set.
func Validate(o Object) []meta.Finding {
	found := o.Validate()
	if _, isNode := o.(*v3.Node); !isNode {
		found = append(found, meta.CheckLabels("metadata.labels", o.ObjectMeta().Labels)...)
	}
	for _, s := range o.Selectors() {
		if s.Value == "" {
			continue
		}
		if _, err := selector.Parse(s.Value); err != nil {
			found = append(found, meta.Finding{
				Path: s.Path, Value: s.Value,
				Want: "a selector (" + strings.TrimPrefix(err.Error(), fmt.Sprintf("selector %q: ", s.Value)) + ")",
				Hint: "Selectors look like: all(), zone == 'a', has(rack) && zone in {'a', 'b'}.",
			})
		}
	}
	return found
}

// ValidateUpdate reports changes that may not be made to a stored object.
func ValidateUpdate(o, stored Object) []meta.Finding {
	pool, isPool := o.(*v3.IPPool)
	before, wasPool := stored.(*v3.IPPool)
	if isPool && wasPool {
		return pool.ValidateUpdate(before)
	}
	return nil
}

// ValidateTogether reports what is wrong between objects: pools that overlap
// each other or a node's network, nodes that share an address. Findings name
// their object; of a pair, the one that stands later in the list.
func ValidateTogether(objects []Object) []meta.Finding {
	var pools []*v3.IPPool
	var nodes []*v3.Node
	for _, o := range objects {
		switch o := o.(type) {
		case *v3.IPPool:
			pools = append(pools, o)
		case *v3.Node:
			nodes = append(nodes, o)
		}
	}
	return slices.Concat(v3.CheckPools(pools), v3.CheckPoolsAgainstNodes(pools, nodes), v3.CheckNodes(nodes))
}
