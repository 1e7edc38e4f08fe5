// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"net/netip"
	"strings"

	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/kernel"
)

// watchKernel turns the kernel's notifications into hints: what differs from
// what was last wanted, or may change what is wanted, starts a pass. The echo
// of our own writes does not.
func (a *Agent) watchKernel(ctx context.Context) error {
	return a.kernel.MonitorOthers(ctx, func(ev kernel.Event) {
		if ev.Addr.IsValid() && ev.Deleted && a.remote != nil {
			a.remote.AddressGone(ev.Addr.Addr())
		}
		if a.tellsUplink(ev) {
			a.uplinkChanged()
		}
		if a.telling(ev) {
			a.hint.give()
			a.loop.Mark(sectionKernel)
		}
	})
}

// remote is a datastore over connections, which do not survive the address they
// come from.
type remote interface{ AddressGone(local netip.Addr) }

// telling reports whether an event says something we do not know.
func (a *Agent) telling(ev kernel.Event) bool {
	last := a.last.Load()
	if ev.Overflow || last == nil {
		return true
	}
	switch {
	case ev.Route != nil:
		return a.routeTells(last, *ev.Route, ev.Deleted)
	case ev.Neigh != nil:
		return a.neighTells(*ev.Neigh, ev.Deleted)
	case ev.Link != nil:
		return a.linkTells(last, *ev.Link, ev.Deleted)
	}
	return true
}

// routeTells judges a route that was set or deleted.
func (a *Agent) routeTells(last *converged, seen host.Route, deleted bool) bool {
	if a.isHostEnd(seen.Dev) {
		_, attached := a.endpointOn(seen.Dev)
		return attached == deleted && !a.touched.now(seen.Dev)
	}
	want, wanted := a.wanted.Load().Routes[seen.Key()]
	if deleted {
		return wanted || seen.Dst.Bits() == 0 || last.conflicts[seen.Key()]
	}
	return !wanted || !kernel.SameRoute(want, seen)
}

// neighTells judges a neighbour that was set or deleted. One that packets are
// waiting for is not gone when it is deleted: it fails, and is learned anew.
func (a *Agent) neighTells(seen host.Neigh, deleted bool) bool {
	ep, ours := a.endpointOn(seen.Dev)
	return ours && !a.touched.now(seen.Dev) && seen.IP == ep.Addr && (deleted || seen.State != host.Permanent)
}

// linkTells judges a link that was changed or deleted. A host end is compared
// with what its endpoint wants: the last pass may be older than the endpoint.
// One without endpoint was given up by a call of the CNI, one that does not
// have its endpoint's alias yet is being made by one.
func (a *Agent) linkTells(last *converged, seen host.Link, deleted bool) bool {
	expected, ok := last.seen.Links[seen.Name]
	if a.isHostEnd(seen.Name) {
		ep, attached := a.endpointOn(seen.Name)
		if !attached || a.touched.now(seen.Name) {
			return false
		}
		expected, ok = core.WantEndpoint(a.feed.Snapshot().Settings, ep).Link, true
		if seen.Alias != expected.Alias {
			return false
		}
	}
	return deleted == ok || expected.Up != seen.Up || expected.MTU != seen.MTU || expected.MAC != seen.MAC
}

// isHostEnd reports whether a device has the name of a pod's host end.
func (a *Agent) isHostEnd(dev string) bool {
	return strings.HasPrefix(dev, a.cfg.Settings.InterfacePrefix)
}
