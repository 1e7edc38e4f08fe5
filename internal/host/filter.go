// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"net/netip"
	"strings"
)

// Table is one nftables table of family inet. It holds what to drop and what
// to masquerade and nothing else: what none of its rules meets goes on as if it
// were not there.
type Table struct {
	Name   string
	Sets   []Set
	Chains []Chain
}

// Set is a named set of IPv4 addresses, which rules of its Table look up.
type Set struct {
	Name     string
	Prefixes []netip.Prefix // masked, sorted by address, none overlapping another
}

// Chain is one base chain of a Table, with policy accept. Its rules are Drops
// or Masquerades; one with Masquerades is of type nat, any other of type filter.
type Chain struct {
	Name        string
	Hook        Hook
	Priority    Priority
	Drops       []Drop
	Masquerades []Masquerade
}

// Type is the kernel's type of the chain: "filter" or "nat".
func (c Chain) Type() string {
	if len(c.Masquerades) > 0 {
		return "nat"
	}
	return "filter"
}

// Hook is a place in a packet's way through the kernel, by nft's name.
type Hook string

// Hooks we use.
const (
	Prerouting  Hook = "prerouting"  // every packet that arrives, before it is routed
	Input       Hook = "input"       // packets for this host itself
	Postrouting Hook = "postrouting" // every packet that leaves, after it was routed
)

// Priority orders the chains of one hook; lower ones come first.
type Priority int

// Priorities by nft's names.
const (
	PriorityRaw    Priority = -300 // before connection tracking
	PriorityFilter Priority = 0
	PrioritySrcNAT Priority = 100 // where kube-proxy and Docker translate sources too
)

// String is nft's name, or the number.
func (p Priority) String() string {
	switch p {
	case PriorityRaw:
		return "raw"
	case PriorityFilter:
		return "filter"
	case PrioritySrcNAT:
		return "srcnat"
	}
	return fmt.Sprint(int(p))
}

// Drop drops the packets that meet all of its conditions; the zero value of a
// condition asks nothing.
type Drop struct {
	In       string       // beginning of the name of the device the packet came in by
	Src, Dst netip.Prefix // IPv4, of whole bytes
	Proto    string       // "tcp" or "udp", with Port
	Port     uint16       // destination port
	NoReturn bool         // no route leads to the source by the device the packet came in by
	Why      string       // the rule's comment, at most 127 bytes
}

// String prints the rule as "nft list table" does.
func (d Drop) String() string {
	var b strings.Builder
	if d.In != "" {
		fmt.Fprintf(&b, "iifname %q ", d.In+"*")
	}
	if d.Src.IsValid() {
		fmt.Fprintf(&b, "ip saddr %s ", d.Src)
	}
	if d.Dst.IsValid() {
		fmt.Fprintf(&b, "ip daddr %s ", d.Dst)
	}
	if d.Proto != "" {
		fmt.Fprintf(&b, "%s dport %d ", d.Proto, d.Port)
	}
	if d.NoReturn {
		b.WriteString("fib saddr . iif oif missing ")
	}
	b.WriteString("drop")
	if d.Why != "" {
		fmt.Fprintf(&b, " comment %q", d.Why)
	}
	return b.String()
}

// Masquerade gives the first packet of a connection, and with it all others,
// the address of the device it leaves by as its source, and a random port, if
// its source is in one set and its destination is not in another.
type Masquerade struct {
	From, Except string // names of sets of the Table
	Why          string // the rule's comment, at most 127 bytes
}

// String prints the rule as "nft list table" does.
func (m Masquerade) String() string {
	text := fmt.Sprintf("ip saddr @%s ip daddr != @%s masquerade fully-random", m.From, m.Except)
	if m.Why != "" {
		text += fmt.Sprintf(" comment %q", m.Why)
	}
	return text
}

// setColumn is where nft goes on with the elements of a set on a new line.
const setColumn = "\t\t\t     "

// String prints the set as "nft list set" does, two elements a line.
func (s Set) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\tset %s {\n\t\ttype ipv4_addr\n\t\tflags interval\n", s.Name)
	for i, p := range s.Prefixes {
		switch {
		case i == 0:
			b.WriteString("\t\telements = { ")
		case i%2 == 0:
			b.WriteString(",\n" + setColumn)
		default:
			b.WriteString(", ")
		}
		if p.IsSingleIP() {
			b.WriteString(p.Addr().String())
		} else {
			b.WriteString(p.String())
		}
	}
	if len(s.Prefixes) > 0 {
		b.WriteString(" }\n")
	}
	b.WriteString("\t}\n")
	return b.String()
}

// String prints the chain as "nft list chain" does.
func (c Chain) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\tchain %s {\n\t\ttype %s hook %s priority %s; policy accept;\n", c.Name, c.Type(), c.Hook, c.Priority)
	for _, d := range c.Drops {
		fmt.Fprintf(&b, "\t\t%s\n", d)
	}
	for _, m := range c.Masquerades {
		fmt.Fprintf(&b, "\t\t%s\n", m)
	}
	b.WriteString("\t}\n")
	return b.String()
}

// String prints the table as "nft list table" does: the form golden tests
// compare, and nft -f reads.
func (t Table) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", t.Name)
	var parts []string
	for _, s := range t.Sets {
		parts = append(parts, s.String())
	}
	for _, c := range t.Chains {
		parts = append(parts, c.String())
	}
	b.WriteString(strings.Join(parts, "\n"))
	b.WriteString("}\n")
	return b.String()
}
