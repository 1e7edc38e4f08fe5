// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/internal/host"
)

// Candidate is one address of the machine.
type Candidate struct {
	// Device carries the address.
	Device string
	// Address has the mask of its network.
	Address netip.Prefix
	// Score orders candidates, the highest is the best; it means nothing for
	// one that is left out.
	Score int
	// Out says that the address is never chosen by score.
	Out bool
	// Down says that it is left out only because its link is down.
	Down bool
	// Notes say what speaks for it and against it.
	Notes []Note

	index, place int // of the device, and in its addresses
}

// Note is one reason, with what it adds to the score.
type Note struct {
	Text   string
	Points int
}

// What speaks for an address and against it. One that a default route leaves
// by beats one without; a tunnel with the default route loses to a plain link
// without it.
const (
	forUp        = 100
	forInternal  = 200 // the kubelet's word
	forDefault   = 50
	forSecondary = 40 // a default route of a worse metric
	forSource    = 20
	noCarrier    = -60
	tunnel       = -80
	bareBridge   = -40
	single       = -60 // a VIP
	furtherSame  = -20 // in the network of an earlier address
	further      = -10
)

// String is the candidate as status prints it.
func (c Candidate) String() string {
	if c.Out {
		return fmt.Sprintf("%s on %s left out: %s", c.Address, c.Device, c.reasons())
	}
	return fmt.Sprintf("%s on %s score %d: %s", c.Address, c.Device, c.Score, c.Reasons())
}

// reasons are the notes without their points.
func (c Candidate) reasons() string {
	var texts []string
	for _, n := range c.Notes {
		texts = append(texts, n.Text)
	}
	return strings.Join(texts, ", ")
}

// Reasons are the notes as one line, with what each adds to the score.
func (c Candidate) Reasons() string {
	var texts []string
	for _, n := range c.Notes {
		text := n.Text
		if n.Points != 0 {
			text += fmt.Sprintf(" %+d", n.Points)
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ", ")
}

func (c *Candidate) note(points int, format string, args ...any) {
	c.Score += points
	c.Notes = append(c.Notes, Note{Text: fmt.Sprintf(format, args...), Points: points})
}

func (c *Candidate) leave(format string, args ...any) {
	c.Out = true
	c.Notes = append(c.Notes, Note{Text: fmt.Sprintf(format, args...)})
}

// Devices that never are an uplink, by what they are for.
var devicesOf = []struct {
	names *regexp.Regexp
	what  string
}{
	{regexp.MustCompile(`^(docker|cni|podman|virbr|lxcbr|lxdbr|incusbr|cbr|kube-bridge|br-[0-9a-f]{12}$)`), "bridge of containers or virtual machines"},
	{regexp.MustCompile(`^(kube-ipvs|nodelocaldns)`), "addresses of services"},
	{regexp.MustCompile(`^(tunl|flannel|cilium|vxlan\.calico|vxlan-v6\.calico|wireguard\.cali|wg-v6\.cali)`), "device of a container network"},
	{regexp.MustCompile(`^dummy`), "dummy device"},
}

// tunnelKinds are kinds of devices whose packets leave by another device.
var tunnelKinds = []string{"tun", "wireguard", "ipip", "gre", "gretap", "sit", "vti", "vxlan", "geneve", "ip6tnl", "xfrm"}

// rate makes every address of the machine a candidate, the best first.
func rate(f Facts, prefix string) []Candidate {
	var all []Candidate
	for _, l := range f.Links {
		for i, a := range l.Addrs {
			if a.Addr().Is4() && !a.Addr().IsLoopback() && !a.Addr().IsUnspecified() {
				all = append(all, f.candidate(l, i, prefix))
			}
		}
	}
	slices.SortFunc(all, func(a, b Candidate) int {
		if a.Out != b.Out {
			return map[bool]int{true: 1, false: -1}[a.Out]
		}
		return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(a.index, b.index), cmp.Compare(a.Device, b.Device), cmp.Compare(a.place, b.place))
	})
	return all
}

// candidate judges the i-th address of a link.
func (f Facts) candidate(l host.Link, i int, prefix string) Candidate {
	c := Candidate{Device: l.Name, Address: l.Addrs[i], index: l.Index, place: i}
	if text := f.never(l, c.Address.Addr(), prefix); text != "" {
		c.leave("%s", text)
		return c
	}
	if !l.Up {
		c.Down = true
		c.leave("link down")
		return c
	}
	c.note(forUp, "link up")
	if c.Address.Addr() == f.internal() {
		c.note(forInternal, "InternalIP of the Kubernetes Node")
	}
	if !l.Lower {
		c.note(noCarrier, "no carrier")
	}
	f.judgeDefault(&c)
	f.judgeDevice(&c, l)
	judgePlace(&c, l, i)
	return c
}

// never says why an address cannot be a node's unless a person says so.
func (f Facts) never(l host.Link, a netip.Addr, prefix string) string {
	switch {
	case l.Name == "lo":
		return "on the loopback device"
	case a.IsLinkLocalUnicast():
		return "link-local"
	case prefix != "" && strings.HasPrefix(l.Name, prefix):
		return "link of a pod"
	}
	for _, d := range devicesOf {
		if d.names.MatchString(l.Name) {
			return d.what
		}
	}
	return f.port(l)
}

// port says of which device a link is a port. A VRF's links keep their
// addresses to themselves, a bridge's and a bond's do not.
func (f Facts) port(l host.Link) string {
	if l.Master == 0 {
		return ""
	}
	for _, master := range f.Links {
		switch {
		case master.Index != l.Master:
		case master.Kind == "vrf":
			return ""
		default:
			return "port of " + master.Name
		}
	}
	return "port of another device"
}

// judgeDefault looks for a default route by the candidate's device.
func (f Facts) judgeDefault(c *Candidate) {
	var best, own *host.Route
	for _, r := range f.Routes {
		if r.Dst.Bits() != 0 || !r.Dst.Addr().Is4() || r.Type != host.Unicast {
			continue
		}
		if best == nil || r.Metric < best.Metric {
			best = &r
		}
		if r.Dev == c.Device && (own == nil || r.Metric < own.Metric) {
			own = &r
		}
	}
	switch {
	case own == nil:
		c.note(0, "no default route")
		return
	case own.Metric > best.Metric:
		c.note(forSecondary, "default route of metric %d", own.Metric)
	default:
		c.note(forDefault, "default route")
	}
	if own.Src == c.Address.Addr() {
		c.note(forSource, "its source address")
	}
}

// judgeDevice is what the kind of device says.
func (f Facts) judgeDevice(c *Candidate, l host.Link) {
	switch {
	case slices.Contains(tunnelKinds, l.Kind):
		c.note(tunnel, "tunnel")
	case strings.HasPrefix(l.Name, "veth"):
		c.note(tunnel, "named as a container's link")
	case l.Kind == "bridge" && !slices.ContainsFunc(f.Routes, func(r host.Route) bool { return r.Dst.Bits() == 0 && r.Dev == l.Name }):
		c.note(bareBridge, "bridge")
	}
}

// judgePlace is what the other addresses of the link say.
func judgePlace(c *Candidate, l host.Link, i int) {
	wider := slices.IndexFunc(l.Addrs, func(a netip.Prefix) bool { return !a.IsSingleIP() })
	same := slices.IndexFunc(l.Addrs[:i], func(a netip.Prefix) bool { return a.Masked() == c.Address.Masked() })
	switch {
	case c.Address.IsSingleIP() && wider >= 0:
		c.note(single, "single address beside %s, as a VIP", l.Addrs[wider])
	case same >= 0:
		c.note(furtherSame, "secondary of %s", l.Addrs[same])
	case slices.ContainsFunc(l.Addrs[:i], func(a netip.Prefix) bool { return !a.IsSingleIP() || c.Address.IsSingleIP() }):
		c.note(further, "further address of the link")
	}
}
