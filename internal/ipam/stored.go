// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"

	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/convert"
	"github.com/ocicat-net/ocicat/internal/resource"
	"github.com/ocicat-net/ocicat/internal/store"
)

// NewStoredClient is a Client for who does not follow the datastore: pools and
// labels are read from it whenever they are needed. skipped, if not nil, is told
// of pools that cannot be read.
func NewStoredClient(s store.Store, skipped func(error)) *Client {
	if skipped == nil {
		skipped = func(error) {}
	}
	return NewClient(ClientConfig{
		Store:      s,
		Pools:      func(ctx context.Context) ([]cluster.Pool, error) { return storedPools(ctx, s, skipped) },
		NodeLabels: func(ctx context.Context, node string) (map[string]string, error) { return storedLabels(ctx, s, node) },
	})
}

func storedPools(ctx context.Context, s store.Store, skipped func(error)) ([]cluster.Pool, error) {
	entries, _, err := s.List(ctx, store.IPPool, "")
	if err != nil {
		return nil, err
	}
	var pools []cluster.Pool
	for _, e := range entries {
		object, err := resource.Decode(e)
		if err != nil {
			skipped(err)
			continue
		}
		pool, err := convert.Pool(object.(*v3.IPPool))
		if err != nil {
			skipped(err)
			continue
		}
		pools = append(pools, pool)
	}
	return pools, nil
}

func storedLabels(ctx context.Context, s store.Store, node string) (map[string]string, error) {
	e, err := s.Get(ctx, store.Key{Kind: store.Node, Name: node})
	if err != nil {
		return nil, err
	}
	object, err := resource.Decode(e)
	if err != nil {
		return nil, err
	}
	return object.ObjectMeta().Labels, nil
}
