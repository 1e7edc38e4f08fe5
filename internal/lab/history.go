// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"time"

	"github.com/ocicat-net/ocicat/api/meta"
	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/convert"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/resource"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/etcd"
)

// poolName is the pool's, the one calico/node gives the first pool.
const poolName = "default-ipv4-ippool"

// typeTunnel is what IPAM records as the use of an IPIP tunnel's address.
const typeTunnel = "ipipTunnelAddress"

// history is the past of the article's cluster, played on its datastore: it
// began with IPIP, so every node's first address went to its tunnel. Then IPIP
// was switched off and the addresses came back, to the end of each block's
// queue. That is why the article's first pods hold ordinal 1.
type history struct {
	store store.Store
	ipam  *ipam.Client
	nodes []NodeSpec
}

// raiseHistory plays the lab's past on its datastore, once.
func (l *Lab) raiseHistory(ctx context.Context, s *State) ([]string, error) {
	if s.History {
		return []string{"as before"}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, partTimeout)
	defer cancel()
	db, err := etcd.New(etcd.Config{Endpoints: s.Endpoints})
	if err != nil {
		return nil, err
	}
	defer db.Close()
	h := history{store: db, nodes: s.Topology.Nodes}
	h.ipam = ipam.NewClient(ipam.ClientConfig{Store: db, Pools: h.pools, NodeLabels: h.labels})
	if err := h.play(ctx, s.Topology); err != nil {
		return nil, fmt.Errorf("play the cluster's past: %w", err)
	}
	s.History = true
	return []string{fmt.Sprintf("pool %s: ipipMode Always, then Never", s.Topology.Pool)}, l.save(s)
}

// play can be repeated after it failed anywhere: the pool's mode tells whether
// the addresses are still being given or already coming back.
func (h history) play(ctx context.Context, t Topology) error {
	pools, err := h.pools(ctx)
	if err != nil {
		return err
	}
	if len(pools) == 0 || pools[0].IPIP == cluster.Always {
		if err := h.setMode(ctx, t, v3.Always); err != nil {
			return err
		}
		for _, n := range h.nodes {
			if err := h.assign(ctx, n.Name); err != nil {
				return fmt.Errorf("assign tunnel address of %s: %w", n.Name, err)
			}
		}
		if err := h.setMode(ctx, t, v3.Never); err != nil {
			return err
		}
	}
	for _, n := range h.nodes {
		err := h.ipam.ReleaseByHandle(ctx, names.IPIPTunnelHandle(n.Name))
		if err != nil && !fault.Is(err, fault.NotFound) {
			return fmt.Errorf("release tunnel address of %s: %w", n.Name, err)
		}
	}
	return nil
}

// assign gives a node its tunnel address, unless it has one.
func (h history) assign(ctx context.Context, node string) error {
	_, err := h.ipam.AutoAssign(ctx, ipam.AssignRequest{
		Node: node, Handle: names.IPIPTunnelHandle(node), Use: ipam.Tunnel, Family: 4, Num: 1, MaxPerHandle: 1,
		Attrs: map[string]string{alloc.AttrNode: node, alloc.AttrType: typeTunnel},
	})
	return err
}

// setMode writes the pool with an IPIP mode, as "ocicat apply" would.
func (h history) setMode(ctx context.Context, t Topology, mode string) error {
	pool := &v3.IPPool{
		Type:     meta.Type{APIVersion: v3.APIVersion, Kind: v3.KindIPPool},
		Metadata: meta.Object{Name: poolName},
		Spec:     v3.IPPoolSpec{CIDR: t.Pool.String(), IPIPMode: mode},
	}
	pool.SetDefaults()
	key := resource.Key(pool)
	before, err := h.store.Get(ctx, key)
	switch {
	case fault.Is(err, fault.NotFound):
		resource.Create(pool, newUUID(), time.Now())
	case err != nil:
		return err
	default:
		stored, err := resource.Decode(before)
		if err != nil {
			return err
		}
		resource.Replace(pool, stored)
	}
	value, err := resource.Encode(pool, before.Value)
	if err != nil {
		return err
	}
	if _, err := h.store.Put(ctx, key, value, before.Revision); err != nil {
		return fmt.Errorf("write pool: %w", err)
	}
	return nil
}

func (h history) pools(ctx context.Context) ([]cluster.Pool, error) {
	entries, _, err := h.store.List(ctx, store.IPPool, "")
	if err != nil {
		return nil, err
	}
	var pools []cluster.Pool
	for _, e := range entries {
		object, err := resource.Decode(e)
		if err != nil {
			return nil, err
		}
		pool, ok := object.(*v3.IPPool)
		if !ok {
			return nil, fault.New(fault.Internal, "read %s: it is no pool", e.Key)
		}
		p, err := convert.Pool(pool)
		if err != nil {
			return nil, err
		}
		pools = append(pools, p)
	}
	return pools, nil
}

// labels are none: the nodes have not been registered yet, and the pool
// selects all.
func (h history) labels(context.Context, string) (map[string]string, error) { return nil, nil }
