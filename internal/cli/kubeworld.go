// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"net/netip"

	v1 "github.com/ocicat-net/ocicat/api/v1"
	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/probe"
	"github.com/ocicat-net/ocicat/internal/trace"
)

// inventory is what a node's agent knows of it.
type inventory struct {
	report *v1.NodeStatus
	pods   []admin.Endpoint
}

func inventoryOf(ctx context.Context, agent *admin.Client) (all inventory, err error) {
	if all.report, err = agent.Report(ctx); err == nil {
		all.pods, err = agent.Endpoints(ctx)
	}
	return all, err
}

// kubeWorld asks the agents of a Kubernetes cluster what their kernels know. A
// node whose agent does not answer is known by its address alone.
func (g *globals) kubeWorld(ctx context.Context, where *kubePlace) (*world, error) {
	doors, err := g.kubeDoors(ctx, where, tracerGuest)
	if err != nil {
		return nil, err
	}
	all := askDoors(ctx, g, doors, inventoryOf)
	if _, err := sift(g, all); err != nil {
		return nil, err
	}
	sites := probe.Sites{}
	w := &world{site: sites, whose: "The cluster", close: func() {}}
	for i, said := range all {
		w.nodes = append(w.nodes, trace.Node{Name: said.node, Addrs: addressesOf(doors[i], said.value.report)})
		if said.err != nil {
			w.away = append(w.away, said.node)
			continue
		}
		sites[said.node] = doors[i].client.Site(ctx)
		for _, ep := range sortedByAddr(said.value.pods) {
			w.pods = append(w.pods, endOf(said.node, ep))
		}
	}
	return w, nil
}

// addressesOf are a node's: what its agent reports, and what Kubernetes knows.
func addressesOf(door agentDoor, report *v1.NodeStatus) []netip.Addr {
	var addrs []netip.Addr
	if report != nil {
		if address, err := netip.ParsePrefix(report.Status.Address); err == nil {
			addrs = append(addrs, address.Addr())
		}
	}
	if door.addr.IsValid() && (len(addrs) == 0 || addrs[0] != door.addr) {
		addrs = append(addrs, door.addr)
	}
	return addrs
}
