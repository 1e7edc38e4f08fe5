// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"net/netip"

	"github.com/ocicat-net/ocicat/internal/alloc"
)

// Thaw frees the addresses of a block that rested as long as the configuration
// asks. Assignments and releases do that by themselves; it is for blocks that
// have neither. A missing block is NotFound.
func (c *Client) Thaw(ctx context.Context, p netip.Prefix) error {
	conf, err := c.GetConfig(ctx)
	if err != nil {
		return err
	}
	return c.editBlock(ctx, p, func(b *alloc.Block) (bool, error) {
		return b.Cool(c.Now(), conf.Cooldown()) > 0, nil
	})
}
