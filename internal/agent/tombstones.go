// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/journal/tombstone"
)

// bury serves the DELs that were answered while the agent was away: before
// every ADD, at start, and whenever their directory changes. One burial runs
// at a time: a stone another one has served must not fell a new pod.
func (a *Agent) bury(ctx context.Context) {
	dir := tombstone.Dir(a.cfg.RunDir)
	if stones, err := tombstone.List(dir); err == nil && len(stones) == 0 {
		return // as nearly always: nobody waits for anybody
	}
	a.burying.Lock()
	defer a.burying.Unlock()
	stones, err := tombstone.List(dir)
	if err != nil {
		a.log.Warn("tombstones not read", "dir", dir, "error", err)
		return
	}
	for _, stone := range stones {
		id := cluster.EndpointID{ContainerID: stone.ID.ContainerID, IfName: stone.ID.IfName}
		if err := a.release(ctx, id); err != nil {
			a.log.Warn("DEL left by the plugin not done yet", "id", id, "error", err)
			continue
		}
		if err := tombstone.Remove(dir, stone.ID); err != nil {
			a.log.Warn("tombstone stays", "id", id, "error", err)
		}
	}
}

// watchTombstones buries whenever the plugin leaves one.
func (a *Agent) watchTombstones(ctx context.Context) error {
	return tombstone.Watch(ctx, tombstone.Dir(a.cfg.RunDir), func() { a.bury(ctx) })
}
