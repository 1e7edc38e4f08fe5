// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/ocicat-net/ocicat/internal/host"
)

// routes finds what has to be done to routes. It is most of Diff's work where
// peers announce many: each wanted route is looked up once among the seen, each
// seen one once among the wanted, and nothing else is made of them.
func (c *Changes) routes(want, seen host.State, j Judge, absent map[string]bool) {
	shapes := shapes{lengths: map[int]bool{}, metrics: map[uint32]bool{}}
	for key, w := range want.Routes {
		shapes.note(key)
		present, found := seen.Routes[key]
		switch {
		case found && SameRoute(w, present):
		case absent[w.Dev]:
		case found && !j.Ours(present):
			c.Conflicts = append(c.Conflicts, Conflict{w, present})
		default:
			c.SetRoutes = append(c.SetRoutes, w)
		}
	}
	for key, r := range seen.Routes {
		if _, wanted := want.Routes[key]; wanted {
			continue
		}
		if j.Ours(r) {
			if j.Deletable(r) && !j.Skip(r.Dev) {
				c.DelRoutes = append(c.DelRoutes, r)
			}
			continue
		}
		if w, ok := shapes.hiddenBy(r, want.Routes); ok {
			c.Conflicts = append(c.Conflicts, Conflict{w, r})
		}
	}
}

// shapes are the prefix lengths and metrics wanted routes have: few, so that
// what a foreign route hides is found by a few lookups.
type shapes struct {
	lengths map[int]bool
	metrics map[uint32]bool
	last    host.RouteKey // noted last: nearly all are alike
}

func (s *shapes) note(key host.RouteKey) {
	if key.Dst.Bits() == s.last.Dst.Bits() && key.Metric == s.last.Metric {
		return
	}
	s.lengths[key.Dst.Bits()], s.metrics[key.Metric] = true, true
	s.last = key
}

// hiddenBy is the wanted route that a foreign one hides: to a network that the
// foreign one's is a part of, the smallest, or to the same with a higher metric.
func (s *shapes) hiddenBy(foreign host.Route, wanted map[host.RouteKey]host.Route) (hidden host.Route, ok bool) {
	dst := foreign.Dst
	for bits := range s.lengths {
		for metric := range s.metrics {
			if bits > dst.Bits() || bits == dst.Bits() && metric <= foreign.Metric || ok && bits <= hidden.Dst.Bits() {
				continue
			}
			w, found := wanted[host.RouteKey{Dst: netip.PrefixFrom(dst.Addr(), bits).Masked(), Metric: metric}]
			if found {
				hidden, ok = w, true
			}
		}
	}
	return hidden, ok
}

// order is what routes are sorted by: address, length, metric.
type order struct {
	high, low uint64
	rest      uint64
}

func orderOf(r host.Route) order {
	a := r.Dst.Addr().As16()
	return order{binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:]), uint64(r.Dst.Bits())<<32 | uint64(r.Metric)}
}

func (o order) compare(other order) int {
	return cmp.Or(cmp.Compare(o.high, other.high), cmp.Compare(o.low, other.low), cmp.Compare(o.rest, other.rest))
}

// sortedRoutes sorts by numbers made once for each route: comparing and moving
// whole routes took most of a pass over 10,000.
func sortedRoutes(routes []host.Route) []host.Route {
	if len(routes) < 2 {
		return routes
	}
	type place struct {
		order
		at int
	}
	places := make([]place, len(routes))
	for i, r := range routes {
		places[i] = place{orderOf(r), i}
	}
	slices.SortFunc(places, func(a, b place) int { return a.compare(b.order) })
	sorted := make([]host.Route, len(routes))
	for i, p := range places {
		sorted[i] = routes[p.at]
	}
	return sorted
}
