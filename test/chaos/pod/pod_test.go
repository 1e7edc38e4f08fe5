// SPDX-License-Identifier: Apache-2.0

// Package pod attacks a node from one of its pods, which is root in its own
// namespace and sends whatever frames it likes. Each attack has a twin without
// our settings and rules, which reaches its goal.
package pod

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/internal/netns"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/test/chaos"
	"github.com/ocicat-net/ocicat/test/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

const (
	master = "k8s-master-1"
	victim = "192.168.0.12" // the other node, on the uplink
)

// attacker is a pod, and its node.
type attacker struct {
	*labtest.Lab
	t      *testing.T
	pod    lab.Pod
	socket int // AF_PACKET on eth0
	index  int // of eth0
}

func newAttacker(t *testing.T) *attacker {
	t.Helper()
	l := labtest.Up(t, 2, []lab.PodSpec{{Namespace: "devops", Name: "evil", Node: master}}, nil)
	state, err := l.State()
	if err != nil {
		t.Fatal(err)
	}
	a := &attacker{Lab: l, t: t, pod: state.Pods[0]}
	err = netns.Do(l.Netns("devops.evil"), func() (err error) {
		a.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(a.socket) })
	if _, err := fmt.Sscanf(l.Pod("devops/evil", "ip -o link show eth0"), "%d:", &a.index); err != nil {
		t.Fatal(err)
	}
	return a
}

// send sends a frame from the pod.
func (a *attacker) send(frame []byte) {
	a.t.Helper()
	for {
		err := unix.Sendto(a.socket, frame, 0, &unix.SockaddrLinklayer{Ifindex: a.index})
		if err == unix.ENOBUFS {
			continue
		}
		if err != nil {
			a.t.Fatalf("send: %v", err)
		}
		return
	}
}

// node runs a command on the attacked node.
func (a *attacker) node(command string) string { return a.Node(master, command) }

// bare ends the agent, which would mend it, and takes our settings and rules
// from the pod's link.
func (a *attacker) bare(settings ...string) {
	a.t.Helper()
	if err := a.KillAgent(a.t.Context(), master); err != nil {
		a.t.Fatal(err)
	}
	a.node("nft delete table inet ocicat")
	for _, s := range settings {
		a.node("sysctl -qw " + strings.ReplaceAll(s, "DEV", a.pod.HostIf))
	}
}

// A pod asks for the gateway's MAC in the name of thousands of others: each
// would become a neighbour of its node, whose table all devices share.
func TestNeighbourFlood(t *testing.T) {
	a := newAttacker(t)
	r := chaos.Begin(t, "G3", "6,000 ARP requests of made-up senders, and 600 in the other node's name", "at most 8 neighbours on the pod's link, those of the uplink unchanged")
	// Of the uplink it knows the other node: by BGP.
	macOf := func() string {
		for line := range strings.Lines(a.node("ip neigh show dev ens160")) {
			if words := strings.Fields(line); words[0] == victim && len(words) > 2 {
				return words[2]
			}
		}
		return ""
	}
	before := macOf()
	if before == "" {
		t.Fatal("the node does not know its neighbour")
	}
	neighbours := func() int { return strings.Count(a.node("ip neigh show dev "+a.pod.HostIf), "\n") }
	flood := func() {
		for i := range 6600 {
			sender := netip.AddrFrom4([4]byte{10, 77, byte(i >> 8), byte(i)})
			if i >= 6000 {
				sender = netip.MustParseAddr(victim)
			}
			a.send(arpRequest(sender, netip.MustParseAddr("169.254.1.1")))
		}
	}
	flood()
	a.settled()
	got := neighbours()
	r.Measuredf("%d neighbours on the pod's link; the other node's entry unchanged: %v", got, macOf() == before)
	if got > 8 || macOf() != before {
		t.Errorf("%d neighbours, other node at %s, was %s", got, macOf(), before)
	}
	a.bare("net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.DEV.rp_filter=0")
	flood()
	nstest.Eventually(t, 5*time.Second, func() bool { return neighbours() > 500 }, "the twin's table fills")
	r.Twinf("%d neighbours without rp_filter and our table", neighbours())
}

// A pod announces itself as a router, and redirects traffic to itself.
func TestRouterAdvertisement(t *testing.T) {
	a := newAttacker(t)
	r := chaos.Begin(t, "G4", "router advertisements with a prefix, and ICMP redirects, from a pod", "no route, no address, no cached redirect on the node")
	state := func() string {
		return a.node("ip -6 route show default") + a.node("ip -6 -o addr show scope global dev "+a.pod.HostIf) + a.node("ip route show cache")
	}
	attack := func() {
		for range 5 {
			a.send(advertisement())
			a.send(redirect(a.pod.Address.Addr(), netip.MustParseAddr("192.168.0.11"), netip.MustParseAddr(victim)))
		}
	}
	before := state()
	attack()
	a.settled()
	after := state()
	r.Measuredf("nothing changed: %v", after == before)
	if after != before {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
	a.bare("net.ipv6.conf.DEV.accept_ra=2", "net.ipv6.conf.DEV.autoconf=1")
	nstest.Eventually(t, 10*time.Second, func() bool {
		attack()
		return strings.Contains(a.node("ip -6 route show default"), a.pod.HostIf)
	}, "the twin's default route")
	r.Twinf("with accept_ra=2 the node takes a default route from the pod (redirects have no twin: the kernel takes them only from a destination's own gateway)")
}

// settled sends something honest and waits for its answer: what was sent
// before was handled before.
func (a *attacker) settled() {
	a.t.Helper()
	for range 3 {
		a.Pod("devops/evil", "ping -c1 -W5 192.168.0.11")
	}
}

// evilMAC is the source of made-up frames.
var evilMAC = []byte{0x02, 0xee, 0, 0, 0, 0x66}

// arpRequest asks for target in sender's name (RFC 826).
func arpRequest(sender, target netip.Addr) []byte {
	frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, evilMAC...)
	frame = append(frame, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1)
	frame = append(append(frame, evilMAC...), sender.AsSlice()...)
	return append(append(frame, 0, 0, 0, 0, 0, 0), target.AsSlice()...)
}

// advertisement is a router advertisement with a lifetime and a prefix for
// addresses (RFC 4861 section 4.2).
func advertisement() []byte {
	source := netip.MustParseAddr("fe80::ee:ff:fe00:66")
	all := netip.MustParseAddr("ff02::1")
	body := []byte{134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0}
	body = append(append(body, 1, 1), evilMAC...)                                       // source link-layer address
	body = append(body, 3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0) // prefix information
	prefix := netip.MustParseAddr("2001:db8:bad::").As16()
	body = append(body, prefix[:]...)
	pseudo := append(append([]byte{}, source.AsSlice()...), all.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(body)))
	pseudo = append(pseudo, 0, 0, 0, 58)
	binary.BigEndian.PutUint16(body[2:], checksum(append(pseudo, body...)))
	frame := append(append([]byte{0x33, 0x33, 0, 0, 0, 1}, evilMAC...), 0x86, 0xdd, 0x60, 0, 0, 0)
	frame = binary.BigEndian.AppendUint16(frame, uint16(len(body)))
	frame = append(frame, 58, 255)
	frame = append(append(frame, source.AsSlice()...), all.AsSlice()...)
	return append(frame, body...)
}

// redirect tells node that dst is better reached through the pod (RFC 792).
func redirect(pod, node, dst netip.Addr) []byte {
	quoted := ipv4(node, dst, 17, []byte{0, 1, 0, 1, 0, 8, 0, 0})
	body := append(append([]byte{5, 1, 0, 0}, pod.AsSlice()...), quoted...)
	binary.BigEndian.PutUint16(body[2:], checksum(body))
	frame := append(append([]byte{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}, evilMAC...), 0x08, 0x00)
	return append(frame, ipv4(pod, node, 1, body)...)
}

// ipv4 is a packet (RFC 791).
func ipv4(from, to netip.Addr, protocol byte, body []byte) []byte {
	head := []byte{0x45, 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0}
	binary.BigEndian.PutUint16(head[2:], uint16(20+len(body)))
	head = append(append(head, from.AsSlice()...), to.AsSlice()...)
	binary.BigEndian.PutUint16(head[10:], checksum(head))
	return append(head, body...)
}

// checksum is the Internet checksum (RFC 1071).
func checksum(data []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(data); i += 2 {
		sum += uint32(data[i]) << 8
		if i+1 < len(data) {
			sum += uint32(data[i+1])
		}
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
