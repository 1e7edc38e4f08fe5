// SPDX-License-Identifier: Apache-2.0

// Package host holds what a kernel has, wanted or seen, as plain values that
// print like iproute2. It decides nothing and touches nothing: core makes
// wanted states, kernel observes and applies them.
package host

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// MAC is a hardware address of six bytes; the zero value means none.
type MAC [6]byte

// String is the address in lower-case hex with colons, "" for none.
func (m MAC) String() string {
	if m == (MAC{}) {
		return ""
	}
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// MarshalText is String.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (m *MAC) UnmarshalText(text []byte) error {
	parsed, err := ParseMAC(string(text))
	*m = parsed
	return err
}

// ParseMAC reads six bytes of hex joined by colons; "" is the zero MAC.
func ParseMAC(s string) (MAC, error) {
	var m MAC
	if s == "" {
		return m, nil
	}
	parts := strings.Split(s, ":")
	if len(parts) != len(m) {
		return MAC{}, fmt.Errorf("MAC %q: want six bytes as aa:bb:cc:dd:ee:ff", s)
	}
	for i, part := range parts {
		var b byte
		if n, err := fmt.Sscanf(part, "%02x", &b); n != 1 || err != nil || len(part) != 2 {
			return MAC{}, fmt.Errorf("MAC %q: byte %d is not two hex digits", s, i+1)
		}
		m[i] = b
	}
	return m, nil
}

// RouteType is the kind of a route; the zero value is unicast.
type RouteType uint8

// Route types we write or read.
const (
	Unicast RouteType = iota
	Blackhole
	Unreachable
	Prohibit
	Local
	Broadcast
)

var routeTypes = [...]string{"unicast", "blackhole", "unreachable", "prohibit", "local", "broadcast"}

// String is iproute2's word for the type.
func (t RouteType) String() string { return routeTypes[t] }

// MarshalText is String.
func (t RouteType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (t *RouteType) UnmarshalText(text []byte) error {
	for i, name := range routeTypes {
		if name == string(text) {
			*t = RouteType(i)
			return nil
		}
	}
	return fmt.Errorf("route type %q is unknown", text)
}

// Protocol is the origin of a route (rtm_protocol).
type Protocol uint8

// Protocols that appear in our tables; names are iproute2's.
const (
	ProtoUnspec Protocol = 0
	ProtoKernel Protocol = 2
	ProtoBoot   Protocol = 3
	ProtoStatic Protocol = 4
	ProtoBird   Protocol = 12
	ProtoDHCP   Protocol = 16
)

// String is iproute2's name, or the number.
func (p Protocol) String() string {
	switch p {
	case ProtoKernel:
		return "kernel"
	case ProtoBoot:
		return "boot"
	case ProtoStatic:
		return "static"
	case ProtoBird:
		return "bird"
	case ProtoDHCP:
		return "dhcp"
	}
	return fmt.Sprint(uint8(p))
}

// Scope is a route's scope (rtm_scope).
type Scope uint8

// Scopes; the zero value is global.
const (
	ScopeGlobal Scope = 0
	ScopeLink   Scope = 253
	ScopeHost   Scope = 254
)

// RouteKey is what makes two routes the same to the kernel: RTM_NEWROUTE with
// NLM_F_REPLACE changes everything else.
type RouteKey struct {
	Dst    netip.Prefix // masked; 0.0.0.0/0 is the default route
	Metric uint32
}

// Route is one route of the main table with at most one next hop.
type Route struct {
	Dst    netip.Prefix `json:"dst"`
	Type   RouteType    `json:"type"`
	Via    netip.Addr   `json:"via,omitzero"` // zero: directly on Dev
	Dev    string       `json:"dev,omitempty"`
	Proto  Protocol     `json:"proto"`
	Scope  Scope        `json:"scope"`
	Src    netip.Addr   `json:"src,omitzero"`
	Metric uint32       `json:"metric,omitempty"`
	OnLink bool         `json:"onlink,omitempty"`
	Down   bool         `json:"linkdown,omitempty"` // observed only: the kernel marked it linkdown or dead
	Hops   int          `json:"hops,omitempty"`     // observed only: number of next hops when more than one
}

// Key returns the route's identity.
func (r Route) Key() RouteKey { return RouteKey{r.Dst, r.Metric} }

// String prints the route as "ip route show" does.
func (r Route) String() string {
	var b strings.Builder
	if r.Type != Unicast {
		b.WriteString(r.Type.String() + " ")
	}
	switch {
	case r.Dst.Bits() == 0:
		b.WriteString("default")
	case r.Dst.IsSingleIP():
		b.WriteString(r.Dst.Addr().String())
	default:
		b.WriteString(r.Dst.String())
	}
	if r.Via.IsValid() {
		b.WriteString(" via " + r.Via.String())
	}
	if r.Dev != "" && r.Type == Unicast {
		b.WriteString(" dev " + r.Dev)
	}
	if r.Proto != ProtoBoot && r.Proto != ProtoUnspec {
		b.WriteString(" proto " + r.Proto.String())
	}
	if r.Scope == ScopeLink {
		b.WriteString(" scope link")
	}
	if r.Scope == ScopeHost {
		b.WriteString(" scope host")
	}
	if r.Src.IsValid() {
		b.WriteString(" src " + r.Src.String())
	}
	if r.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	if r.OnLink {
		b.WriteString(" onlink")
	}
	if r.Down {
		b.WriteString(" linkdown")
	}
	return b.String()
}

// NeighKey is the identity of a neighbour entry.
type NeighKey struct {
	Dev string
	IP  netip.Addr
}

// Neigh is one neighbour entry.
type Neigh struct {
	Dev   string     `json:"dev"`
	IP    netip.Addr `json:"ip"`
	MAC   MAC        `json:"mac"`
	State string     `json:"state"` // iproute2's word: PERMANENT, REACHABLE, STALE, DELAY, PROBE, FAILED, INCOMPLETE, NOARP
}

// Permanent is the state of the entries we write.
const Permanent = "PERMANENT"

// Key returns the entry's identity.
func (n Neigh) Key() NeighKey { return NeighKey{n.Dev, n.IP} }

// String prints the entry as "ip neigh show" does.
func (n Neigh) String() string {
	s := n.IP.String() + " dev " + n.Dev
	if n.MAC != (MAC{}) {
		s += " lladdr " + n.MAC.String()
	}
	return s + " " + n.State
}

// Link is one network device with what we want or see of it.
type Link struct {
	Name   string         `json:"name"`
	Index  int            `json:"index,omitempty"`  // observed only
	Peer   int            `json:"peer,omitempty"`   // observed only: the other end's index in its own namespace
	Master int            `json:"master,omitempty"` // observed only: index of the bridge, bond, … it is a port of
	Kind   string         `json:"kind,omitempty"`   // veth, bridge, …; "" for a physical device
	MAC    MAC            `json:"mac"`
	MTU    int            `json:"mtu"`
	Up     bool           `json:"up"`              // administratively up
	Lower  bool           `json:"lower,omitempty"` // observed only: carrier (LOWER_UP)
	Alias  string         `json:"alias,omitempty"`
	Addrs  []netip.Prefix `json:"addrs,omitempty"` // observed only: addresses with their mask
}

// String prints the link as one line in the manner of "ip -br link".
func (l Link) String() string {
	state := "DOWN"
	if l.Up {
		state = "UP"
	}
	s := fmt.Sprintf("%s %s mtu %d %s", l.Name, l.MAC, l.MTU, state)
	for _, a := range l.Addrs {
		s += " " + a.String()
	}
	if l.Alias != "" {
		s += " alias " + l.Alias
	}
	return s
}

// State is what one network namespace of a node holds: all of it where it was
// observed, only what is ours where it is wanted.
type State struct {
	Links   map[string]Link    `json:"links"`
	Routes  map[RouteKey]Route `json:"-"`
	Neighs  map[NeighKey]Neigh `json:"-"`
	Sysctls map[string]string  `json:"sysctls"` // path below /proc/sys, as "net/ipv4/conf/cali1/proxy_arp"
}

// NewState returns an empty state.
func NewState() State {
	return State{
		Links:   map[string]Link{},
		Routes:  map[RouteKey]Route{},
		Neighs:  map[NeighKey]Neigh{},
		Sysctls: map[string]string{},
	}
}

// SortedRoutes returns the routes by destination, then prefix length, then metric.
func (s State) SortedRoutes() []Route {
	return slices.SortedFunc(maps.Values(s.Routes), func(a, b Route) int {
		return cmp.Or(a.Dst.Addr().Compare(b.Dst.Addr()), cmp.Compare(a.Dst.Bits(), b.Dst.Bits()), cmp.Compare(a.Metric, b.Metric))
	})
}

// String prints the state as sections of iproute2 lines, sorted: the form
// golden tests compare.
func (s State) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s.Links)) {
		fmt.Fprintf(&b, "link %s\n", s.Links[name])
	}
	for _, r := range s.SortedRoutes() {
		fmt.Fprintf(&b, "route %s\n", r)
	}
	neighs := slices.SortedFunc(maps.Values(s.Neighs), func(a, b Neigh) int {
		return cmp.Or(a.IP.Compare(b.IP), cmp.Compare(a.Dev, b.Dev))
	})
	for _, n := range neighs {
		fmt.Fprintf(&b, "neigh %s\n", n)
	}
	for _, path := range slices.Sorted(maps.Keys(s.Sysctls)) {
		fmt.Fprintf(&b, "sysctl %s = %s\n", path, s.Sysctls[path])
	}
	return b.String()
}
