// SPDX-License-Identifier: Apache-2.0

// Package trace says where a packet from a pod goes and why: Predict
// walks the path by asking each kernel on it what it would do, Compare holds
// the prediction against captured frames. It is pure: kernels are reached
// through the Oracle, frames are given as values.
package trace

import (
	"net/netip"
	"slices"

	"github.com/ocicat-net/ocicat/internal/host"
)

// Place is one network namespace on a path: a node, or a pod on a node.
type Place struct {
	Node string `json:"node"`
	Pod  string `json:"pod,omitempty"` // namespace/name; "" for the node itself
}

// String is the place as people read it.
func (p Place) String() string {
	if p.Pod != "" {
		return "pod " + p.Pod
	}
	return p.Node
}

// Endpoint is one end of a path.
type Endpoint struct {
	Place
	Addr   netip.Addr `json:"addr"`
	IfName string     `json:"ifName"` // inside the pod
	HostIf string     `json:"hostIf"` // on the node
}

// Node is one node the path may cross.
type Node struct {
	Name  string
	Addrs []netip.Addr // its own, how a next hop is recognised; first the one its peers know it by
}

// Query is one route lookup as the kernel does it for a packet.
type Query struct {
	Dst, Src netip.Addr
	Iif      string // device the packet came in by; "" when the place itself sends it
}

// Oracle answers for the kernels on the path. An error means that the kernel
// could not be asked, not that it has no answer.
type Oracle interface {
	// Route is the FIB entry the kernel's own lookup selects (its
	// RTM_GETROUTE with fib match); ok is false when it has none.
	Route(at Place, q Query) (r host.Route, ok bool, err error)
	// Neigh is the neighbour entry of ip on dev, if there is one.
	Neigh(at Place, dev string, ip netip.Addr) (n host.Neigh, ok bool, err error)
	// Link is the device dev, if there is one.
	Link(at Place, dev string) (l host.Link, ok bool, err error)
	// Masquerades says whether the node gives a packet that leaves it, from src
	// to dst, its own address as source: natOutgoing.
	Masquerades(at Place, src, dst netip.Addr) (bool, error)
	// Sysctl reads a setting below /proc/sys; "" when it does not exist.
	Sysctl(at Place, path string) (string, error)
}

// Frame is one packet on one device, predicted or captured.
type Frame struct {
	At     Place      `json:"at"`
	Dev    string     `json:"dev"`
	SrcMAC host.MAC   `json:"srcMAC"`
	DstMAC host.MAC   `json:"dstMAC"`
	Src    netip.Addr `json:"src"`
	Dst    netip.Addr `json:"dst"`
	TTL    int        `json:"ttl"`
	Length int        `json:"length"` // of the whole frame, bytes
	Reply  bool       `json:"reply,omitempty"`
}

// Hop is one step of a path: the frame on a device and what decided where it
// goes from there.
type Hop struct {
	Frame
	Decision string `json:"decision"`
}

// Severity says how bad a finding is.
type Severity string

// Severities.
const (
	Break     Severity = "break"     // the packet does not arrive
	Deviation Severity = "deviation" // it may arrive, but not as it should
)

// Finding is one thing wrong on the path, with its place.
type Finding struct {
	Severity Severity `json:"severity"`
	At       Place    `json:"at"`
	Dev      string   `json:"dev,omitempty"`
	Text     string   `json:"text"`
	Remedy   string   `json:"remedy,omitempty"`
}

// String names node and interface first.
func (f Finding) String() string {
	s := f.At.Node
	if f.At.Pod != "" {
		s += " " + f.At.String()
	}
	if f.Dev != "" {
		s += " " + f.Dev
	}
	return s + ": " + f.Text
}

// Prediction is a path as the kernels' state makes it.
type Prediction struct {
	Request   []Hop     `json:"request"`
	Reply     []Hop     `json:"reply"`
	Findings  []Finding `json:"findings"`
	Delivered bool      `json:"delivered"`         // the request reaches its end and the reply comes back; Outside: it leaves the node
	Outside   bool      `json:"outside,omitempty"` // the end is no pod: nothing is predicted beyond the node, and no reply
	MTU       int       `json:"mtu"`               // smallest on the path
}

// Frames are all predicted frames, the request's first.
func (p Prediction) Frames() []Frame {
	var frames []Frame
	for _, hops := range [][]Hop{p.Request, p.Reply} {
		for _, h := range hops {
			frames = append(frames, h.Frame)
		}
	}
	return frames
}

// Position is where on the path a frame stands: the index in Frames of the
// predicted one on the same device, going the same way and, where a packet
// crosses a device twice, with the same TTL; their number when none is.
func (p Prediction) Position(f Frame) int {
	frames := p.Frames()
	same := func(want Frame) bool { return want.At == f.At && want.Dev == f.Dev && want.Reply == f.Reply }
	if i := slices.IndexFunc(frames, func(want Frame) bool { return same(want) && want.TTL == f.TTL }); i >= 0 {
		return i
	}
	if i := slices.IndexFunc(frames, same); i >= 0 {
		return i
	}
	return len(frames)
}
