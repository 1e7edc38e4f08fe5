// SPDX-License-Identifier: Apache-2.0

// Package connectivity tests the network of a Kubernetes cluster from inside
// its pods: a pod on each node (Probe) tries what it is asked to (Attempt),
// over a plan of what should work (Plan), and what was made for it is removed.
package connectivity

import (
	"cmp"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
)

// The ports of a probe: it echoes at its pod's address, and is asked at its
// loopback address alone.
const (
	EchoPort    = 10007
	ControlPort = 10008
)

// Attempt is one thing a probe tries.
type Attempt struct {
	// Network is "tcp" or "udp".
	Network string `json:"network"`
	// Target is an address or name and a port.
	Target string `json:"target"`
	// Bytes are sent and wanted back; none means that TCP's connection is
	// enough.
	Bytes int `json:"bytes,omitempty"`
	// Full makes the packet, of UDP, as long as the MTU of the device it leaves
	// by, and forbids everybody to fragment it.
	Full bool `json:"full,omitempty"`
}

// Answer is what came of an attempt.
type Answer struct {
	// Error is why it failed, empty if it did not.
	Error string `json:"error,omitempty"`
	// Micros is how long connection and echo took, in microseconds.
	Micros int64 `json:"micros"`
	// MTU is that of the device the packets left by.
	MTU int `json:"mtu,omitempty"`
}

// Kind is what a check shows.
type Kind string

// The kinds, in the order of reports.
const (
	PodToPod     Kind = "pod to pod"
	FullPackets  Kind = "full packets" // as long as the MTU
	PodToService Kind = "pod to service"
	PodToName    Kind = "pod to name" // of a service, by DNS
	PodToAPI     Kind = "pod to API"
	PodToOutside Kind = "pod to outside" // of the pod network
)

// Kinds lists all kinds in order.
var Kinds = []Kind{PodToPod, FullPackets, PodToService, PodToName, PodToAPI, PodToOutside}

// End is a probe to test from and to.
type End struct {
	Node string
	Pod  string     // its name
	Addr netip.Addr // of the pod
	Host netip.Addr // of the node
}

// Check is one thing that should work.
type Check struct {
	Kind Kind   `json:"kind"`
	From string `json:"from"` // node
	To   string `json:"to"`   // node, or what else is the target
	// Attempts must all succeed.
	Attempts []Attempt `json:"-"`
}

// Goal says what to test.
type Goal struct {
	Ends    []End
	Pairs   int        // of nodes at the most, as ordered pairs; 0 means all
	Seed    uint64     // chooses them
	Service netip.Addr // with the ends behind it
	Name    string     // of that service
	API     string     // address and port of the API server for pods
	Outside []string   // further targets, as "192.0.2.1:443"
}

// sizes of what is echoed, in bytes.
const (
	small = 64
	bulk  = 200_000
)

// serviceTries are as many connections to a service as usually find more than
// one end.
const serviceTries = 6

// Plan lists the checks for a goal, and how many pairs of nodes it leaves out.
func Plan(g Goal) (checks []Check, leftOut int) {
	pairs, leftOut := pairsOf(g.Ends, g.Pairs, g.Seed)
	for _, p := range pairs {
		echo := net.JoinHostPort(p.to.Addr.String(), strconv.Itoa(EchoPort))
		checks = append(checks,
			Check{Kind: PodToPod, From: p.from.Node, To: p.to.Node, Attempts: []Attempt{{Network: "tcp", Target: echo, Bytes: small}, {Network: "udp", Target: echo, Bytes: small}}},
			Check{Kind: FullPackets, From: p.from.Node, To: p.to.Node, Attempts: []Attempt{{Network: "udp", Target: echo, Full: true}, {Network: "tcp", Target: echo, Bytes: bulk}}})
	}
	service := net.JoinHostPort(g.Service.String(), strconv.Itoa(EchoPort))
	name := net.JoinHostPort(g.Name, strconv.Itoa(EchoPort))
	for i, end := range g.Ends {
		try := Attempt{Network: "tcp", Target: service, Bytes: small}
		checks = append(checks,
			Check{Kind: PodToService, From: end.Node, To: service, Attempts: append(slices.Repeat([]Attempt{try}, serviceTries), Attempt{Network: "udp", Target: service, Bytes: small})},
			Check{Kind: PodToName, From: end.Node, To: name, Attempts: []Attempt{{Network: "tcp", Target: name, Bytes: small}}},
			Check{Kind: PodToAPI, From: end.Node, To: g.API, Attempts: []Attempt{{Network: "tcp", Target: g.API}}})
		// The kubelet of another node listens outside of the pod network.
		kubelet := net.JoinHostPort(g.Ends[(i+1)%len(g.Ends)].Host.String(), "10250")
		for _, target := range append([]string{kubelet}, g.Outside...) {
			checks = append(checks, Check{Kind: PodToOutside, From: end.Node, To: target, Attempts: []Attempt{{Network: "tcp", Target: target}}})
		}
	}
	slices.SortStableFunc(checks, func(a, b Check) int { return cmp.Compare(slices.Index(Kinds, a.Kind), slices.Index(Kinds, b.Kind)) })
	return checks, leftOut
}

type pair struct{ from, to End }

// pairsOf are ordered pairs of ends. Of more than most, it takes a sample in
// which every end is as often first as second, as far as most allows: each with
// its next in a circle, then with the next but one, and so on.
func pairsOf(ends []End, most int, seed uint64) (pairs []pair, leftOut int) {
	n := len(ends)
	all := n * (n - 1)
	circle := slices.Clone(ends)
	if most <= 0 || most >= all {
		most = all
	} else {
		rand.New(rand.NewPCG(seed, 0)).Shuffle(n, func(i, j int) { circle[i], circle[j] = circle[j], circle[i] })
	}
	for step := 1; step < n; step++ {
		for i := range circle {
			if len(pairs) == most {
				return pairs, all - most
			}
			pairs = append(pairs, pair{circle[i], circle[(i+step)%n]})
		}
	}
	return pairs, 0
}
