// SPDX-License-Identifier: Apache-2.0

// Package cniwire is the protocol between the CNI plugin and the agent: one
// request and one answer over a unix stream socket, each a frame of a 4-byte
// big-endian length and that many bytes of JSON. The pod's network namespace
// travels with an Add's or Check's first byte as a file descriptor
// (SCM_RIGHTS), so that the agent needs no path to it.
//
// Both sides link it, and the plugin is exec'ed for every pod: it depends on
// neither package net nor anything above it. It must not know how an agent
// serves a request.
package cniwire

import (
	"net/netip"
	"os"
)

// Version is the protocol's version. A field whose absence an older reader
// must not overlook raises it; other fields may be added under the same one.
const Version = 1

// MaxFrame bounds the JSON of one frame, in bytes: a GC lists all attachments
// of a node.
const MaxFrame = 1 << 20

// ID names one attachment: the pair the CNI specification keys everything by.
type ID struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"` // inside the pod, mostly eth0
}

// String is container id and interface name joined by a slash.
func (id ID) String() string { return id.ContainerID + "/" + id.IfName }

// Pod is what a Kubernetes runtime tells about the pod; all empty elsewhere.
type Pod struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

// AddRequest asks to attach a container.
type AddRequest struct {
	ID
	// Network is the name of the CNI network; the IPAM handle starts with it.
	Network string `json:"network"`
	Pod     Pod    `json:"pod,omitzero"`
	// NetNSPath is CNI_NETNS as the runtime spelled it: for the record only,
	// it need not mean anything in the agent's mount namespace.
	NetNSPath string `json:"netns"`
	// NetNS is the open network namespace. The server owns and closes it.
	NetNS *os.File `json:"-"`
	// IPs are the addresses asked for by name; none means any.
	IPs []netip.Addr `json:"ips,omitempty"`
	// Pools are names or CIDRs of the pools to choose from; none means all.
	Pools []string `json:"pools,omitempty"`
	// Annotated says that the runtime handed the pod's annotations over, and
	// PoolsNoted that Pools are the pod's own, not the network's.
	Annotated  bool `json:"annotated,omitempty"`
	PoolsNoted bool `json:"poolsNoted,omitempty"`
	// MAC is asked for the pod's end, as aa:bb:cc:dd:ee:ff; "" means any.
	MAC string `json:"mac,omitempty"`
	// MTU is asked for the pair in bytes; 0 means the agent's choice.
	MTU int `json:"mtu,omitempty"`
	// NodeName is the node the configuration was written for; "" means any.
	NodeName string `json:"nodeName,omitempty"`
}

// ServedFile is the name of an empty file beside the agent's socket: since the
// boot, an agent of this node was ready to serve pods.
const ServedFile = "served"

// AddResult is what an attachment looks like when it is done. A repeated Add
// answers the first one's.
type AddResult struct {
	HostIf  string `json:"hostIf"`            // the host's end, cali…
	HostMAC string `json:"hostMAC,omitempty"` // ee:ee:ee:ee:ee:ee
	MAC     string `json:"mac"`               // of the pod's end
	MTU     int    `json:"mtu"`               // bytes, both ends
	// Addresses of the pod's end, /32.
	Addresses []netip.Prefix `json:"addresses"`
	// Routes to report to the runtime; may be empty.
	Routes []Route `json:"routes,omitempty"`
}

// Route is one route inside the pod.
type Route struct {
	Dst netip.Prefix `json:"dst"`
	Via netip.Addr   `json:"via,omitzero"` // zero: on the link
}

// DelRequest asks to detach a container. That it was never attached is no
// error.
type DelRequest struct {
	ID
	Network   string `json:"network"`
	NetNSPath string `json:"netns,omitempty"` // for the record; often empty or stale
}

// CheckRequest asks whether what an Add made still stands.
type CheckRequest struct {
	ID
	Network   string   `json:"network"`
	NetNSPath string   `json:"netns"` // for the record
	NetNS     *os.File `json:"-"`     // as an AddRequest's
	// Prev is what the runtime was told, by us and by plugins after us.
	Prev Prev `json:"prev"`
}

// Prev is a runtime's prevResult as far as Check compares it.
type Prev struct {
	Interfaces []PrevInterface `json:"interfaces,omitempty"`
	Addresses  []netip.Prefix  `json:"addresses,omitempty"`
}

// PrevInterface is one interface of a prevResult.
type PrevInterface struct {
	Name  string `json:"name"`
	MAC   string `json:"mac,omitempty"`   // "" when it was not told
	MTU   int    `json:"mtu,omitempty"`   // bytes; 0 when it was not told
	InPod bool   `json:"inPod,omitempty"` // it has a sandbox
}

// GCRequest asks to detach every attachment of Network but those in Valid.
type GCRequest struct {
	Network string `json:"network"`
	Valid   []ID   `json:"valid"`
}

// StatusRequest asks whether an Add would succeed.
type StatusRequest struct {
	Network string `json:"network"`
}

// Request is one frame from plugin to agent: exactly one of Add, Del, Check,
// GC and Status is set.
type Request struct {
	V int `json:"v"`
	// Deadline is when the plugin gives up, in nanoseconds of
	// CLOCK_MONOTONIC, which plugin and agent share. A request read after it
	// is dropped.
	Deadline int64          `json:"deadline"`
	Add      *AddRequest    `json:"add,omitempty"`
	Del      *DelRequest    `json:"del,omitempty"`
	Check    *CheckRequest  `json:"check,omitempty"`
	GC       *GCRequest     `json:"gc,omitempty"`
	Status   *StatusRequest `json:"status,omitempty"`
}

// Answer is one frame from agent to plugin: Error, or Add for an Add, or
// neither.
type Answer struct {
	V     int        `json:"v"`
	Add   *AddResult `json:"add,omitempty"`
	Error *Error     `json:"error,omitempty"`
}

// ID is the attachment the request is about; the zero ID for a GC or Status.
func (r Request) ID() ID {
	switch {
	case r.Add != nil:
		return r.Add.ID
	case r.Del != nil:
		return r.Del.ID
	case r.Check != nil:
		return r.Check.ID
	}
	return ID{}
}

// NetNS is where the request's open network namespace belongs, with its path
// as the runtime spelled it; nil if the request takes none.
func (r Request) NetNS() (place **os.File, path string) {
	switch {
	case r.Add != nil:
		return &r.Add.NetNS, r.Add.NetNSPath
	case r.Check != nil:
		return &r.Check.NetNS, r.Check.NetNSPath
	}
	return nil, ""
}

// Verb is the request's CNI command: "ADD", "DEL", "CHECK", "GC", "STATUS", or
// "" for none.
func (r Request) Verb() string {
	switch {
	case r.Add != nil:
		return "ADD"
	case r.Del != nil:
		return "DEL"
	case r.Check != nil:
		return "CHECK"
	case r.GC != nil:
		return "GC"
	case r.Status != nil:
		return "STATUS"
	}
	return ""
}
