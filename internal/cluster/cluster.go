// SPDX-License-Identifier: Apache-2.0

// Package cluster is what one node knows, as immutable values: feed makes
// Snapshots from facts, core decides from them. Nothing here reads a clock, a
// file or a socket, and nothing changes a Snapshot after it was published.
package cluster

import (
	"fmt"
	"iter"
	"net/netip"
	"strings"

	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// NodeName is a node's name as the datastore spells it.
type NodeName string

// Node is one node of the cluster.
type Node struct {
	Name           NodeName
	Address        netip.Prefix // its BGP address with the mask of its network; invalid when unknown
	AS             speaker.ASN  // 0: the cluster's default
	RouteReflector string       // its cluster id when it is a route reflector, else ""
	Labels         map[string]string
}

// EncapMode says when a pool's traffic between nodes is tunnelled.
type EncapMode string

// Encapsulation modes, in Calico's words.
const (
	Never       EncapMode = "Never"
	Always      EncapMode = "Always"
	CrossSubnet EncapMode = "CrossSubnet"
)

// Pool is one IP pool.
type Pool struct {
	Name             string
	CIDR             netip.Prefix // masked
	BlockSize        int          // prefix length of a block
	IPIP, VXLAN      EncapMode
	NATOutgoing      bool
	Disabled         bool // no new addresses from it; its routes stay
	DisableBGPExport bool
	NodeSelector     string // nodes that may take addresses from it; "" is all
	// NamespaceSelector chooses the Kubernetes namespaces whose pods may; "" is
	// all.
	NamespaceSelector string
	AllowedUses       []string // "Workload", "Tunnel", …; empty means all
	Manual            bool     // assignmentMode Manual: only addresses asked for by name
	Unusable          string   // why this node takes no new addresses from it although it is enabled, "" if it does
}

// Block is one IPAM block this node has an affinity to.
type Block struct {
	CIDR      netip.Prefix `json:"cidr"`      // masked
	Confirmed bool         `json:"confirmed"` // the affinity is confirmed: announce it
}

// EndpointID names one attachment of a container to the network.
type EndpointID struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"` // inside the pod, mostly eth0
}

// String is container id and interface name joined by a slash, the form of
// link aliases.
func (id EndpointID) String() string { return id.ContainerID + "/" + id.IfName }

// ParseEndpointID reads what String wrote, as the alias of a link of ours has
// it; any other text is an error.
func ParseEndpointID(alias string) (EndpointID, error) {
	container, ifName, ok := strings.Cut(alias, "/")
	if !ok || container == "" || ifName == "" {
		return EndpointID{}, fmt.Errorf("alias %q is not of the form CONTAINER/INTERFACE", alias)
	}
	return EndpointID{ContainerID: container, IfName: ifName}, nil
}

// Endpoint is one attached pod or container of this node.
type Endpoint struct {
	ID        EndpointID `json:"id"`
	Namespace string     `json:"namespace,omitempty"` // Kubernetes namespace, "" outside Kubernetes
	Pod       string     `json:"pod,omitempty"`       // pod name, "" outside Kubernetes
	HostIf    string     `json:"hostIf"`              // cali…
	Addr      netip.Addr `json:"addr"`
	MAC       host.MAC   `json:"mac"` // of the pod's end
	MTU       int        `json:"mtu"`
}

// PeerSpec is one configured BGP peer that concerns this node, already
// selected and resolved.
type PeerSpec struct {
	Name     string
	Addr     netip.Addr
	Port     uint16
	AS       speaker.ASN
	Kind     speaker.PeerKind // Global or ByNode
	Password string           // resolved; never printed
}

// BGP is the cluster's BGP configuration.
type BGP struct {
	AS       speaker.ASN
	Mesh     bool
	Port     uint16
	RouterID netip.Addr // zero: the node's address
}

// LearnedRoute is the best path to one prefix as the speaker learned it.
type LearnedRoute struct {
	Prefix   netip.Prefix
	NextHop  netip.Addr
	From     netip.Addr
	FromName string
	External bool // learned by eBGP
}

// Learned is the speaker's table of best learned paths, entering a Snapshot
// by reference. It is immutable: another table is another value.
type Learned interface {
	All() iter.Seq[LearnedRoute] // in no particular order
	Len() int                    // how many All yields
}

// Device is a link of the host as far as deciding needs it.
type Device struct {
	Name  string
	Up    bool
	MTU   int
	Addrs []netip.Prefix
}

// Host is what was observed of this node's own network.
type Host struct {
	Uplink       string // the device that carries the node's address; "" when none does
	Devices      []Device
	DefaultRoute bool // an IPv4 default route exists
}

// Settings are the agent's own knobs that deciding needs.
type Settings struct {
	RouteProtocol   host.Protocol // protocol number of our routes
	EndpointMetric  uint32        // metric of the pods' /32 routes; 0 prints as the article's
	InterfacePrefix string        // "cali"
	PermGateway     bool          // permanent neighbour for 169.254.1.1 in pods
	Reserve         int           // addresses held ready for pods; 0 turns the reserve off
	PeerPrefixLimit int           // prefixes a BGP peer may announce; 0 means speaker.DefaultPrefixLimit
}

// Snapshot is everything a node knows at one moment.
type Snapshot struct {
	Self      NodeName
	Settings  Settings
	Nodes     map[NodeName]Node
	Pools     []Pool         // sorted by name
	Reserved  []netip.Prefix // what IPReservations keep from being assigned unasked, sorted
	Blocks    []Block        // own blocks, sorted by CIDR
	Endpoints map[EndpointID]Endpoint
	BGP       BGP
	Peers     []PeerSpec // sorted by name
	Learned   Learned    // nil before the speaker first reported
	// Unsynced are the configured peers whose first full set since this agent
	// started has not arrived; it is empty once the restart time is over.
	// Routes through them are kept until then.
	Unsynced map[netip.Addr]bool
	// Asked are the peers that the speaker knew when it said so: of others it is
	// not known whether they delivered. nil: nobody is waited for any more.
	Asked map[netip.Addr]bool
	// PastPools are the CIDRs of every pool this node ever saw: only routes
	// inside them can be ours.
	PastPools []netip.Prefix
	// HadNAT says that a pool has natOutgoing, or had since the agent started:
	// there may be connections whose source was translated.
	HadNAT bool
	Host   Host
	// StoreSynced says that every feed of the datastore (or its local copy)
	// has delivered a full set; nothing is deleted before.
	StoreSynced bool
	// BlocksSynced says that Blocks are all of them: before that nothing is
	// said about completeness to peers, and no block's route is deleted.
	BlocksSynced bool
	// EndpointsSynced says the journal was read: no endpoint is missing.
	EndpointsSynced bool
}

// Me is this node's own Node; the zero Node when it is not known yet.
func (s *Snapshot) Me() Node { return s.Nodes[s.Self] }
