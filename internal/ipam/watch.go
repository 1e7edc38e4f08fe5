// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"time"

	"github.com/ocicat-net/ocicat/internal/store"
)

// relistHeartbeat is how often the own heartbeat is read although its watch
// works: each heartbeat's compare-and-swap finds out as well.
const relistHeartbeat = time.Hour

// watchHeartbeat makes the next heartbeat come at once when the stored one is
// not the own any more, until ctx ends: somebody forgot this node, reclaims what
// it holds, or has its name.
func (r *Reserve) watchHeartbeat(ctx context.Context) {
	key, seen := r.heartbeatKey(), false // seen: before the first one none is no news
	store.Follow(ctx, r.c.Store, store.Heartbeat, key.Name, store.FollowOptions{Relist: relistHeartbeat}, func(u store.Update) {
		if u.Err != nil {
			return
		}
		found := !u.Full // a change that is not its deletion leaves it
		for _, gone := range u.Deleted {
			found = found && gone != key
		}
		for _, e := range u.Entries {
			if e.Key == key {
				seen = true
				stored, _ := ParseHeartbeat(e.Value) // one that cannot be read is not the own
				found = stored.InstanceUID == r.cfg.InstanceUID && stored.BootID == r.cfg.BootID
			}
		}
		if found || !seen {
			return
		}
		select {
		case r.beatNow <- struct{}{}:
		default:
		}
	})
}
