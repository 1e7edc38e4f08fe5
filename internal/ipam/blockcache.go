// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"net/netip"
	"sync"

	"github.com/ocicat-net/ocicat/internal/store"
)

// cached is a block as it was last written, read or heard of.
type cached struct {
	value []byte
	rev   store.Revision
}

// blockCache is the blocks that concern this node, as last known: a write of
// one needs no read. Only who fills writes changes it.
type blockCache struct {
	mu     sync.Mutex
	blocks map[netip.Prefix]cached
}

func newBlockCache() *blockCache { return &blockCache{blocks: map[netip.Prefix]cached{}} }

func (c *blockCache) get(p netip.Prefix) (cached, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, ok := c.blocks[p]
	return b, ok
}

func (c *blockCache) set(p netip.Prefix, b cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.blocks[p] = b
}

func (c *blockCache) drop(p netip.Prefix) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.blocks, p)
}

func (c *blockCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.blocks)
}
