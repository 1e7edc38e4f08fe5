// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
)

// Difference is one way in which the kernel does not hold what Attach made.
type Difference struct {
	What string // as "mtu of link cali1"
	Seen string // "" when it is missing
	Want string
}

// String is the difference as one clause: "mtu of link cali1 is 1400, want
// 1500", "link cali1 is missing".
func (d Difference) String() string {
	if d.Seen == "" {
		return d.What + " is missing"
	}
	return d.What + " is " + d.Seen + ", want " + d.Want
}

// differences collects what Verify finds.
type differences []Difference

func (d *differences) compare(what, seen, want string) {
	if seen != want {
		*d = append(*d, Difference{What: what, Seen: seen, Want: want})
	}
}

func (d *differences) missing(what string) { *d = append(*d, Difference{What: what}) }

// Verify compares both ends of an attachment with what Attach would make, and
// changes nothing. What others added (routes, addresses, neighbours) is no
// difference unless it takes the place of ours. The texts about the pod's side
// end in "in the pod".
func (h *Handle) Verify(ctx context.Context, a Attachment) ([]Difference, error) {
	pod, err := OpenAt(a.PodNetNS)
	if err != nil {
		return nil, err
	}
	defer pod.Close()
	var found differences
	hostEnd, err := h.verifyHost(ctx, a.Want, &found)
	if err != nil {
		return nil, err
	}
	podEnd, err := verifyPod(ctx, pod, a, &found)
	if err != nil {
		return nil, fault.New(fault.KindOf(err), "in the pod's namespace: %w", err)
	}
	if hostEnd.Index != 0 && podEnd.Index != 0 {
		nsid, err := h.namespaceID(ctx, int(a.PodNetNS.Fd()))
		if err != nil {
			return nil, err
		}
		if hostEnd.Peer != podEnd.Index || podEnd.Peer != hostEnd.Index || nsid != hostEnd.peerNSID {
			found = append(found, Difference{"other end of " + LinkKey(hostEnd.Name), "another interface", podEnd.Name + " in the pod"})
		}
	}
	return found, nil
}

// verifyHost compares the host's side and returns its link, the zero link if
// there is none.
func (h *Handle) verifyHost(ctx context.Context, want core.EndpointState, found *differences) (link, error) {
	l, err := h.link(ctx, want.Link.Name)
	if fault.Is(err, fault.NotFound) {
		found.missing(LinkKey(want.Link.Name))
		return link{}, nil
	}
	if err != nil {
		return link{}, err
	}
	found.link(l.Link, want.Link, "")
	found.compare("alias of "+LinkKey(l.Name), strconv.Quote(l.Alias), strconv.Quote(want.Link.Alias))
	if err := h.verifySettings(ctx, l, want.Sysctls, found); err != nil {
		return l, err
	}
	if err := h.verifyNeigh(ctx, want.Neigh, "", found); err != nil {
		return l, err
	}
	return l, h.verifyRoutes(ctx, []host.Route{want.Route}, "", found)
}

// verifyPod compares the pod's side and returns its link, the zero link if
// there is none.
func verifyPod(ctx context.Context, pod *Handle, a Attachment, found *differences) (link, error) {
	const where = " in the pod"
	dev := a.Endpoint.ID.IfName
	l, err := pod.link(ctx, dev)
	if fault.Is(err, fault.NotFound) {
		found.missing(LinkKey(dev) + where)
		return link{}, nil
	}
	if err != nil {
		return link{}, err
	}
	found.link(l.Link, host.Link{Name: dev, Kind: "veth", MAC: a.Endpoint.MAC, MTU: a.Endpoint.MTU, Up: true}, where)
	addrs, err := pod.addresses(ctx)
	if err != nil {
		return l, err
	}
	if want := netip.PrefixFrom(a.Endpoint.Addr, a.Endpoint.Addr.BitLen()); !slices.Contains(addrs[l.Index], want) {
		found.missing("address " + want.String() + " of " + dev + where)
	}
	if a.PermGateway {
		gateway := host.Neigh{Dev: dev, IP: core.Gateway, MAC: a.Want.Link.MAC, State: host.Permanent}
		if err := pod.verifyNeigh(ctx, gateway, where, found); err != nil {
			return l, err
		}
	}
	return l, pod.verifyRoutes(ctx, podRoutes(dev), where, found)
}

// link compares what both ends have.
func (d *differences) link(seen, want host.Link, where string) {
	of := " of " + LinkKey(want.Name) + where
	d.compare("kind"+of, seen.Kind, want.Kind)
	d.compare("state"+of, upDown(seen), upDown(want))
	d.compare("mtu"+of, strconv.Itoa(seen.MTU), strconv.Itoa(want.MTU))
	d.compare("mac"+of, seen.MAC.String(), want.MAC.String())
}

func upDown(l host.Link) string {
	if l.Up {
		return "up"
	}
	return "down"
}

// verifySettings compares the link's settings. One that the kernel does not
// have, as those of IPv6 where that is off, is no difference.
func (h *Handle) verifySettings(ctx context.Context, l link, want []core.Sysctl, found *differences) error {
	seen := map[string]string{}
	l.settings(seen)
	delays, err := h.proxyDelays(ctx)
	if err != nil {
		return err
	}
	if delay, ok := delays[l.Index]; ok {
		seen[sysctlNeigh+l.Name+"/"+proxyDelayKey] = strconv.FormatUint(delay, 10)
	}
	for _, s := range want {
		if value, ok := seen[s.Path]; ok {
			found.compare("sysctl "+s.Path, value, s.Value)
		}
	}
	return nil
}

func (h *Handle) verifyNeigh(ctx context.Context, want host.Neigh, where string, found *differences) error {
	what := NeighKey(want.Key()) + where
	seen, err := h.Neighbour(ctx, want.Dev, want.IP)
	if fault.Is(err, fault.NotFound) {
		found.missing(what)
		return nil
	}
	if err == nil {
		found.compare(what, neighWords(seen), neighWords(want))
	}
	return err
}

func neighWords(n host.Neigh) string { return fmt.Sprintf("%q %s", n.MAC, n.State) }

// verifyRoutes compares the routes that count for the wanted destinations: one
// with a lower metric than ours has its place.
func (h *Handle) verifyRoutes(ctx context.Context, want []host.Route, where string, found *differences) error {
	routes, err := h.Routes(ctx, Filter{})
	if err != nil {
		return err
	}
	for _, w := range want {
		i := slices.IndexFunc(routes, func(r host.Route) bool { return r.Dst == w.Dst })
		what := "route " + w.Dst.String() + where
		switch {
		case i < 0:
			found.missing(what)
		case routes[i].Metric != w.Metric || !SameRoute(w, routes[i]):
			*found = append(*found, Difference{what, strconv.Quote(routes[i].String()), strconv.Quote(w.String())})
		}
	}
	return nil
}
