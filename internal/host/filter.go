// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"net/netip"
	"strings"
)

// Table is one nftables table of family inet. It holds what to drop and
// nothing else: what none of its rules meets goes on as if it were not there.
type Table struct {
	Name   string
	Chains []Chain
}

// Chain is one base chain of a Table: of type filter, with policy accept.
type Chain struct {
	Name     string
	Hook     Hook
	Priority Priority
	Drops    []Drop
}

// Hook is a place in a packet's way through the kernel, by nft's name.
type Hook string

// Hooks we use.
const (
	Prerouting Hook = "prerouting" // every packet that arrives, before it is routed
	Input      Hook = "input"      // packets for this host itself
)

// Priority orders the chains of one hook; lower ones come first.
type Priority int

// Priorities by nft's names.
const (
	PriorityRaw    Priority = -300 // before connection tracking
	PriorityFilter Priority = 0
)

// String is nft's name, or the number.
func (p Priority) String() string {
	switch p {
	case PriorityRaw:
		return "raw"
	case PriorityFilter:
		return "filter"
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

// String prints the table as "nft list table" does: the form golden tests
// compare, and nft -f reads.
func (t Table) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", t.Name)
	for i, c := range t.Chains {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "\tchain %s {\n\t\ttype filter hook %s priority %s; policy accept;\n", c.Name, c.Hook, c.Priority)
		for _, d := range c.Drops {
			fmt.Fprintf(&b, "\t\t%s\n", d)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}
