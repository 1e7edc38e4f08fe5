// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"net/netip"
	"strings"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/internal/journal"
	"github.com/ocicat-net/ocicat/internal/localcopy"
	"github.com/ocicat-net/ocicat/internal/names"
)

// openJournal reads the record of attached pods and completes it from the
// kernel: a link of ours that the journal does not name belongs to a pod all
// the same.
func (a *Agent) openJournal() error {
	j, condition, err := journal.Open(a.cfg.RunDir)
	if err != nil {
		return err
	}
	a.journal = j
	if condition != journal.Whole {
		a.log.Info("journal read", "condition", condition)
	}
	seen, err := a.kernel.Observe(context.Background())
	if err != nil {
		return err
	}
	if condition == journal.Torn || condition == journal.Salvaged {
		if err := a.dropStale(seen); err != nil {
			return err
		}
	}
	return a.adoptLinks(seen)
}

// dropStale gives up the records of pods whose host end is gone, after the
// journal lost records: the lost one may have been the pod's end.
func (a *Agent) dropStale(seen host.State) error {
	aliases := map[string]bool{}
	for _, link := range seen.Links {
		aliases[link.Alias] = true
	}
	for _, att := range a.journal.List() {
		if _, there := seen.Links[att.Endpoint.HostIf]; there || aliases[att.ID().String()] || att.State == journal.Detached {
			continue
		}
		a.log.Warn("pod given up: the journal was damaged and its host end is gone", "id", att.ID(), "address", att.Endpoint.Addr)
		att.State = journal.Detached
		if err := a.journal.Put(att); err != nil {
			return err
		}
	}
	return nil
}

// recall makes what the node knew before it started true again in the feed:
// the local copy of the datastore and the journal's pods.
func (a *Agent) recall() error {
	if err := a.resources.recall(); err != nil {
		return err
	}
	endpoints := map[cluster.EndpointID]cluster.Endpoint{}
	var held []ipam.Held
	for _, att := range a.journal.List() {
		held = append(held, ipam.Held{Handle: att.Handle, Addr: att.Endpoint.Addr, Attrs: a.heldAttributes(att)})
		if att.State != journal.Detached {
			endpoints[att.ID()] = att.Endpoint
		}
	}
	a.reserve.Adopt(held)
	a.feed.SetEndpoints(endpoints)
	a.undertaker.wake()
	return nil
}

func (a *Agent) heldAttributes(att journal.Attachment) map[string]string {
	attrs := map[string]string{"node": string(a.cfg.Node)}
	if att.Endpoint.Pod != "" {
		attrs["pod"], attrs["namespace"] = att.Endpoint.Pod, att.Endpoint.Namespace
	}
	return attrs
}

// adoptLinks rebuilds missing records from cali links, whose alias holds the
// endpoint's identity, and their routes and neighbours.
func (a *Agent) adoptLinks(seen host.State) error {
	for _, name := range sortedKeys(seen.Links) {
		link := seen.Links[name]
		if !strings.HasPrefix(name, a.cfg.Settings.InterfacePrefix) || link.Alias == "" {
			continue
		}
		id, err := cluster.ParseEndpointID(link.Alias)
		if err != nil {
			continue // another program's
		}
		if _, known := a.journal.Get(id); known {
			continue
		}
		ep, ok := endpointFromKernel(id, link, seen)
		if !ok {
			a.log.Warn("link of a pod has no route: the ADD that made it was never answered, removing it", "interface", name, "id", id)
			if err := a.kernel.Detach(context.Background(), core.EndpointState{Link: link}); err != nil {
				return err
			}
			continue
		}
		a.log.Info("pod adopted from the kernel", "interface", name, "address", ep.Addr, "id", id)
		result := resultOf(ep)
		att := journal.Attachment{Endpoint: ep, State: journal.Attached, Network: defaultNetwork, Handle: names.Handle(defaultNetwork, id.ContainerID), Result: &result}
		if err := a.journal.Put(att); err != nil {
			return err
		}
	}
	return nil
}

// defaultNetwork is the CNI network whose handles are assumed where the
// journal was lost: the name in our conflist, and in Calico's.
const defaultNetwork = "k8s-pod-network"

func endpointFromKernel(id cluster.EndpointID, link host.Link, seen host.State) (cluster.Endpoint, bool) {
	ep := cluster.Endpoint{ID: id, HostIf: link.Name, MTU: link.MTU}
	for _, r := range seen.Routes {
		if r.Dev == link.Name && r.Dst.IsSingleIP() && r.Scope == host.ScopeLink && r.Dst.Addr().Is4() {
			ep.Addr = r.Dst.Addr()
		}
	}
	for _, n := range seen.Neighs {
		if n.Dev == link.Name && n.IP == ep.Addr {
			ep.MAC = n.MAC
		}
	}
	return ep, ep.Addr != netip.Addr{} && ep.MAC != host.MAC{}
}

// endpointOn is the endpoint whose host end is dev.
func (a *Agent) endpointOn(dev string) (cluster.Endpoint, bool) {
	if !strings.HasPrefix(dev, a.cfg.Settings.InterfacePrefix) {
		return cluster.Endpoint{}, false
	}
	for _, ep := range a.feed.Snapshot().Endpoints {
		if ep.HostIf == dev {
			return ep, true
		}
	}
	return cluster.Endpoint{}, false
}

func (a *Agent) localCopyPath() string { return localcopy.Path(a.cfg.StateDir) }
