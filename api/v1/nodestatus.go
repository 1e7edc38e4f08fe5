// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"time"

	"github.com/ocicat-net/ocicat/api/meta"
)

// KindNodeStatus is the kind of a NodeStatus.
const KindNodeStatus = "NodeStatus"

// The conditions of a NodeStatus.
const (
	// ConditionReady says that the node can take pods.
	ConditionReady = "Ready"
	// ConditionSessions says that every BGP session is Established.
	ConditionSessions = "SessionsEstablished"
	// ConditionPools says that no pool for this node is unusable and that there
	// is one.
	ConditionPools = "PoolsUsable"
	// ConditionBlocks says that pods get addresses from blocks.
	ConditionBlocks = "BlocksAvailable"
)

// NodeStatus is what the agent of one node reports, under the node's name. Only
// agents write it: at once when a problem appears or goes, else once a minute.
type NodeStatus struct {
	meta.Type
	// Metadata names the node.
	Metadata meta.Object `json:"metadata"`
	// Status is the report.
	Status NodeReport `json:"status"`
}

// NodeReport is what an agent knows of its node.
type NodeReport struct {
	// Heartbeat is when the report was written, in UTC.
	Heartbeat time.Time `json:"heartbeat"`
	// Agent says which program runs there.
	Agent AgentInfo `json:"agent"`
	// Address is the node's BGP address with the length of its network.
	Address string `json:"address,omitempty"`
	// AS is the node's AS number.
	AS uint32 `json:"as,omitempty"`
	// Uplink is the interface that carries the address.
	Uplink string `json:"uplink,omitempty"`
	// AddressChoice says why the node has its address.
	AddressChoice AddressChoice `json:"addressChoice,omitzero"`
	// Store is empty while the datastore answers, else why it does not.
	Store string `json:"store,omitempty"`
	// Mode says how packets reach other nodes: BGP.
	Mode string `json:"mode,omitempty"`
	// Mesh says whether the node-to-node mesh is on.
	Mesh bool `json:"mesh"`
	// Ready says that the node can take pods: every feed is complete and the
	// last reconciliation left no error.
	Ready bool `json:"ready"`
	// Conditions sum the report up: Ready, SessionsEstablished, PoolsUsable and
	// BlocksAvailable, always in this order.
	Conditions []meta.Condition `json:"conditions,omitempty"`
	// Blocks are the node's IPAM blocks, sorted.
	Blocks []string `json:"blocks,omitempty"`
	// Sessions are the node's BGP sessions, sorted by peer.
	Sessions []Session `json:"sessions,omitempty"`
	// Counts sums up the rest.
	Counts Counts `json:"counts"`
	// Problems are what is wrong on the node, sorted by code.
	Problems []Problem `json:"problems,omitempty"`
	// AppliedEnvironment holds the variables of the pools the agent last
	// started with: one is written to a pool again only if it changed.
	AppliedEnvironment map[string]string `json:"appliedEnvironment,omitempty"`
}

// AddressChoice is how a node's address was chosen.
type AddressChoice struct {
	// Why is what decided, in a line.
	Why string `json:"why,omitempty"`
	// Candidates are the machine's addresses, the best first.
	Candidates []AddressCandidate `json:"candidates,omitempty"`
}

// AddressCandidate is an address of the machine.
type AddressCandidate struct {
	// Address has the length of its network.
	Address string `json:"address"`
	// Device carries it.
	Device string `json:"device"`
	// Score orders the candidates; 0 for one left out.
	Score int `json:"score"`
	// LeftOut says that only an explicit setting can choose it.
	LeftOut bool `json:"leftOut,omitempty"`
	// Chosen says that it is the node's address.
	Chosen bool `json:"chosen,omitempty"`
	// Reason is what speaks for and against it.
	Reason string `json:"reason"`
}

// AgentInfo says which program runs on a node.
type AgentInfo struct {
	// Version is the agent's version.
	Version string `json:"version"`
	// Commit is the source it was built from.
	Commit string `json:"commit,omitempty"`
	// Started is when it started, in UTC.
	Started time.Time `json:"started,omitzero"`
	// MemoryBytes is its resident memory.
	MemoryBytes uint64 `json:"memoryBytes,omitempty"`
	// Instance is the UID of the machine's installation.
	Instance string `json:"instance,omitempty"`
	// BootID is the kernel's boot id.
	BootID string `json:"bootID,omitempty"`
	// Kernel is the kernel's release.
	Kernel string `json:"kernel,omitempty"`
}

// Counts are a node's totals.
type Counts struct {
	// Pods is the number of attached pods.
	Pods int `json:"pods"`
	// RoutesWanted is the number of routes to other nodes that should stand in
	// the kernel.
	RoutesWanted int `json:"routesWanted"`
	// RoutesInstalled is how many of them do.
	RoutesInstalled int `json:"routesInstalled"`
	// Drift is the number of differences between wanted and observed kernel
	// state that are not yet repaired.
	Drift int `json:"drift"`
	// ReserveHeld is the number of addresses held ready.
	ReserveHeld int `json:"reserveHeld"`
	// ReserveLeaseSeconds is how long they may still be given without a
	// heartbeat reaching the datastore.
	ReserveLeaseSeconds float64 `json:"reserveLeaseSeconds"`
	// WritesPending is the number of addresses whose holder the datastore does
	// not know yet.
	WritesPending int `json:"writesPending"`
}

// Session is one BGP session as its node sees it.
type Session struct {
	// Peer is the peer's address.
	Peer string `json:"peer"`
	// Name is the node or BGPPeer behind it.
	Name string `json:"name,omitempty"`
	// Type is mesh, global or node.
	Type string `json:"type"`
	// AS is the peer's AS number.
	AS uint32 `json:"as"`
	// State is the state of RFC 4271, as Established.
	State string `json:"state"`
	// Since is when it entered that state, in UTC.
	Since time.Time `json:"since,omitzero"`
	// Received counts prefixes learned from the peer.
	Received int `json:"received"`
	// Sent counts prefixes announced to it.
	Sent int `json:"sent"`
	// Stale says that its routes are kept while it restarts.
	Stale bool `json:"stale,omitempty"`
	// Reason says why the session is not Established, or why it last fell.
	Reason string `json:"reason,omitempty"`
	// RouterID is the peer's BGP identifier.
	RouterID string `json:"routerID,omitempty"`
	// HoldSeconds is the negotiated hold time.
	HoldSeconds float64 `json:"holdSeconds,omitempty"`
	// MD5 says that the session is signed.
	MD5 bool `json:"md5,omitempty"`
	// Flaps counts how often the session fell.
	Flaps int `json:"flaps"`
}

// Problem is one thing that is wrong on a node; docs/troubleshooting.md lists
// the codes.
type Problem struct {
	// Code is stable, as OC1001.
	Code string `json:"code"`
	// Object is what it is about.
	Object string `json:"object,omitempty"`
	// Text says what happened.
	Text string `json:"text"`
	// Remedy says what to do.
	Remedy string `json:"remedy,omitempty"`
}

// TypeMeta returns the object's kind and version.
func (n *NodeStatus) TypeMeta() *meta.Type { return &n.Type }

// ObjectMeta returns the object's name and labels.
func (n *NodeStatus) ObjectMeta() *meta.Object { return &n.Metadata }

// SetDefaults does nothing: a report has no defaults.
func (n *NodeStatus) SetDefaults() {}

// Selectors lists the fields that hold selectors: none.
func (n *NodeStatus) Selectors() []meta.Field { return nil }

// Validate reports what is wrong with the report on its own.
func (n *NodeStatus) Validate() []meta.Finding {
	return meta.CheckNodeName("metadata.name", n.Metadata.Name)
}

// Stale says that the report is too old at now to speak for the present.
func (n *NodeStatus) Stale(now time.Time) bool { return now.Sub(n.Status.Heartbeat) > StaleAfter }
