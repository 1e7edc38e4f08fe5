// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"maps"
	"slices"
	"strings"
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

// many is how many objects of a kind one may lose at once, however few there
// are: deleting fewer is an everyday decision.
const many = 3

// thinned are the kinds of which more than half, and at least many, are gone
// at once, and what that is in words: an old backup looks like this, which has
// the pools but not the Nodes and peers that came after it.
func thinned(old, now view, self string) (kinds []store.Kind, what string) {
	var words []string
	for _, kind := range []store.Kind{store.Node, store.BGPPeer} {
		all, missing := gone(old, now, kind, self)
		if missing < many || 2*missing <= all {
			continue
		}
		kinds = append(kinds, kind)
		words = append(words, fmt.Sprintf("%d of %d %ss", missing, all, kind))
	}
	return kinds, strings.Join(words, " and ")
}

// keeping is v, and what only old has of some kinds.
func (v view) keeping(old view, kinds []store.Kind) view {
	merged := maps.Clone(v)
	for key, e := range old {
		if _, there := v[key]; !there && slices.Contains(kinds, key.Kind) {
			merged[key] = e
		}
	}
	return merged
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
		r.believed, r.refused, r.doubted = maps.Clone(told), "", ""
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
	r.judge(told)
}

// judge takes in what is gone for good, but for what is too much at once: of
// a datastore that was wiped nothing, of one that was thinned not the kinds
// concerned. The caller holds the lock.
func (r *resources) judge(told view) {
	was := r.refused + r.doubted
	self := string(r.agent.cfg.Node)
	if r.refused, r.doubted = wiped(r.believed, told, self), ""; r.refused != "" {
		r.believed = told.over(r.believed)
	} else {
		var kinds []store.Kind
		kinds, r.doubted = thinned(r.believed, told, self)
		r.believed = told.keeping(r.believed, kinds)
		r.missing = told.lacks(r.believed)
	}
	if now := r.refused + r.doubted; was == "" && now != "" {
		r.agent.log.Error("deletion of too much at once is not believed: going on with what was known", "gone", now)
	}
}

// deletionsSettled takes in deletions once the datastore is still.
func (r *resources) deletionsSettled() {
	r.mu.Lock()
	r.believe(true)
	decided, problems := r.decide(true)
	r.problems = problems
	_, registered := r.entries[store.Key{Kind: store.Node, Name: string(r.agent.cfg.Node)}]
	deleted := !registered && r.refused == ""
	r.mu.Unlock()
	if deleted {
		r.agent.uplinkChanged() // this node lives: its Node is written again
	}
	r.agent.feed.SetCluster(decided)
	r.wantCopy()
	r.agent.loop.Mark(sectionStatus)
}

// mistrusted is what a wiped datastore lacks, "" for one that was not wiped.
// Nothing is written into a wiped datastore; into one that was only thinned
// every living node writes its Node again, which ends the doubt.
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
