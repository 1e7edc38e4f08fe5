// SPDX-License-Identifier: Apache-2.0

package table

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"slices"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// shardCount is how many parts the table has. A Snapshot copies only the parts
// in which a best path changed: of 100,000 routes some 400 for one change.
const shardCount = 256

// shard is the prefixes of one part.
type shard struct {
	dests   map[netip.Prefix]*dest
	learned []cluster.LearnedRoute // of the last Snapshot, never changed, only replaced
	dirty   bool                   // learned is out of date
}

// shardOf spreads neighbouring blocks over the parts.
func shardOf(prefix netip.Prefix) int {
	addr := prefix.Addr().As16()
	x := binary.BigEndian.Uint64(addr[:8])*31 + binary.BigEndian.Uint64(addr[8:])
	x = (x + uint64(prefix.Bits())) * 0x9e3779b97f4a7c15 // 2^64 / golden ratio
	return int(x >> 56)
}

func (t *Table) shard(prefix netip.Prefix) *shard { return &t.shards[shardOf(prefix)] }

// find is nil when there is no path to prefix.
func (t *Table) find(prefix netip.Prefix) *dest { return t.shard(prefix).dests[prefix] }

// touch notes that the best path to prefix changed.
func (t *Table) touch(prefix netip.Prefix) {
	t.shard(prefix).dirty = true
	t.last = nil
}

// Snapshot is the best learned paths at one moment. It never changes.
type Snapshot struct {
	shards [shardCount][]cluster.LearnedRoute
	count  int
}

var _ cluster.Learned = (*Snapshot)(nil)

// All yields the routes in no particular order.
func (s *Snapshot) All() iter.Seq[cluster.LearnedRoute] {
	return func(yield func(cluster.LearnedRoute) bool) {
		for _, routes := range s.shards {
			for _, r := range routes {
				if !yield(r) {
					return
				}
			}
		}
	}
}

// Len is the number of routes.
func (s *Snapshot) Len() int { return s.count }

// Snapshot is the best paths that were learned, without the prefixes we
// originate. Between two changes it is the same value, so that a caller can
// compare; a change costs a copy of the parts it happened in.
func (t *Table) Snapshot() *Snapshot {
	if t.last != nil {
		return t.last
	}
	next := &Snapshot{}
	for i := range t.shards {
		s := &t.shards[i]
		if s.dirty {
			s.learned, s.dirty = s.learnedRoutes(), false
		}
		next.shards[i] = s.learned
		next.count += len(s.learned)
	}
	t.last = next
	return next
}

func (s *shard) learnedRoutes() []cluster.LearnedRoute {
	routes := make([]cluster.LearnedRoute, 0, len(s.dests))
	for prefix, d := range s.dests {
		if d.best == nil || d.best.own() {
			continue
		}
		from := d.best.peer.info
		routes = append(routes, cluster.LearnedRoute{
			Prefix:   prefix,
			NextHop:  d.best.attrs.NextHop,
			From:     from.Addr,
			FromName: from.Name,
			External: !from.Internal,
		})
	}
	return routes
}

// Best is the best path to prefix; ok is false when there is none.
func (t *Table) Best(prefix netip.Prefix) (best Path, ok bool) {
	if d := t.find(prefix); d != nil && d.best != nil {
		return d.best.path(), true
	}
	return Path{}, false
}

// BestPaths yields the best path to every prefix in no particular order.
func (t *Table) BestPaths() iter.Seq[Path] {
	return func(yield func(Path) bool) {
		for i := range t.shards {
			for _, d := range t.shards[i].dests {
				if d.best != nil && !yield(d.best.path()) {
					return
				}
			}
		}
	}
}

func (r *route) path() Path {
	return Path{Prefix: r.prefix, Attrs: r.attrs, From: r.peer.info, Stale: r.stale}
}

// Paths is every path to prefix with what decided for or against it, the best
// first, then by peer address.
func (t *Table) Paths(prefix netip.Prefix) []speaker.Path {
	if d := t.find(prefix); d != nil {
		return d.paths()
	}
	return nil
}

// Dump is every path to every prefix, as Paths, sorted by prefix.
func (t *Table) Dump() []speaker.Path {
	var all []*dest
	for i := range t.shards {
		for _, d := range t.shards[i].dests {
			all = append(all, d)
		}
	}
	slices.SortFunc(all, func(a, b *dest) int { return a.routes[0].prefix.Compare(b.routes[0].prefix) })
	var paths []speaker.Path
	for _, d := range all {
		paths = append(paths, d.paths()...)
	}
	return paths
}

func (d *dest) paths() []speaker.Path {
	why := explain(d.routes)
	paths := make([]speaker.Path, 0, len(d.routes))
	for _, r := range d.routes {
		a := r.attrs
		paths = append(paths, speaker.Path{
			Prefix:    r.prefix,
			NextHop:   a.NextHop,
			From:      r.peer.info.Addr,
			FromName:  r.peer.info.Name,
			LocalPref: r.localPref(),
			MED:       a.MED,
			ASPath:    a.ASPath.Flat(),
			Origin:    a.Origin.String(),
			Stale:     r.stale,
			Best:      r == d.best,
			Why:       why[r],
		})
	}
	slices.SortFunc(paths, func(a, b speaker.Path) int {
		if a.Best != b.Best {
			return compareTrue(a.Best, b.Best)
		}
		return a.From.Compare(b.From)
	})
	return paths
}
