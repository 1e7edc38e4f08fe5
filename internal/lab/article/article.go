// SPDX-License-Identifier: Apache-2.0

// Package article holds what the source article shows of its cluster, as
// values a lab is compared with: addresses, interface names, route tables,
// neighbours and the frames of its two walks. It is an oracle: nothing here is
// computed from anything that is under test, and nothing in Ocicat but the
// demo and the tests may read it.
package article

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/trace"
)

// The two nodes.
const (
	Master = "k8s-master-1"
	Worker = "k8s-node-1"
)

// The pods the article walks between.
const (
	BusyboxMaster = "devops/busybox-77649b9c55-fv298"
	BusyboxWorker = "devops/busybox-77649b9c55-s7zfv"
	Jenkins       = "devops/jenkins-56b6774bb6-d8v8b"
)

// Pod is one pod as the article shows it.
type Pod struct {
	Name   string // namespace/name; "" where the article tells none
	Node   string
	Addr   netip.Addr
	HostIf string
}

// Pods are the article's pods. Of coredns it shows the address and the
// interface only.
func Pods() []Pod {
	return []Pod{
		{BusyboxMaster, Master, netip.MustParseAddr("172.16.196.1"), "cali1dadcdd5b31"},
		{"", Master, netip.MustParseAddr("172.16.196.2"), Coredns},
		{BusyboxWorker, Worker, netip.MustParseAddr("172.16.109.65"), "cali4e329df4a89"},
		{Jenkins, Worker, netip.MustParseAddr("172.16.109.66"), "cali523840de229"},
	}
}

// Coredns is the interface of coredns in the article. The name is a digest of
// the pod's namespace and name, which the article does not tell, so a lab's
// own cannot be equal: Routes puts the lab's in its place.
const Coredns = "cali42cd276b2be"

// Routes is a node's main table as "ip route show" prints it. The article
// prints the worker's as "route -n" only; that is the same table. coredns is
// the name to print for the interface of coredns.
func Routes(node, coredns string) []string {
	tables := map[string]string{
		Master: `default via 192.168.0.2 dev ens160 proto static metric 100
172.16.109.64/26 via 192.168.0.12 dev ens160 proto bird
blackhole 172.16.196.0/26 proto bird
172.16.196.1 dev cali1dadcdd5b31 scope link
172.16.196.2 dev cali42cd276b2be scope link
192.168.0.0/24 dev ens160 proto kernel scope link src 192.168.0.11 metric 100`,
		Worker: `default via 192.168.0.2 dev ens160 proto static metric 100
blackhole 172.16.109.64/26 proto bird
172.16.109.65 dev cali4e329df4a89 scope link
172.16.109.66 dev cali523840de229 scope link
172.16.196.0/26 via 192.168.0.11 dev ens160 proto bird
192.168.0.0/24 dev ens160 proto kernel scope link src 192.168.0.12 metric 100`,
	}
	return strings.Split(strings.ReplaceAll(tables[node], Coredns, coredns), "\n")
}

// Neighbours are the permanent entries of a node as "ip neigh show" prints
// them. The article shows the worker's as "arp -an".
func Neighbours(node string) []string {
	if node != Worker {
		return nil
	}
	return []string{
		"172.16.109.65 dev cali4e329df4a89 lladdr 72:19:6b:9b:bf:e2 PERMANENT",
		"172.16.109.66 dev cali523840de229 lladdr aa:2d:89:c6:49:dd PERMANENT",
	}
}

// Walk is a ping from one pod to another with the frames the article captured
// on its way.
type Walk struct {
	From, To string
	Frames   []trace.Frame // request and reply on every interface captured
	PingTTL  int           // the ttl that ping prints
}

// frameLength is the length of every frame of the walks, in bytes: an IP
// packet of 84 and the Ethernet header.
const frameLength = 98

// AcrossHosts is the article's walk from the master's busybox to the
// worker's.
func AcrossHosts() Walk {
	const gateway, pod, master, worker, target = "ee:ee:ee:ee:ee:ee", "0e:1c:2c:f6:2a:f9", "00:0c:29:b1:02:f0", "00:0c:29:90:fa:e2", "72:19:6b:9b:bf:e2"
	there := direction{"172.16.196.1", "172.16.109.65", false}
	back := there.reversed()
	return Walk{From: BusyboxMaster, To: BusyboxWorker, PingTTL: 62, Frames: []trace.Frame{
		there.frame(Master, "cali1dadcdd5b31", pod, gateway, 64),
		there.frame(Master, "ens160", master, worker, 63),
		there.frame(Worker, "ens160", master, worker, 63),
		there.frame(Worker, "cali4e329df4a89", gateway, target, 62),
		back.frame(Worker, "cali4e329df4a89", target, gateway, 64),
		back.frame(Worker, "ens160", worker, master, 63),
		back.frame(Master, "ens160", worker, master, 63),
		back.frame(Master, "cali1dadcdd5b31", gateway, pod, 62),
	}}
}

// SameHost is the article's walk between the worker's two pods. (It prints the
// last MAC once without its first byte: a slip.)
func SameHost() Walk {
	const gateway, pod, target = "ee:ee:ee:ee:ee:ee", "72:19:6b:9b:bf:e2", "aa:2d:89:c6:49:dd"
	there := direction{"172.16.109.65", "172.16.109.66", false}
	back := there.reversed()
	return Walk{From: BusyboxWorker, To: Jenkins, PingTTL: 63, Frames: []trace.Frame{
		there.frame(Worker, "cali4e329df4a89", pod, gateway, 64),
		there.frame(Worker, "cali523840de229", gateway, target, 63),
		back.frame(Worker, "cali523840de229", target, gateway, 64),
		back.frame(Worker, "cali4e329df4a89", gateway, pod, 63),
	}}
}

type direction struct {
	src, dst string
	reply    bool
}

func (d direction) reversed() direction { return direction{d.dst, d.src, !d.reply} }

func (d direction) frame(node, dev, srcMAC, dstMAC string, ttl int) trace.Frame {
	return trace.Frame{
		At: trace.Place{Node: node}, Dev: dev, SrcMAC: mustMAC(srcMAC), DstMAC: mustMAC(dstMAC),
		Src: netip.MustParseAddr(d.src), Dst: netip.MustParseAddr(d.dst), TTL: ttl, Length: frameLength, Reply: d.reply,
	}
}

func mustMAC(s string) host.MAC {
	m, err := host.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return m
}

// Missing are the frames of the walk that were not captured exactly so.
func (w Walk) Missing(captured []trace.Frame) []trace.Frame {
	return slices.DeleteFunc(slices.Clone(w.Frames), func(want trace.Frame) bool { return slices.Contains(captured, want) })
}
