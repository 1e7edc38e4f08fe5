// SPDX-License-Identifier: Apache-2.0

// Package uplink chooses a node's address and says why: every address of the
// machine is a candidate with a score and reasons. It decides on values and
// touches nothing; the agent reads the kernel and writes the Node.
package uplink

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
)

// Facts are what a choice is made of.
type Facts struct {
	// Links are the machine's devices with their IPv4 addresses, by name.
	Links map[string]host.Link
	// Routes are those of the main table; of them only default routes matter.
	Routes []host.Route
	// Internal are the addresses of type InternalIP of the Kubernetes Node:
	// what the kubelet gave itself. None without Kubernetes.
	Internal []netip.Addr
}

// Had is what was chosen before.
type Had struct {
	// Stored is the address the Node has; invalid for none.
	Stored netip.Prefix
	// Detected says that an agent found Stored; else a person wrote it.
	Detected bool
	// InForce is the address this agent runs with; invalid at its start.
	InForce netip.Prefix
	// Device is the device InForce was on.
	Device string
}

// Policy says how a node's address is chosen.
type Policy struct {
	// IP says where the address comes from.
	IP IP
	// Method finds it where IP says so.
	Method Method
	// InterfacePrefix begins the names of the pods' host ends.
	InterfacePrefix string
	// Reach is how Method can-reach= asks the kernel.
	Reach Reach
}

// Choice is the address chosen, and why.
type Choice struct {
	// Address is the one chosen; invalid for none.
	Address netip.Prefix
	// Device is the one that carries it, "" where none does.
	Device string
	// Why says in one line what made it this one.
	Why string
	// Detected says that it was found on this machine, not given.
	Detected bool
	// Moved says that the address in force is gone and the one found instead
	// is on another device: perhaps the old device's new address is still to
	// come.
	Moved bool
	// Equals are other addresses that were as good, if nothing but the order
	// of the devices decided.
	Equals []Candidate
	// Candidates are all addresses, the best first.
	Candidates []Candidate
	// Err says why there is no address although one is wanted. It is NotFound
	// and has a hint.
	Err error
}

// String is the choice and every candidate, a line each.
func (c Choice) String() string {
	var b strings.Builder
	switch {
	case c.Err != nil:
		fmt.Fprintf(&b, "none: %v\n", c.Err)
	case !c.Address.IsValid():
		fmt.Fprintf(&b, "none: %s\n", c.Why)
	default:
		fmt.Fprintf(&b, "%s on %s: %s\n", c.Address, cmp.Or(c.Device, "no device"), c.Why)
	}
	for _, candidate := range c.Candidates {
		fmt.Fprintf(&b, "  %s\n", candidate)
	}
	return b.String()
}

// Choose chooses. An address in force is kept for as long as the machine has
// it, also if its link goes down or another one would be better: an address
// that comes and goes costs every session of the node.
func (p Policy) Choose(f Facts, had Had) Choice {
	c := Choice{Candidates: rate(f, p.InterfacePrefix)}
	kept, keep := c.find(had.InForce)
	stored, here := c.find(had.Stored)
	unset := !p.IP.Autodetect
	switch {
	case p.IP.None:
		c.Why = "IP is none"
	case p.IP.Fixed.IsValid():
		c.give(p.IP.Fixed, p.IP.Bare, "given by IP")
	case unset && had.Stored.IsValid() && !had.Detected:
		c.give(had.Stored, false, "written in the Node by somebody")
	case keep && p.Method.allows(f, kept):
		c.take(kept, "kept: "+kept.reasons())
	case unset && here && p.Method.allows(f, stored):
		c.take(stored, "kept from the Node: "+stored.reasons())
	default:
		p.detect(&c, f, had)
	}
	return c
}

// find is the candidate with an address of whatever mask, unless nothing but
// a person's word could make it the node's.
func (c *Choice) find(a netip.Prefix) (Candidate, bool) {
	if !a.IsValid() {
		return Candidate{}, false
	}
	i := slices.IndexFunc(c.Candidates, func(x Candidate) bool { return x.Address.Addr() == a.Addr() && (!x.Out || x.Down) })
	if i < 0 {
		return Candidate{}, false
	}
	return c.Candidates[i], true
}

// give sets an address somebody gave; bare for one to which the network's
// length is to be found.
func (c *Choice) give(a netip.Prefix, bare bool, why string) {
	c.Address, c.Why = a, why
	for _, x := range c.Candidates {
		if x.Address.Addr() != a.Addr() {
			continue
		}
		if c.Device = x.Device; bare {
			c.Address = x.Address
		}
		return
	}
}

func (c *Choice) take(x Candidate, why string) {
	c.Address, c.Device, c.Why, c.Detected = x.Address, x.Device, why, true
}

// detect finds the address by the method.
func (p Policy) detect(c *Choice, f Facts, had Had) {
	if p.Method.scored() {
		c.best(had.Stored)
	} else if a, err := p.Method.Detect(f, p.Reach); err != nil {
		c.Err = err
	} else {
		c.give(a, false, "found by "+p.Method.String())
		c.Detected = true
	}
	c.Moved = had.InForce.IsValid() && c.Address.IsValid() && c.Device != had.Device
}

// best takes the candidate of the highest score; of equal ones that which is
// stored, else that of the device made first.
func (c *Choice) best(stored netip.Prefix) {
	if len(c.Candidates) == 0 || c.Candidates[0].Out {
		c.Err = c.nothing()
		return
	}
	top := c.Candidates[0]
	for _, x := range c.Candidates {
		if !x.Out && x.Score == top.Score && stored.IsValid() && x.Address.Addr() == stored.Addr() {
			c.take(x, "kept from the Node: "+x.reasons())
			return
		}
	}
	for _, x := range c.Candidates[1:] {
		if !x.Out && x.Score == top.Score {
			c.Equals = append(c.Equals, x)
		}
	}
	why := top.reasons()
	if len(c.Equals) > 0 {
		why += "; others are as good, its device was made first"
	}
	c.take(top, why)
}

func (c *Choice) nothing() error {
	err := fault.New(fault.NotFound, "find address: no device has one that fits")
	var seen []string
	for _, x := range c.Candidates {
		seen = append(seen, fmt.Sprintf("%s on %s (%s)", x.Address.Addr(), x.Device, x.reasons()))
	}
	if len(seen) == 0 {
		return fault.Hint(err, "No device has an IPv4 address yet: bring the uplink up.")
	}
	return fault.Hint(err, "There is %s. Bring the uplink up, or set IP or IP_AUTODETECTION_METHOD.", strings.Join(seen, ", "))
}
