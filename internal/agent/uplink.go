// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"time"

	v1 "github.com/ocicat-net/ocicat/api/v1"
	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/kernel"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/uplink"
)

// addressDetected is the annotation of a Node that holds the address an agent
// found: where it differs from the Node's address, a person wrote that one.
const addressDetected = "ocicat.net/address-detected"

// settleTime is how long the address in force may be gone from the machine
// before one on another device takes its place: who replaces an address often
// deletes the old one first.
const settleTime = 2 * time.Second

// chosen is the node's address as last chosen.
type chosen struct {
	hint chan struct{} // capacity 1: the choice may be another
	node *v3.Node      // the own Node as last read; the registration's

	mu     sync.Mutex
	choice uplink.Choice
	force  netip.Prefix // the address in force
	device string       // that it is on
	moved  time.Time    // since when it is gone and another device has one
	told   announced    // what the neighbours know
}

// announced is an address and where it is, as the neighbours were told.
type announced struct {
	addr  netip.Addr
	index int
	mac   host.MAC
	up    bool
}

func newChosen() chosen { return chosen{hint: make(chan struct{}, 1)} }

// uplinkChanged has the node's address chosen again. It never blocks.
func (a *Agent) uplinkChanged() {
	select {
	case a.uplink.hint <- struct{}{}:
	default:
	}
}

// awaitUplink waits until the node's address is to be chosen again, or until
// enough.
func (a *Agent) awaitUplink(ctx context.Context, enough <-chan time.Time) {
	var settled <-chan time.Time
	a.uplink.mu.Lock()
	if moved := a.uplink.moved; !moved.IsZero() {
		settled = time.After(time.Until(moved.Add(settleTime)))
	}
	a.uplink.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-enough:
		return
	case <-settled:
	case <-a.uplink.hint:
	}
	// The datastore may be out of reach without the address: what is wrong is
	// said, and the neighbours are told, before it is asked.
	if node := a.uplink.node; node != nil && ctx.Err() == nil {
		if _, err := a.chooseAddress(ctx, node); err != nil {
			a.log.Debug("address not chosen before the datastore was asked", "error", err)
		}
	}
}

// tellsUplink reports whether an event may change the choice of the node's
// address: addresses, links and default routes, but for those of pods.
func (a *Agent) tellsUplink(ev kernel.Event) bool {
	switch {
	case ev.Link != nil:
		return !a.isHostEnd(ev.Link.Name)
	case ev.Route != nil:
		return ev.Route.Dst.Bits() == 0
	}
	return ev.Overflow || ev.Addr.IsValid() && !a.isHostEnd(ev.Device)
}

// chooseAddress chooses the node's address from what the kernel has now. One
// that would move to another device at once stays unchosen for a moment.
func (a *Agent) chooseAddress(ctx context.Context, node *v3.Node) (uplink.Choice, error) {
	links, err := a.kernel.Links(ctx)
	if err != nil {
		return uplink.Choice{}, err
	}
	routes, err := a.kernel.Routes(ctx, kernel.Filter{})
	if err != nil {
		return uplink.Choice{}, err
	}
	u := &a.uplink
	u.node = node
	u.mu.Lock()
	defer u.mu.Unlock()
	defer a.loop.Mark(sectionStatus)
	stored := node.IPv4()
	had := uplink.Had{Stored: stored, InForce: u.force, Device: u.device}
	had.Detected = stored.IsValid() && node.Metadata.Annotations[addressDetected] == node.Spec.BGP.IPv4Address
	u.choice = a.cfg.Uplink.Choose(uplink.Facts{Links: links, Routes: routes, Internal: internalIPs(node)}, had)
	switch c := u.choice; {
	case !c.Moved:
		u.moved = time.Time{}
	case u.moved.IsZero():
		u.moved = time.Now()
		fallthrough
	case time.Since(u.moved) < settleTime:
		return uplink.Choice{Err: fault.New(fault.NotFound, "address %s is gone", u.force)}, nil
	default:
		u.moved = time.Time{}
	}
	if u.choice.Address.IsValid() {
		u.force, u.device = u.choice.Address, u.choice.Device
	}
	a.announce(links[u.device], u.force.Addr())
	return u.choice, nil
}

// internalIPs are the addresses a Kubernetes Node has from its kubelet.
func internalIPs(node *v3.Node) []netip.Addr {
	var addrs []netip.Addr
	for _, a := range node.Spec.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == "InternalIP" {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// announce tells the neighbours where the node's address is, whenever that may
// be news to them. The caller holds the lock.
func (a *Agent) announce(l host.Link, addr netip.Addr) {
	now := announced{addr: addr, index: l.Index, mac: l.MAC, up: l.Up && l.Lower}
	before := a.uplink.told
	if a.uplink.told = now; now == before || !now.up || l.MAC == (host.MAC{}) || !addr.IsValid() || before == (announced{}) {
		return
	}
	if err := a.kernel.Announce(l, addr); err != nil {
		a.log.Warn("neighbours not told of the node's address", "error", err)
		return
	}
	a.log.Info("neighbours told of the node's address", "address", addr, "device", l.Name, "mac", l.MAC)
}

// markDetected records whether the Node's address was found by an agent.
func markDetected(node *v3.Node, detected bool) {
	if !detected {
		delete(node.Metadata.Annotations, addressDetected)
		return
	}
	if node.Metadata.Annotations == nil {
		node.Metadata.Annotations = map[string]string{}
	}
	node.Metadata.Annotations[addressDetected] = node.Spec.BGP.IPv4Address
}

// uplinkProblems are what is wrong with the node's address.
func (a *Agent) uplinkProblems() []problem.Problem {
	a.uplink.mu.Lock()
	defer a.uplink.mu.Unlock()
	c := a.uplink.choice
	var list []problem.Problem
	if c.Err != nil {
		text := c.Err.Error()
		if hint := fault.HintOf(c.Err); hint != "" {
			text += ". " + hint
		}
		list = append(list, problem.New(problem.AddressMissing, "", text))
	}
	if len(c.Equals) > 0 {
		var others []string
		for _, x := range c.Equals {
			others = append(others, x.Address.Addr().String()+" on "+x.Device)
		}
		list = append(list, problem.New(problem.AddressAmbiguous, "", c.Address.Addr(), c.Device, strings.Join(others, ", ")))
	}
	if c.Address.IsValid() && c.Device == "" {
		list = append(list, problem.New(problem.AddressElsewhere, "", c.Address.Addr(), c.Why))
	}
	return list
}

// addressReport is why the node has its address, for its status.
func (a *Agent) addressReport() v1.AddressChoice {
	a.uplink.mu.Lock()
	defer a.uplink.mu.Unlock()
	c := a.uplink.choice
	report := v1.AddressChoice{Why: c.Why}
	for _, x := range c.Candidates {
		report.Candidates = append(report.Candidates, v1.AddressCandidate{
			Address: x.Address.String(), Device: x.Device, Score: x.Score, LeftOut: x.Out, Reason: x.Reasons(),
			Chosen: x.Address == c.Address && x.Device == c.Device,
		})
	}
	return report
}
