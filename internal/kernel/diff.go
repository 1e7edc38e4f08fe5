// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/reconcile"
)

// Changes are what makes a namespace hold what is wanted.
type Changes struct {
	Links      []host.Link // to correct; they exist
	Sysctls    []Setting
	SetRoutes  []host.Route
	SetNeighs  []host.Neigh
	DelRoutes  []host.Route
	Conflicts  []Conflict // foreign routes in a wanted one's place, or before it: left alone
	LinksGone  []string   // wanted links that do not exist: they cannot be made from outside the pod
	LinksAlien []string   // wanted links whose name another's link has
}

// Setting is one value below /proc/sys.
type Setting struct{ Path, Value string }

// Conflict is a route of somebody else's where one of ours should be.
type Conflict struct{ Want, Seen host.Route }

// Len is how many writes the changes are.
func (c Changes) Len() int {
	return len(c.Links) + len(c.Sysctls) + len(c.SetRoutes) + len(c.SetNeighs) + len(c.DelRoutes)
}

// SameWrites reports whether two changes write the same, in the same order.
func (c Changes) SameWrites(other Changes) bool {
	return slices.EqualFunc(c.Links, other.Links, func(a, b host.Link) bool { return a.String() == b.String() }) &&
		slices.Equal(c.Sysctls, other.Sysctls) && slices.Equal(c.SetRoutes, other.SetRoutes) &&
		slices.Equal(c.SetNeighs, other.SetNeighs) && slices.Equal(c.DelRoutes, other.DelRoutes)
}

// Judge says what Diff may touch. All of it must be set.
type Judge struct {
	Ours      func(host.Route) bool // a seen route is ours
	Deletable func(host.Route) bool // an own route that is not wanted may go
	Skip      func(dev string) bool // somebody is working on this device right now
}

// Diff compares what is wanted with what was seen. What already is right is
// not written again; what is not ours is never touched.
func Diff(want, seen host.State, j Judge) Changes {
	var ch Changes
	absent := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(want.Links)) {
		present, ok := seen.Links[name]
		switch w := want.Links[name]; {
		case j.Skip(name):
			absent[name] = true
		case !ok:
			ch.LinksGone, absent[name] = append(ch.LinksGone, name), true
		case present.Alias != w.Alias && present.Alias != "":
			ch.LinksAlien, absent[name] = append(ch.LinksAlien, name), true
		case present.Up != w.Up || present.MTU != w.MTU || present.MAC != w.MAC || present.Alias != w.Alias:
			ch.Links = append(ch.Links, w)
		}
	}
	ch.routes(want, seen, j, absent)
	neighs, _ := reconcile.Diff(want.Neighs, seen.Neighs, func(w, s host.Neigh) bool { return w == s })
	for _, n := range neighs {
		if !absent[n.Dev] {
			ch.SetNeighs = append(ch.SetNeighs, n)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(want.Sysctls)) {
		value, known := seen.Sysctls[path]
		if known && value != want.Sysctls[path] && !absent[settingDevice(path)] {
			ch.Sysctls = append(ch.Sysctls, Setting{path, want.Sysctls[path]})
		}
	}
	return ch.sorted()
}

// sorted makes the order of writes, logs and tests the same every time.
func (c Changes) sorted() Changes {
	c.SetRoutes, c.DelRoutes = sortedRoutes(c.SetRoutes), sortedRoutes(c.DelRoutes)
	slices.SortFunc(c.SetNeighs, func(a, b host.Neigh) int { return a.IP.Compare(b.IP) })
	slices.SortFunc(c.Conflicts, func(a, b Conflict) int { return orderOf(a.Want).compare(orderOf(b.Want)) })
	return c
}

// SameRoute reports whether the kernel's route is what is wanted in all that
// we write.
func SameRoute(want, seen host.Route) bool {
	return want.Type == seen.Type && want.Via == seen.Via && want.Proto == seen.Proto && want.Scope == seen.Scope &&
		want.Src == seen.Src && want.OnLink == seen.OnLink && seen.Hops <= 1 && (want.Dev == seen.Dev || want.Type != host.Unicast)
}

// String lists the changes in the manner of iproute2, one a line.
func (c Changes) String() string {
	var b strings.Builder
	for _, l := range c.Links {
		fmt.Fprintf(&b, "link set %s\n", l)
	}
	for _, s := range c.Sysctls {
		fmt.Fprintf(&b, "sysctl %s=%s\n", s.Path, s.Value)
	}
	for _, r := range c.SetRoutes {
		fmt.Fprintf(&b, "route replace %s\n", r)
	}
	for _, n := range c.SetNeighs {
		fmt.Fprintf(&b, "neigh replace %s\n", n)
	}
	for _, r := range c.DelRoutes {
		fmt.Fprintf(&b, "route del %s\n", r)
	}
	return b.String()
}

// LogValue is String, made only where it is logged: of a full table it has
// 100,000 lines.
func (c Changes) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Apply writes changes: settings before the links they are for come up, what
// is added, then what goes.
// It does all it can; each failure is a reconcile.KeyError in the result.
func (h *Handle) Apply(ctx context.Context, ch Changes) error {
	if ch.Len() == 0 {
		return nil
	}
	return errors.Join(
		h.setSysctls(ch.Sysctls),
		h.applyLinks(ctx, ch.Links),
		h.ApplyRoutes(ctx, ch.SetRoutes, ch.DelRoutes),
		h.applyNeighs(ctx, ch.SetNeighs),
	)
}

func (h *Handle) applyLinks(ctx context.Context, links []host.Link) error {
	devices := map[string]bool{}
	for _, l := range links {
		devices[l.Name] = true
	}
	present, err := h.resolve(ctx, devices)
	if err != nil {
		return err
	}
	var b batch
	var keys []string
	for _, l := range links {
		if seen, ok := present[l.Name]; ok {
			keys = append(keys, LinkKey(l.Name))
			b.setLink(l, seen.Link)
		}
	}
	return errors.Join(h.sendKeyed(ctx, &b, keys)...)
}

func (h *Handle) applyNeighs(ctx context.Context, neighs []host.Neigh) error {
	devices := map[string]bool{}
	for _, n := range neighs {
		devices[n.Dev] = true
	}
	present, err := h.resolve(ctx, devices)
	if err != nil {
		return err
	}
	var b batch
	var keys []string
	for _, n := range neighs {
		if l, ok := present[n.Dev]; ok {
			keys = append(keys, NeighKey(n.Key()))
			b.neigh("set "+NeighKey(n.Key()), n, l.Index)
		}
	}
	return errors.Join(h.sendKeyed(ctx, &b, keys)...)
}
