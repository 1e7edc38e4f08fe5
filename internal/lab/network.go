// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
)

// The article's network has an MTU of 1500 bytes and queues of 1000 packets,
// its routes metric 100, as NetworkManager writes them.
const (
	linkMTU     = 1500
	queueLength = 1000
	routeMetric = 100
	switchName  = "br0"
	gatewayPort = "gw"
)

// port is one machine's connection to the switch.
type port struct {
	netns string // of the machine
	dev   string // in the machine
	name  string // on the switch
	mac   host.MAC
	addr  netip.Prefix
	via   netip.Addr // default gateway; zero for none
	alt   string     // alternative name of dev; "" for none
}

// makeSwitch makes the layer-2 segment: a bridge in a namespace of its own.
func (l *Lab) makeSwitch() error {
	if err := makeNetns(l.switchNetns()); err != nil {
		return err
	}
	err := inNetns(l.switchNetns(), func(nl *netlink.Handle) error {
		off := false
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: switchName, MTU: linkMTU}, MulticastSnooping: &off}
		if err := nl.LinkAdd(bridge); err != nil {
			return fmt.Errorf("make bridge: %w", err)
		}
		return nl.LinkSetUp(bridge)
	})
	if err != nil {
		return fault.New(fault.Internal, "make switch: %w", err)
	}
	return nil
}

// switchStands says whether the switch is there.
func (l *Lab) switchStands() bool {
	return inNetns(l.switchNetns(), func(nl *netlink.Handle) error {
		_, err := nl.LinkByName(switchName)
		return err
	}) == nil
}

// plug connects a machine: a veth pair from its namespace to the switch, with
// address, route and gateway as on the article's nodes.
func (l *Lab) plug(p port) error {
	if err := l.unplug(p); err != nil {
		return fault.New(fault.Internal, "plug %s into the switch: %w", p.netns, err)
	}
	err := inNetns(p.netns, func(nl *netlink.Handle) error {
		if err := l.makeCable(nl, p); err != nil {
			return err
		}
		link, err := nl.LinkByName(p.dev)
		if err != nil {
			return fmt.Errorf("find %s: %w", p.dev, err)
		}
		return configure(nl, link, p)
	})
	if err != nil {
		return fault.New(fault.Internal, "plug %s into the switch: %w", p.netns, err)
	}
	err = inNetns(l.switchNetns(), func(nl *netlink.Handle) error {
		bridge, err := nl.LinkByName(switchName)
		if err != nil {
			return fmt.Errorf("find bridge: %w", err)
		}
		link, err := nl.LinkByName(p.name)
		if err != nil {
			return fmt.Errorf("find port %s: %w", p.name, err)
		}
		if err := nl.LinkSetMaster(link, bridge); err != nil {
			return fmt.Errorf("add port %s: %w", p.name, err)
		}
		return nl.LinkSetUp(link)
	})
	if err != nil {
		return fault.New(fault.Internal, "plug %s into the switch: %w", p.netns, err)
	}
	return nil
}

// unplug removes what is left of an earlier cable in the port: the kernel takes
// its time to do so after the machine's end is gone.
func (l *Lab) unplug(p port) error {
	return inNetns(l.switchNetns(), func(nl *netlink.Handle) error {
		link, err := nl.LinkByName(p.name)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("find port %s: %w", p.name, err)
		}
		err = nl.LinkDel(link)
		if errors.Is(err, unix.ENODEV) {
			return nil
		}
		return err
	})
}

func (l *Lab) makeCable(nl *netlink.Handle, p port) error {
	other, err := os.Open(netnsPath(l.switchNetns()))
	if err != nil {
		return err
	}
	defer other.Close()
	cable := netlink.NewVeth(netlink.LinkAttrs{Name: p.dev, MTU: linkMTU, TxQLen: queueLength, HardwareAddr: net.HardwareAddr(p.mac[:])})
	cable.PeerName = p.name
	cable.PeerMTU, cable.PeerTxQLen = linkMTU, queueLength
	cable.PeerNamespace = netlink.NsFd(int(other.Fd()))
	if err := nl.LinkAdd(cable); err != nil {
		return fmt.Errorf("make %s: %w", p.dev, err)
	}
	return nil
}

// configure gives a device its address and routes. The kernel's own route of
// the address is left out and written with the article's metric instead.
func configure(nl *netlink.Handle, link netlink.Link, p port) error {
	if p.alt != "" {
		if err := nl.LinkAddAltName(link, p.alt); err != nil {
			return fmt.Errorf("name %s %s: %w", p.dev, p.alt, err)
		}
	}
	if err := nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", p.dev, err)
	}
	addr := &netlink.Addr{IPNet: ipNet(p.addr), Flags: unix.IFA_F_NOPREFIXROUTE}
	if err := nl.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("add address %s: %w", p.addr, err)
	}
	routes := []*netlink.Route{{
		LinkIndex: link.Attrs().Index, Dst: ipNet(p.addr.Masked()), Src: p.addr.Addr().AsSlice(),
		Protocol: unix.RTPROT_KERNEL, Scope: unix.RT_SCOPE_LINK, Priority: routeMetric,
	}}
	if p.via.IsValid() {
		routes = append(routes, &netlink.Route{
			LinkIndex: link.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")), Gw: p.via.AsSlice(),
			Protocol: unix.RTPROT_STATIC, Priority: routeMetric,
		})
	}
	for _, r := range routes {
		if err := nl.RouteAdd(r); err != nil {
			return fmt.Errorf("add route %s: %w", r.Dst, err)
		}
	}
	return nil
}

// gatewayMachine is the gateway's connection: on the article's network it is
// the hypervisor's, here it also carries the datastore.
func (l *Lab) gatewayMachine(t Topology) port {
	return port{netns: l.gatewayNetns(), dev: "eth0", name: gatewayPort, mac: t.GatewayMAC, addr: t.Gateway}
}

// nodeMachine is the connection of the topology's node number i.
func (l *Lab) nodeMachine(t Topology, i int) port {
	n := t.Nodes[i]
	return port{
		netns: l.nodeNetns(n.Name), dev: uplink, name: fmt.Sprintf("port%d", i+1),
		mac: n.MAC, addr: n.Addr, via: t.Gateway.Addr(), alt: "enp2s0",
	}
}

// plugged says whether a machine's namespace stands and its cable is in the
// switch.
func (l *Lab) plugged(p port) bool {
	err := inNetns(p.netns, func(nl *netlink.Handle) error {
		link, err := nl.LinkByName(p.dev)
		if err == nil && link.Type() != "veth" {
			err = fmt.Errorf("%s is no veth", p.dev)
		}
		return err
	})
	return err == nil && inNetns(l.switchNetns(), func(nl *netlink.Handle) error {
		link, err := nl.LinkByName(p.name)
		if err == nil && link.Attrs().MasterIndex == 0 {
			err = fmt.Errorf("%s is not in the switch", p.name)
		}
		return err
	}) == nil
}

// inNetns calls f with a netlink handle in a named network namespace.
func inNetns(name string, f func(*netlink.Handle) error) error {
	if !isNamespace(netnsPath(name)) {
		return fault.New(fault.NotFound, "network namespace %s: does not exist", name)
	}
	return space{net: netnsPath(name)}.run(func() error {
		nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink: %w", err)
		}
		defer nl.Close()
		return f(nl)
	})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
