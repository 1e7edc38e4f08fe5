// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"encoding/json"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
)

// nodeFence stands in the place of a node's heartbeat while what the node holds is
// taken from it. An agent that starts meanwhile takes it for another
// machine's heartbeat: it gives no address until the fence is gone, or has
// stood still for the takeover time and every address was asserted anew, by a
// write of each block.
//
// So whoever reads a block, then finds the fence still good, and then writes
// the block over what was read, either comes before the agent's assertion or
// fails. A fence is good for half the takeover time.
type nodeFence struct {
	c     *Client
	key   store.Key
	rev   store.Revision // of the fence
	past  *store.Entry   // the heartbeat it replaced, nil for none
	start time.Time
	limit time.Duration
}

// raiseFence replaces the heartbeat that stands at rev, 0 for none. Conflict
// says that the node has come back meanwhile.
func (c *Client) raiseFence(ctx context.Context, node string, rev store.Revision, by string, times Times) (*nodeFence, error) {
	f := &nodeFence{c: c, key: store.Key{Kind: store.Heartbeat, Name: node}, limit: times.Takeover / 2}
	if rev != 0 {
		e, err := c.Store.Get(ctx, f.key)
		if err != nil {
			return nil, err
		}
		if e.Revision != rev {
			return nil, fault.New(fault.Conflict, "fence node %s: it sent a heartbeat just now", node)
		}
		f.past = &e
	}
	data, err := json.Marshal(Heartbeat{FencedBy: by})
	if err != nil {
		return nil, err
	}
	f.start = time.Now()
	if f.rev, err = c.put(ctx, f.key, data, rev); err != nil {
		return nil, fault.New(fault.KindOf(err), "fence node %s: %w", node, err)
	}
	return f, nil
}

// good is nil while the fence protects; it is asked after what is about to be
// written over was read.
func (f *nodeFence) good() error {
	if time.Since(f.start) > f.limit {
		return fault.New(fault.Unavailable, "fence node %s: not done within %s, try again", f.key.Name, f.limit)
	}
	return nil
}

// drop ends the fence and leaves no heartbeat.
func (f *nodeFence) drop(ctx context.Context) error { return f.c.remove(ctx, f.key, f.rev) }

// restore ends the fence and puts the heartbeat of before in its place: the
// node's agent, if it comes back, finds that it is not its last write.
func (f *nodeFence) restore(ctx context.Context) error {
	past := Heartbeat{FencedBy: "nobody"}
	if f.past != nil {
		past, _ = ParseHeartbeat(f.past.Value) // one that cannot be read comes back as it was
	}
	if past.FencedBy != "" {
		return f.drop(ctx)
	}
	_, err := f.c.put(ctx, f.key, f.past.Value, f.rev)
	return err
}
