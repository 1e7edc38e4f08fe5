// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"net/netip"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/store"
)

// survey is all that the datastore holds about addresses. Its parts were read
// one after the other: what contradicts itself in one survey may be a write
// under way, and counts only when the next one finds it unchanged.
type survey struct {
	pools      []cluster.Pool
	blocks     map[netip.Prefix]*alloc.Block
	claims     []storedClaim
	handles    map[string]storedHandle
	beats      map[string]storedBeat // by node
	nodes      map[string]bool       // Nodes that exist
	unreadable map[store.Key]error
}

type storedClaim struct {
	claim
	rev store.Revision
}

type storedHandle struct {
	*alloc.Handle
	rev store.Revision
}

type storedBeat struct {
	Heartbeat
	rev store.Revision
}

// survey reads everything. Objects that cannot be read are listed apart.
func (c *Client) survey(ctx context.Context) (*survey, error) {
	s := &survey{
		blocks: map[netip.Prefix]*alloc.Block{}, handles: map[string]storedHandle{},
		beats: map[string]storedBeat{}, nodes: map[string]bool{}, unreadable: map[store.Key]error{},
	}
	var err error
	if s.pools, err = c.Pools(ctx); err != nil {
		return nil, err
	}
	for kind, take := range map[store.Kind]func(store.Entry) error{
		store.Block: s.takeBlock, store.Affinity: s.takeClaim, store.Handle: s.takeHandle, store.Heartbeat: s.takeBeat,
		store.Node: func(e store.Entry) error { s.nodes[e.Key.Name] = true; return nil },
	} {
		entries, _, err := c.Store.List(ctx, kind, "")
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if err := take(e); err != nil {
				s.unreadable[e.Key] = err
			}
		}
	}
	return s, nil
}

func (s *survey) takeBlock(e store.Entry) error {
	p, err := names.ParseBlock(e.Key.Name)
	if err != nil {
		return err
	}
	b, err := parseBlockAt(p, e.Value)
	if err == nil {
		s.blocks[p] = b
	}
	return err
}

func (s *survey) takeClaim(e store.Entry) error {
	node, p, err := names.ParseAffinity(e.Key.Name)
	if err != nil {
		return err
	}
	a, err := alloc.ParseAffinity(e.Value)
	if err != nil {
		return err
	}
	s.claims = append(s.claims, storedClaim{claim{node, p, a.State}, e.Revision})
	return nil
}

func (s *survey) takeHandle(e store.Entry) error {
	h, err := alloc.ParseHandle(e.Value)
	if err == nil {
		s.handles[e.Key.Name] = storedHandle{h, e.Revision}
	}
	return err
}

func (s *survey) takeBeat(e store.Entry) error {
	h, err := ParseHeartbeat(e.Value)
	s.beats[e.Key.Name] = storedBeat{h, e.Revision} // also where it cannot be read: it is there
	return err
}

// holding is one address that somebody holds.
type holding struct {
	addr     netip.Addr
	block    netip.Prefix
	who      alloc.Attribute
	sequence uint64
}

// holdings are all addresses that somebody holds.
func (s *survey) holdings(yield func(holding) bool) {
	for p, b := range s.blocks {
		for _, addr := range b.HeldBy(func(alloc.Attribute) bool { return true }) {
			who, _ := b.Holder(addr)
			if !yield(holding{addr, p, who, b.SequenceOf(addr)}) {
				return
			}
		}
	}
}

// known are the names of all nodes that exist, beat, own a block or hold an
// address.
func (s *survey) known() map[string]bool {
	all := map[string]bool{}
	for node := range s.nodes {
		all[node] = true
	}
	for node := range s.beats {
		all[node] = true
	}
	for _, cl := range s.claims {
		all[cl.node] = true
	}
	for _, b := range s.blocks {
		if node, ok := b.Node(); ok {
			all[node] = true
		}
	}
	for h := range s.holdings {
		if node := h.who.Secondary[alloc.AttrNode]; node != "" {
			all[node] = true
		}
	}
	return all
}
