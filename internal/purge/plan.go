// SPDX-License-Identifier: Apache-2.0

// Package purge takes from a node what an agent left there: the plugin and its
// configuration, and, once no pod uses it any more, everything else. What is
// ours is recognised in the kernel; the agent's files only say which pools and
// which protocol its routes had. It must not know the datastore.
package purge

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/host"
)

// Memory is what the agent's files say, where they are still there.
type Memory struct {
	Pools    []netip.Prefix                // every pool the node ever saw
	Protocol host.Protocol                 // of the agent's routes
	Pods     map[cluster.EndpointID]string // NAMESPACE/NAME
}

// Seen is what a node holds while nobody works in the agent's seat.
type Seen struct {
	Links       map[string]host.Link
	Unfinished  []host.Link // by their group: being made or destroyed when an agent ended
	Routes      []host.Route
	Forwarding  bool           // net.ipv4.ip_forward
	Table       bool           // core.FilterTable
	FilterPools []netip.Prefix // of core.PoolsSet in it
	Speaker     bool           // somebody listens for BGP
	Files       []string       // the agent's, each directory behind what is in it
	AlienFiles  []string       // of others in the agent's directories
}

// Pod is an attached pod whose link is there.
type Pod struct {
	Name      string `json:"name,omitempty"` // NAMESPACE/NAME, "" where it is not known
	Container string `json:"container"`
	Link      string `json:"link"`
}

// String is the pod by its name, else its container's, with its link.
func (p Pod) String() string {
	if p.Name != "" {
		return p.Name + " (" + p.Link + ")"
	}
	return "container " + p.Container + " (" + p.Link + ")"
}

// Item is something of a node, and what there is to say about it.
type Item struct {
	What string `json:"what"` // as "route 10.0.0.0/26 via …", "table inet ocicat", "file /run/…"
	Why  string `json:"why,omitempty"`
}

// Plan is what to remove from a node.
type Plan struct {
	Pods   []Pod       // that use what is to be removed
	Links  []host.Link // Pods' among them
	Routes []host.Route
	Table  bool
	Files  []string // in the order of their removal
	Kept   []Item   // what might be taken for ours and stays
}

// Why something stays.
const (
	whyForwarding = "others may need it by now; what the system's own configuration says holds from its next start"
	whySpeaker    = "another BGP speaker runs here, whose routes look the same; delete what is not its own by hand, or stop it and purge again with --force"
	whyNoPools    = "no file of the agent says which pools there were; delete it by hand if it is of one"
	whyAlien      = "it is not the agent's"
)

// Decide says what of a node is ours. With force, routes that may as well be
// another BGP speaker's are taken for ours.
//
// A link is a pod's by its kind, its MAC and an alias that names a container:
// Calico's have no alias. A route is ours by its protocol if it lies in a pool,
// or leads to the pods' gateway; those of pods go with their links. Where no pool
// is known a route may be ours if anything else is.
func Decide(seen Seen, m Memory, force bool) Plan {
	p := Plan{Links: slices.Clone(seen.Unfinished), Table: seen.Table, Files: seen.Files}
	for _, name := range slices.Sorted(maps.Keys(seen.Links)) {
		l := seen.Links[name]
		id, err := cluster.ParseEndpointID(l.Alias)
		if l.Kind != "veth" || l.MAC != core.GatewayMAC || err != nil || contains(seen.Unfinished, l) {
			continue
		}
		p.Pods = append(p.Pods, Pod{Name: m.Pods[id], Container: id.ContainerID, Link: name})
		p.Links = append(p.Links, l)
	}
	p.routes(seen, m, force)
	if seen.Forwarding {
		p.Kept = append(p.Kept, Item{"sysctl " + core.Forwarding + " = 1", whyForwarding})
	}
	for _, path := range seen.AlienFiles {
		p.Kept = append(p.Kept, Item{"file " + path, whyAlien})
	}
	return p
}

func contains(links []host.Link, l host.Link) bool {
	return slices.ContainsFunc(links, func(other host.Link) bool { return other.Index == l.Index })
}

// routes divides the routes into ours and those that might be.
func (p *Plan) routes(seen Seen, m Memory, force bool) {
	pools := slices.Concat(m.Pools, seen.FilterPools)
	for _, r := range seen.Routes {
		if r.Proto != m.Protocol || contains(p.Links, seen.Links[r.Dev]) {
			continue
		}
		in := slices.ContainsFunc(pools, func(pool netip.Prefix) bool { return pool.Bits() <= r.Dst.Bits() && pool.Contains(r.Dst.Addr()) })
		switch {
		case r.Dst.Addr() == core.Gateway && r.Dev == "lo":
			p.Routes = append(p.Routes, r)
		case in && (force || !seen.Speaker):
			p.Routes = append(p.Routes, r)
		case in:
			p.Kept = append(p.Kept, Item{"route " + r.String(), whySpeaker})
		case len(pools) == 0 && (seen.Table || len(seen.Files) > 0 || len(p.Links) > 0):
			p.Kept = append(p.Kept, Item{"route " + r.String(), whyNoPools})
		}
	}
}

// Items are what the plan removes, in its order.
func (p Plan) Items() []string {
	var items []string
	for _, l := range p.Links {
		items = append(items, "link "+l.Name)
	}
	for _, r := range p.Routes {
		items = append(items, "route "+r.String())
	}
	if p.Table {
		items = append(items, "table inet "+core.FilterTable)
	}
	for _, path := range p.Files {
		items = append(items, "file "+path)
	}
	return items
}

// String lists what is removed and what stays, one a line.
func (p Plan) String() string {
	var b strings.Builder
	for _, pod := range p.Pods {
		fmt.Fprintf(&b, "pod %s\n", pod)
	}
	for _, item := range p.Items() {
		fmt.Fprintf(&b, "remove %s\n", item)
	}
	for _, item := range p.Kept {
		fmt.Fprintf(&b, "keep %s: %s\n", item.What, item.Why)
	}
	return b.String()
}
