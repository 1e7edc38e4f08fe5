// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/store"
)

// checker holds what must be true of a world after every single write:
//
//   - an address that a client was told it holds stays held under its handle
//     until that client starts to release it, and is told to nobody else;
//   - what a client is told stands in the datastore at that moment;
//   - every held address is counted by its handle;
//   - a block accounts for each of its addresses once;
//   - a confirmed affinity has a block that belongs to its node.
type checker struct {
	told     map[netip.Addr]string // who was told to hold what
	blocks   map[string]*blockFacts
	handles  map[string]*alloc.Handle
	claims   map[string]map[string]bool // confirmed affinities: block, node
	problems []string
}

// blockFacts is what the checker needs to know of a block.
type blockFacts struct {
	cidr  netip.Prefix
	owner string
	held  map[netip.Addr]string // handle
	free  []int                 // ordinals, in the order in which they are given
}

func newChecker(w *world) *checker {
	c := &checker{
		told: map[netip.Addr]string{}, blocks: map[string]*blockFacts{},
		handles: map[string]*alloc.Handle{}, claims: map[string]map[string]bool{},
	}
	w.applied = c.applied
	return c
}

func (c *checker) say(format string, args ...any) {
	if len(c.problems) < 20 {
		c.problems = append(c.problems, fmt.Sprintf(format, args...))
	}
}

func (c *checker) applied(key store.Key, value []byte) {
	switch key.Kind {
	case store.Block:
		c.block(key.Name, value)
	case store.Handle:
		c.handle(key.Name, value)
	case store.Affinity:
		c.affinity(key.Name, value)
	}
}

// block takes in a new version of a block; a nil value is its end.
func (c *checker) block(name string, value []byte) {
	before := c.blocks[name]
	now := &blockFacts{}
	if value == nil {
		delete(c.blocks, name)
	} else {
		b, err := alloc.ParseBlock(value)
		if err != nil {
			c.say("block %s: %v", name, err)
			return
		}
		now = factsOf(b)
		if n := len(now.held) + len(b.Unallocated); n != len(b.Allocations) {
			c.say("block %s accounts for %d of %d addresses", name, n, len(b.Allocations))
		}
		c.blocks[name] = now
	}
	if before != nil {
		for addr, handle := range before.held {
			if now.held[addr] != handle && c.told[addr] == handle {
				c.say("%s was taken from %s, which was told to hold it, and is held by %q", addr, handle, now.held[addr])
			}
		}
	}
	counts := map[string]int{}
	for _, handle := range now.held {
		counts[handle]++
	}
	for handle, n := range counts {
		c.counted(name, handle, n, now.cidr)
	}
	for node := range c.claims[name] {
		if now.owner != node {
			c.say("block %s is %q's, its affinity to %s is confirmed", name, now.owner, node)
		}
	}
}

func factsOf(b *alloc.Block) *blockFacts {
	f := &blockFacts{cidr: b.CIDR, free: b.Unallocated, held: map[netip.Addr]string{}}
	f.owner, _ = b.Node()
	for _, addr := range b.HeldBy(func(alloc.Attribute) bool { return true }) {
		who, _ := b.Holder(addr)
		f.held[addr] = who.Handle
	}
	return f
}

func (c *checker) counted(block, handle string, n int, p netip.Prefix) {
	h := c.handles[handle]
	if h == nil || h.Blocks[p] < n {
		c.say("block %s holds %d addresses for %s, whose handle is %v", block, n, handle, h)
	}
}

// handle takes in a new version of a handle.
func (c *checker) handle(name string, value []byte) {
	h := &alloc.Handle{}
	if value == nil {
		delete(c.handles, name)
	} else {
		var err error
		if h, err = alloc.ParseHandle(value); err != nil {
			c.say("handle %s: %v", name, err)
			return
		}
		c.handles[name] = h
	}
	for block, f := range c.blocks {
		n := 0
		for _, holder := range f.held {
			if holder == name {
				n++
			}
		}
		if n > 0 && h.Blocks[f.cidr] < n {
			c.say("handle %s counts %d addresses of block %s, which holds %d for it", name, h.Blocks[f.cidr], block, n)
		}
	}
}

// affinity takes in a new version of an affinity.
func (c *checker) affinity(name string, value []byte) {
	node, p, err := names.ParseAffinity(name)
	if err != nil {
		c.say("affinity %s: %v", name, err)
		return
	}
	block := names.Block(p)
	if value == nil {
		delete(c.claims[block], node)
		return
	}
	a, err := alloc.ParseAffinity(value)
	if err != nil {
		c.say("affinity %s: %v", name, err)
		return
	}
	if a.State != alloc.Confirmed {
		delete(c.claims[block], node)
		return
	}
	if c.claims[block] == nil {
		c.claims[block] = map[string]bool{}
	}
	c.claims[block][node] = true
	if b := c.blocks[block]; b == nil || b.owner != node {
		c.say("affinity %s is confirmed, the block is %+v", name, b)
	}
}

// given notes that a client was told to hold addresses under a handle.
func (c *checker) given(handle string, addrs []netip.Addr) {
	for _, addr := range addrs {
		if other, twice := c.told[addr]; twice {
			c.say("%s was given to %s and to %s", addr, other, handle)
		}
		c.told[addr] = handle
		if got := c.holder(addr); got != handle {
			c.say("%s was given to %s, the datastore says %q", addr, handle, got)
		}
	}
}

// leaving notes that addresses are about to be released.
func (c *checker) leaving(addrs ...netip.Addr) {
	for _, addr := range addrs {
		delete(c.told, addr)
	}
}

func (c *checker) holder(addr netip.Addr) string {
	for _, b := range c.blocks {
		if b.cidr.Contains(addr) {
			return b.held[addr]
		}
	}
	return ""
}

// rest lists what is left in the datastore.
func (c *checker) rest(w *world) string {
	var left []string
	for key, e := range w.entries {
		left = append(left, fmt.Sprintf("%s: %s", key, e.Value))
	}
	return strings.Join(left, "\n")
}
