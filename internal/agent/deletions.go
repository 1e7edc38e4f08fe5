// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"maps"
	"time"

	"github.com/ocicat-net/ocicat/internal/store"
)

// deletionSettles is how long the datastore must be still before a deletion
// counts: a prefix deleted in one go arrives kind by kind and piece by piece.
const deletionSettles = time.Second

// view is what the agent goes by: objects by key.
type view map[store.Key]store.Entry

// lacks is how many objects of old are missing in v.
func (v view) lacks(old view) (n int) {
	for key := range old {
		if _, there := v[key]; !there {
			n++
		}
	}
	return n
}

// over is v, and what only old has.
func (v view) over(old view) view {
	merged := maps.Clone(old)
	maps.Copy(merged, v)
	return merged
}

// wiped says what is gone, where that is too much to be believed: every pool,
// and with them at least half of the other Nodes, or a lone node's own. That
// is a datastore wiped, replaced or restored, not somebody's decision; one
// that is meant goes step by step, each step believed. "" for all else.
func wiped(old, now view, self string) string {
	pools, poolsGone := gone(old, now, store.IPPool, "")
	if pools == 0 || poolsGone < pools {
		return ""
	}
	nodes, nodesGone := gone(old, now, store.Node, self)
	if nodes == 0 {
		own := store.Key{Kind: store.Node, Name: self}
		_, had := old[own]
		_, has := now[own]
		if !had || has {
			return ""
		}
		nodes, nodesGone = 1, 1
	}
	if 2*nodesGone < nodes {
		return ""
	}
	return fmt.Sprintf("%d of %d IP pools and %d of %d Nodes", poolsGone, pools, nodesGone, nodes)
}

// gone counts the objects of a kind in old but one, and those missing in now.
func gone(old, now view, kind store.Kind, but string) (all, missing int) {
	for key := range old {
		if key.Kind != kind || key.Name == but {
			continue
		}
		all++
		if _, there := now[key]; !there {
			missing++
		}
	}
	return all, missing
}

// believe brings what the agent goes by up to what the datastore says, but for
// deletions that have not settled or are too much at once: then it goes by
// both. still says that nothing was deleted for deletionSettles. The caller
// holds the lock.
func (r *resources) believe(still bool) {
	told := view(r.entries)
	missing := told.lacks(r.believed)
	news := missing != r.missing
	if r.missing = missing; missing == 0 {
		r.believed, r.refused = maps.Clone(told), ""
		r.settle.Stop()
		return
	}
	if !still {
		r.believed = told.over(r.believed)
		if news {
			r.settle.Reset(deletionSettles)
		}
		return
	}
	was := r.refused
	if r.refused = wiped(r.believed, told, string(r.agent.cfg.Node)); r.refused == "" {
		r.believed, r.missing = maps.Clone(told), 0
		return
	}
	r.believed = told.over(r.believed)
	if was == "" {
		r.agent.log.Error("deletion of too much at once is not believed: going on with what was known", "gone", r.refused)
	}
}

// deletionsSettled takes in deletions once the datastore is still.
func (r *resources) deletionsSettled() {
	r.mu.Lock()
	r.believe(true)
	decided, problems := r.decide(true)
	r.problems = problems
	_, registered := r.believed[store.Key{Kind: store.Node, Name: string(r.agent.cfg.Node)}]
	deleted := !registered && r.refused == ""
	r.mu.Unlock()
	if deleted {
		r.agent.uplinkChanged() // this node lives: its Node is written again
	}
	r.agent.feed.SetCluster(decided)
	r.wantCopy()
	r.agent.loop.Mark(sectionStatus)
}

// mistrusted is what the datastore lacks and the agent does not believe to be
// gone, "" for nothing. Nothing is written into such a datastore.
func (r *resources) mistrusted() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refused
}

// knowsPool says whether the agent goes by at least one IP pool.
func (r *resources) knowsPool() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key := range r.believed {
		if key.Kind == store.IPPool {
			return true
		}
	}
	return false
}
