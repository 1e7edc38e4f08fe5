// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"cmp"
	"context"
	"maps"
	"math/big"
	"net/netip"
	"slices"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/store"
)

// IPsByHandle lists the addresses held under a handle, by address. An unknown
// handle is NotFound.
func (c *Client) IPsByHandle(ctx context.Context, handle string) ([]netip.Addr, error) {
	e, err := c.Store.Get(ctx, handleKey(handle))
	if err != nil {
		return nil, err
	}
	h, err := alloc.ParseHandle(e.Value)
	if err != nil {
		return nil, err
	}
	var held []netip.Addr
	for _, p := range slices.SortedFunc(maps.Keys(h.Blocks), cidr.Compare) {
		b, _, err := c.block(ctx, p)
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return held, err
		}
		held = append(held, b.ByHandle(handle)...)
	}
	return held, nil
}

// Holder is who holds an address. One that is free, or in no pool and block,
// is NotFound.
func (c *Client) Holder(ctx context.Context, addr netip.Addr) (alloc.Attribute, error) {
	who, _, err := c.Allocation(ctx, addr)
	return who, err
}

// Allocation is who holds an address, and the sequence number that tells this
// allocation of it from every other. An address without one is NotFound.
func (c *Client) Allocation(ctx context.Context, addr netip.Addr) (who alloc.Attribute, sequence uint64, err error) {
	p, ok, err := c.blockOf(ctx, addr)
	if err != nil {
		return alloc.Attribute{}, 0, err
	}
	if !ok {
		return alloc.Attribute{}, 0, fault.New(fault.NotFound, "holder of %s: it is in no pool", addr)
	}
	b, _, err := c.block(ctx, p)
	if err != nil {
		return alloc.Attribute{}, 0, err
	}
	if who, ok = b.Holder(addr); !ok {
		return who, 0, fault.New(fault.NotFound, "holder of %s: it is free", addr)
	}
	return who, b.SequenceOf(addr), nil
}

func configKey() store.Key { return store.Key{Kind: store.IPAMConfig, Name: "default"} }

// GetConfig reads the cluster's configuration; without one the default holds.
func (c *Client) GetConfig(ctx context.Context) (alloc.Config, error) {
	e, err := c.Store.Get(ctx, configKey())
	if fault.Is(err, fault.NotFound) {
		return alloc.DefaultConfig(), nil
	}
	if err != nil {
		return alloc.Config{}, err
	}
	return alloc.ParseConfig(e.Value)
}

// SetConfig writes the cluster's configuration; stored fields that this
// version does not know stay. Settings that contradict each other are
// Invalid.
func (c *Client) SetConfig(ctx context.Context, conf alloc.Config) error {
	if err := conf.Validate(); err != nil {
		return err
	}
	return again(ctx, func() error {
		e, err := c.Store.Get(ctx, configKey())
		if err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
		next := conf
		if err == nil {
			now, err := alloc.ParseConfig(e.Value)
			if err != nil {
				return err
			}
			next = now.With(conf)
		}
		data, err := next.Encode()
		if err != nil {
			return err
		}
		_, err = c.put(ctx, configKey(), data, e.Revision)
		return raced(err)
	})
}

// BlockUse counts one block.
type BlockUse struct {
	CIDR      netip.Prefix
	Affinity  string // "host:" and a node, …, "" for none
	Capacity  int
	InUse     int // held by anyone, also by a reserve
	Held      int // of those, held ready by agents
	Reserved  int // free, but not given unasked: IPReservations
	Available int // free and assignable
}

// PoolUse counts one pool. The pool without name stands for blocks outside
// all pools.
type PoolUse struct {
	Name      string
	CIDR      netip.Prefix
	Capacity  *big.Int
	InUse     int
	Held      int
	Reserved  *big.Int
	Available *big.Int
	Blocks    []BlockUse // by address
}

// Utilization counts pools, given by name or CIDR, or all and the blocks
// outside them where none is given, by name.
func (c *Client) Utilization(ctx context.Context, pools ...string) ([]PoolUse, error) {
	all, err := c.Pools(ctx)
	if err != nil {
		return nil, err
	}
	blocks, err := c.blocks(ctx)
	if err != nil {
		return nil, err
	}
	kept, err := c.reserved(ctx)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(blocks, func(a, b *alloc.Block) int { return cidr.Compare(a.CIDR, b.CIDR) })
	var uses []PoolUse
	orphans := slices.Clone(blocks)
	for _, p := range all {
		in := func(b *alloc.Block) bool { return cidr.Covers(p.CIDR, b.CIDR) }
		orphans = slices.DeleteFunc(orphans, in)
		if len(pools) == 0 || slices.Contains(pools, p.Name) || slices.Contains(pools, p.CIDR.String()) {
			mine := slices.DeleteFunc(slices.Clone(blocks), func(b *alloc.Block) bool { return !in(b) })
			uses = append(uses, poolUse(p, mine, kept))
		}
	}
	slices.SortFunc(uses, func(a, b PoolUse) int { return cmp.Compare(a.Name, b.Name) })
	if len(pools) == 0 && len(orphans) > 0 {
		rest := poolUse(cluster.Pool{}, orphans, kept)
		for _, b := range rest.Blocks {
			rest.Capacity.Add(rest.Capacity, big.NewInt(int64(b.Capacity)))
		}
		rest.Available.SetInt64(0) // nothing is assigned outside pools
		uses = append(uses, rest)
	}
	return uses, nil
}

func poolUse(p cluster.Pool, blocks []*alloc.Block, kept reserved) PoolUse {
	u := PoolUse{Name: p.Name, CIDR: p.CIDR, Capacity: cidr.Blocks(p.CIDR, p.CIDR.Addr().BitLen()), Reserved: kept.within(p.CIDR)}
	for _, b := range blocks {
		bu := BlockUse{CIDR: b.CIDR, Affinity: b.Affinity, Capacity: cidr.Size(b.CIDR), InUse: b.InUse(), Held: len(b.HeldBy(isReserve)), Available: b.Assignable(kept.has)}
		bu.Reserved = len(b.Unallocated) - bu.Available
		taken := kept.count(b.CIDR) - bu.Reserved
		u.Reserved.Sub(u.Reserved, big.NewInt(int64(taken)))
		u.Blocks = append(u.Blocks, bu)
		u.InUse += bu.InUse
		u.Held += bu.Held
	}
	u.Available = new(big.Int).Sub(u.Capacity, big.NewInt(int64(u.InUse)))
	u.Available.Sub(u.Available, u.Reserved)
	return u
}

// isReserve reports whether an address is held ready by an agent.
func isReserve(a alloc.Attribute) bool {
	_, ok := names.ParseReserveHandle(a.Handle)
	return ok
}
