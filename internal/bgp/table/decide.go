// SPDX-License-Identifier: Apache-2.0

package table

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
)

// defaultLocalPref is the preference of a route that comes without one: from
// another AS, or from a peer of ours that left out what it must send.
const defaultLocalPref = 100

// A step of the decision process compares two paths. Paths to which another is
// better leave; what is left goes to the next step (RFC 4271 section 9.1.2).
type step struct {
	// compare is negative when a is better, 0 when the step is indifferent.
	compare func(a, b *route) int
	// within is set when the step compares only some paths with each other; it
	// says whether it has anything to do for these.
	within func(routes []*route) bool
	// value is what the step looks at, for people.
	value func(*route) string
	// won and lost are formats for the path's own value and its rival's.
	won, lost string
}

// steps are the decision process in its order. Cost to the next hop (9.1.2.2
// e) is not among them: in a cluster every next hop is one hop away or unused.
var steps = []step{
	{compareOwn, nil, valueOwn, "%s, not %s", "%s, but %s"},
	{compareLocalPref, nil, valueLocalPref, "higher local preference %s > %s", "lower local preference %s < %s"},
	{compareLength, nil, valueLength, "shorter AS path %s < %s", "longer AS path %s > %s"},
	{compareOrigin, nil, valueOrigin, "better origin %s < %s", "worse origin %s > %s"},
	{compareMED, differentMED, valueMED, "lower MED %s < %s", "higher MED %s > %s"},
	{compareExternal, nil, valueExternal, "%s before %s", "%s after %s"},
	{compareRouterID, nil, valueRouterID, "lower router ID %s < %s", "higher router ID %s > %s"},
	{compareClusters, nil, valueClusters, "shorter cluster list %s < %s", "longer cluster list %s > %s"},
	{compareAddr, nil, valueAddr, "lower peer address %s < %s", "higher peer address %s > %s"},
}

// choose is the best of the paths that can be used, nil when there is none.
// scratch is room to work in; the room used is returned.
func choose(routes, scratch []*route) (best *route, used []*route) {
	if len(routes) == 1 && routes[0].barred == "" {
		return routes[0], scratch
	}
	used = usable(scratch[:0], routes)
	left := used
	for i := 0; len(left) > 1 && i < len(steps); i++ {
		left = steps[i].pick(left)
	}
	if len(left) == 0 {
		return nil, used
	}
	return left[0], used
}

// usable appends the routes that are not barred.
func usable(dst, routes []*route) []*route {
	for _, r := range routes {
		if r.barred == "" {
			dst = append(dst, r)
		}
	}
	return dst
}

// pick moves the routes no other is better than to the front of left and
// returns them.
func (s *step) pick(left []*route) []*route {
	if s.within != nil {
		if !s.within(left) {
			return left
		}
		all := slices.Clone(left)
		return slices.DeleteFunc(left, func(r *route) bool { return s.rival(r, all) != nil })
	}
	best := slices.MinFunc(left, s.compare)
	kept := left[:0]
	for _, r := range left {
		if s.compare(best, r) == 0 {
			kept = append(kept, r)
		}
	}
	return kept
}

// rival is the best of the routes that beat r at this step, nil when none
// does.
func (s *step) rival(r *route, routes []*route) *route {
	var best *route
	for _, other := range routes {
		if s.compare(other, r) < 0 && (best == nil || s.compare(other, best) < 0) {
			best = other
		}
	}
	return best
}

// explain says for each route what decided for or against it.
func explain(routes []*route) map[*route]string {
	why := make(map[*route]string, len(routes))
	for _, r := range routes {
		if r.barred != "" {
			why[r] = "unusable: " + r.barred
		}
	}
	left := usable(nil, routes)
	if len(left) == 0 {
		return why
	}
	chosen := "only path"
	if len(left) < len(routes) {
		chosen = "only usable path"
	}
	for i := 0; len(left) > 1 && i < len(steps); i++ {
		s := &steps[i]
		before := slices.Clone(left)
		left = s.pick(left)
		for _, r := range before {
			if rival := s.rival(r, before); rival != nil {
				why[r] = fmt.Sprintf(s.lost, s.value(r), s.value(rival))
				chosen = fmt.Sprintf(s.won, s.value(rival), s.value(r))
			}
		}
	}
	why[left[0]] = "chosen: " + chosen
	return why
}

// own says whether the route is one we originate.
func (r *route) own() bool { return !r.peer.info.Addr.IsValid() }

func compareOwn(a, b *route) int { return compareTrue(a.own(), b.own()) }

// compareTrue is negative when only a is true.
func compareTrue(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func valueOwn(r *route) string {
	if r.own() {
		return "originated here"
	}
	return "learned"
}

func (r *route) localPref() uint32 {
	if r.attrs.HasLocalPref {
		return r.attrs.LocalPref
	}
	return defaultLocalPref
}

func compareLocalPref(a, b *route) int { return cmp.Compare(b.localPref(), a.localPref()) }

func valueLocalPref(r *route) string { return strconv.FormatUint(uint64(r.localPref()), 10) }

func compareLength(a, b *route) int {
	return cmp.Compare(a.attrs.ASPath.Length(), b.attrs.ASPath.Length())
}

func valueLength(r *route) string { return strconv.Itoa(r.attrs.ASPath.Length()) }

func compareOrigin(a, b *route) int { return cmp.Compare(a.attrs.Origin, b.attrs.Origin) }

func valueOrigin(r *route) string { return r.attrs.Origin.String() }

// compareMED compares only paths through one neighbouring AS; a missing MED is
// 0 (RFC 4271 section 9.1.2.2 c).
func compareMED(a, b *route) int {
	if a.attrs.ASPath.Neighbor() != b.attrs.ASPath.Neighbor() {
		return 0
	}
	return cmp.Compare(a.attrs.MED, b.attrs.MED)
}

// differentMED says whether the MEDs of the routes differ at all.
func differentMED(routes []*route) bool {
	return slices.ContainsFunc(routes, func(r *route) bool { return r.attrs.MED != routes[0].attrs.MED })
}

func valueMED(r *route) string { return strconv.FormatUint(uint64(r.attrs.MED), 10) }

func compareExternal(a, b *route) int {
	return compareTrue(!a.peer.info.Internal, !b.peer.info.Internal)
}

func valueExternal(r *route) string {
	if r.peer.info.Internal {
		return "iBGP"
	}
	return "eBGP"
}

// routerID is the identifier of the speaker that brought the route into our AS
// (RFC 4456 section 9).
func (r *route) routerID() netip.Addr {
	if r.attrs.OriginatorID.IsValid() {
		return r.attrs.OriginatorID
	}
	return r.peer.info.RouterID
}

func compareRouterID(a, b *route) int { return a.routerID().Compare(b.routerID()) }

func valueRouterID(r *route) string { return r.routerID().String() }

func compareClusters(a, b *route) int {
	return cmp.Compare(len(a.attrs.ClusterList), len(b.attrs.ClusterList))
}

func valueClusters(r *route) string { return strconv.Itoa(len(r.attrs.ClusterList)) }

func compareAddr(a, b *route) int { return a.peer.info.Addr.Compare(b.peer.info.Addr) }

func valueAddr(r *route) string { return r.peer.info.Addr.String() }
