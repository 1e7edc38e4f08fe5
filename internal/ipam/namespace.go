// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"slices"

	"github.com/ocicat-net/ocicat/internal/cluster"
)

// NamespacePools names the pools a pod may have its IPv4 address from, those of
// all namespaces among them, where a pool with a namespaceSelector offers itself
// to the pod's namespace. It is none, as for pods of all other namespaces, where
// there is no such pool. labels are the namespace's; they are only asked for
// where a pool has a selector. That no pool suits is Exhausted, and says of
// each why.
func (c *Client) NamespacePools(ctx context.Context, node string, labels func() (map[string]string, error)) ([]string, error) {
	all, err := c.Pools(ctx)
	if err != nil {
		return nil, err
	}
	selects := func(p cluster.Pool) bool { return p.NamespaceSelector != "" }
	if !slices.ContainsFunc(all, func(p cluster.Pool) bool { return selects(p) && !p.Manual && closed(p) == "" }) {
		return nil, nil
	}
	r := request{node: node, use: Workload, family: 4}
	if r.namespace, err = labels(); err != nil {
		return nil, err
	}
	nodeLabels, err := c.NodeLabels(ctx, node)
	if err != nil {
		return nil, err
	}
	suit, err := choosePools(all, nodeLabels, r)
	if err != nil || !slices.ContainsFunc(suit, selects) {
		return nil, err
	}
	names := make([]string, len(suit))
	for i, p := range suit {
		names[i] = p.Name
	}
	return names, nil
}
