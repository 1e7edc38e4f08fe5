// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	"github.com/ocicat-net/ocicat/internal/kernel"
)

// watchKernel turns the kernel's notifications into hints: what differs from
// what was last wanted, or may change what is wanted, starts a pass. The echo
// of our own writes does not.
func (a *Agent) watchKernel(ctx context.Context) error {
	return a.kernel.Monitor(ctx, func(ev kernel.Event) {
		if a.telling(ev) {
			a.loop.Mark(sectionKernel)
		}
	})
}

// telling reports whether an event says something we do not know.
func (a *Agent) telling(ev kernel.Event) bool {
	last := a.last.Load()
	if ev.Overflow || last == nil {
		return true
	}
	switch {
	case ev.Route != nil:
		want, wanted := last.want.Routes[ev.Route.Key()]
		if ep, ok := a.endpointOn(ev.Route.Dev); ok {
			return ev.Deleted && !a.touched.now(ep.HostIf)
		}
		if ev.Deleted {
			return wanted || ev.Route.Dst.Bits() == 0
		}
		return !wanted || !kernel.SameRoute(want, *ev.Route)
	case ev.Neigh != nil:
		_, ours := a.endpointOn(ev.Neigh.Dev)
		return ours && ev.Deleted && !a.touched.now(ev.Neigh.Dev)
	case ev.Link != nil:
		if a.touched.now(ev.Link.Name) {
			return false
		}
		known, ok := last.seen.Links[ev.Link.Name]
		return ev.Deleted == ok || known.Up != ev.Link.Up || known.MTU != ev.Link.MTU || known.MAC != ev.Link.MAC
	}
	return true
}
