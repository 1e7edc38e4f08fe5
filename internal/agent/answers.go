// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"slices"

	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/journal"
	"github.com/ocicat-net/ocicat/internal/kernel"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// Ready is nil once the agent serves pods, its door for the plugin is open and
// the node's routes are verified.
func (a *Agent) Ready() error {
	if err := a.serving(); err != nil {
		return err
	}
	select {
	case <-a.door.Ready():
	default:
		return fault.New(fault.Unavailable, "the socket for the CNI plugin is not open yet")
	}
	select {
	case <-a.verified:
		return nil
	default:
		return fault.New(fault.Unavailable, "the node's routes are not verified yet")
	}
}

// Sessions are the BGP sessions.
func (a *Agent) Sessions() []speaker.Session { return a.speaker.Sessions() }

// Paths are all paths the speaker knows.
func (a *Agent) Paths() []speaker.Path { return a.speaker.Paths() }

// Routes compares what was learned with what the kernel holds now.
func (a *Agent) Routes(ctx context.Context) ([]admin.Route, error) {
	snap := a.feed.Snapshot()
	if snap.Learned == nil {
		return []admin.Route{}, nil
	}
	routes, err := a.kernel.Routes(ctx, kernel.Filter{})
	if err != nil {
		return nil, err
	}
	seen := map[host.RouteKey]host.Route{}
	for _, r := range routes {
		seen[r.Key()] = r
	}
	list := []admin.Route{}
	for learned := range snap.Learned.All() {
		list = append(list, routeAnswer(snap, learned, seen))
	}
	slices.SortFunc(list, func(x, y admin.Route) int {
		return cmp.Or(x.Prefix.Addr().Compare(y.Prefix.Addr()), cmp.Compare(x.Prefix.Bits(), y.Prefix.Bits()))
	})
	return list, nil
}

func routeAnswer(snap *cluster.Snapshot, learned cluster.LearnedRoute, seen map[host.RouteKey]host.Route) admin.Route {
	answer := admin.Route{Prefix: learned.Prefix, From: cmp.Or(learned.FromName, learned.From.String())}
	want, refusal := core.LearnedRoute(snap, learned)
	kernelRoute, found := seen[host.RouteKey{Dst: learned.Prefix}]
	if found {
		answer.Kernel = kernelRoute.String()
	}
	switch {
	case refusal != nil:
		answer.State, answer.Reason = "refused", string(refusal.Code)+" "+refusal.Text
	case !want.Dst.IsValid():
		answer.State, answer.Reason = "own", "the prefix is this node's own block"
	case !found:
		answer.State, answer.Want = "missing", want.String()
	case !sameRoute(want, kernelRoute):
		answer.State, answer.Want, answer.Reason = "differs", want.String(), "wanted: "+want.String()
	default:
		answer.State, answer.Want = "installed", want.String()
	}
	return answer
}

// sameRoute compares what we write of a route with what the kernel shows.
func sameRoute(want, seen host.Route) bool { return kernel.SameRoute(want, seen) }

// Endpoints are the attached pods.
func (a *Agent) Endpoints() []admin.Endpoint {
	list := []admin.Endpoint{}
	for _, att := range a.journal.List() {
		if att.State == journal.Attached {
			list = append(list, admin.Endpoint{Endpoint: att.Endpoint, NetnsPath: att.NetNSPath})
		}
	}
	return list
}

// Drain ends all sessions with a Cease, so that peers stop sending here at
// once. The agent goes on without sessions until it is restarted.
func (a *Agent) Drain(ctx context.Context, reason string) error {
	a.log.Info("draining: BGP sessions end with a Cease", "reason", reason)
	a.speaker.Shutdown(ctx, reason)
	return nil
}

func (a *Agent) localAS(snap *cluster.Snapshot) speaker.ASN {
	if as := snap.Me().AS; as != 0 {
		return as
	}
	return snap.BGP.AS
}
