// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
)

// IP says where a node's address comes from.
type IP struct {
	// Fixed is the address given; without a network's length it is a single
	// address, and Bare is set.
	Fixed netip.Prefix
	// Bare says that Fixed has the length of a single address only because
	// none was given.
	Bare bool
	// Autodetect says that the address is looked for at every start.
	Autodetect bool
	// None says that the node has no address, and no sessions.
	None bool
}

// String is the value that says the same.
func (ip IP) String() string {
	switch {
	case ip.None:
		return "none"
	case ip.Autodetect:
		return "autodetect"
	case ip.Bare:
		return ip.Fixed.Addr().String()
	case ip.Fixed.IsValid():
		return ip.Fixed.String()
	}
	return "the Node's own, else autodetect"
}

// Method is a way to find a node's address: Calico's, or for the zero value
// the best score.
type Method struct {
	name   string // first-found, kubernetes-internal-ip, can-reach, interface, skip-interface, cidr; "" for the score
	target string // of can-reach
	names  []*regexp.Regexp
	ranges []netip.Prefix
	text   string
}

// String is the value that names the method, "score" for the one without a
// value.
func (m Method) String() string { return cmp.Or(m.text, "score") }

// scored says that the best candidate is taken.
func (m Method) scored() bool { return m.name == "" }

// allows says whether an address may be kept by the method.
func (m Method) allows(f Facts, c Candidate) bool {
	l := f.Links[c.Device]
	if m.scored() || m.name == "can-reach" {
		return true
	}
	l.Up = true // a link that goes down does not take its address along
	return m.fits(f, l, c.Address.Addr())
}

// ParseMethod reads a value of IP_AUTODETECTION_METHOD. The error is Invalid.
func ParseMethod(s string) (Method, error) {
	name, list, given := strings.Cut(s, "=")
	m := Method{name: name, text: s}
	switch name {
	case "", "score", "first-found", "kubernetes-internal-ip":
		if given {
			return Method{}, fault.New(fault.Invalid, "want %s without a value", name)
		}
		if name == "" || name == "score" {
			return Method{}, nil
		}
		return m, nil
	case "can-reach":
		if m.target = list; list == "" {
			return Method{}, fault.New(fault.Invalid, "want can-reach=ADDRESS or can-reach=NAME")
		}
		return m, nil
	case "interface", "skip-interface":
		for _, text := range items(list) {
			expr, err := regexp.Compile(text)
			if err != nil {
				return Method{}, fault.New(fault.Invalid, "want regular expressions joined by commas: %v", err)
			}
			m.names = append(m.names, expr)
		}
	case "cidr":
		for _, text := range items(list) {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				return Method{}, fault.New(fault.Invalid, "want CIDRs joined by commas")
			}
			m.ranges = append(m.ranges, p.Masked())
		}
	default:
		return Method{}, fault.New(fault.Invalid, "want score, first-found, kubernetes-internal-ip, can-reach=, interface=, skip-interface= or cidr=")
	}
	if len(m.names)+len(m.ranges) == 0 {
		return Method{}, fault.New(fault.Invalid, "want %s= with a list", name)
	}
	return m, nil
}

func items(list string) []string {
	var out []string
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out
}

// left out by first-found and skip-interface: devices of containers, virtual
// machines and networks like ours.
var internalNames = regexp.MustCompile(`^(docker.*|cbr.*|dummy.*|podman.*|virbr.*|lxcbr.*|veth.*|lo$|br-.*|cali.*|tunl.*|flannel.*|kube-ipvs.*|cni.*|vxlan\.calico.*|vxlan-v6\.calico.*|wireguard\.cali.*|wg-v6\.cali.*|nodelocaldns.*)`)

// Reach says which address of this machine the kernel would send from to a
// host's address or name.
type Reach func(target string) (netip.Addr, error)

// Detect finds the node's IPv4 address by Calico's method among its links;
// none is NotFound.
// Links are looked at in the reverse order of their index, so of several that
// fit, the one made last is taken. Methods that choose by themselves
// (first-found, skip-interface) leave out links that are down; interface= and
// cidr= take the user at their word, and kubernetes-internal-ip the kubelet:
// of several of its addresses the first counts.
func (m Method) Detect(f Facts, reach Reach) (netip.Prefix, error) {
	ordered := make([]host.Link, 0, len(f.Links))
	for _, l := range f.Links {
		ordered = append(ordered, l)
	}
	slices.SortFunc(ordered, func(a, b host.Link) int {
		return cmp.Or(cmp.Compare(b.Index, a.Index), cmp.Compare(b.Name, a.Name))
	})
	if m.name == "can-reach" {
		return m.reachable(ordered, reach)
	}
	for _, l := range ordered {
		for _, a := range l.Addrs {
			if usable(a.Addr()) && m.fits(f, l, a.Addr()) {
				return a, nil
			}
		}
	}
	return netip.Prefix{}, m.nothing(f, ordered)
}

// internal is the first IPv4 InternalIP; zero for none.
func (f Facts) internal() netip.Addr {
	for _, a := range f.Internal {
		if usable(a) {
			return a
		}
	}
	return netip.Addr{}
}

func usable(a netip.Addr) bool {
	return a.Is4() && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.IsUnspecified()
}

func (m Method) fits(f Facts, l host.Link, a netip.Addr) bool {
	named := slices.ContainsFunc(m.names, func(r *regexp.Regexp) bool { return r.MatchString(l.Name) })
	switch m.name {
	case "interface":
		return named
	case "kubernetes-internal-ip":
		return a == f.internal()
	case "cidr":
		return slices.ContainsFunc(m.ranges, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	return l.Up && !named && !internalNames.MatchString(l.Name)
}

func (m Method) reachable(links []host.Link, reach Reach) (netip.Prefix, error) {
	source, err := reach(m.target)
	if err != nil {
		return netip.Prefix{}, fault.New(fault.NotFound, "find address by %s: %w", m, err)
	}
	for _, l := range links {
		for _, a := range l.Addrs {
			if a.Addr() == source && usable(source) {
				return a, nil
			}
		}
	}
	return netip.Prefix{}, fault.New(fault.NotFound, "find address by %s: packets would leave from %s, which is no IPv4 address of a link here", m, source)
}

func (m Method) nothing(f Facts, links []host.Link) error {
	var seen []string
	for _, l := range links {
		for _, a := range l.Addrs {
			if usable(a.Addr()) {
				state := ""
				if !l.Up {
					state = ", down"
				}
				seen = append(seen, fmt.Sprintf("%s (%s%s)", l.Name, a, state))
			}
		}
	}
	err := fault.New(fault.NotFound, "find address by %s: no link fits", m)
	if m.name == "kubernetes-internal-ip" {
		if !f.internal().IsValid() {
			return fault.Hint(fault.New(fault.NotFound, "find address by %s: the Kubernetes Node has no IPv4 InternalIP", m), "The kubelet writes it, --node-ip names it: wait for it, or set IP_AUTODETECTION_METHOD to interface=NAME.")
		}
		err = fault.New(fault.NotFound, "find address by %s: the Node's InternalIP %s is on no link", m, f.internal())
	}
	if len(seen) == 0 {
		return fault.Hint(err, "No link has an IPv4 address yet: bring the uplink up.")
	}
	return fault.Hint(err, "There is %s: set IP, or IP_AUTODETECTION_METHOD to interface=NAME.", strings.Join(seen, ", "))
}
