// SPDX-License-Identifier: Apache-2.0

// Package speaker holds what a BGP speaker has, wanted or seen, as plain
// values. core makes a Config, package bgp makes it so and reports Status.
package speaker

import (
	"net/netip"
	"time"
)

// ASN is an autonomous system number of four bytes (RFC 6793).
type ASN uint32

// PeerKind says where a peer comes from.
type PeerKind string

// Peer kinds, in calicoctl's words.
const (
	Mesh   PeerKind = "mesh"   // another node of the node-to-node mesh
	Global PeerKind = "global" // a BGPPeer for all nodes
	ByNode PeerKind = "node"   // a BGPPeer for this node or a selection
)

// Timers defaults. Hold is long on purpose: a frozen agent must outlive it,
// failures are found by links and BFD (docs/design.md).
const (
	DefaultHold        = 90 * time.Second
	DefaultKeepalive   = 10 * time.Second
	DefaultRestartTime = 120 * time.Second
	DefaultPort        = 179
)

// DefaultPrefixLimit is what one peer may announce where nothing else is said:
// far beyond any cluster, and near 100 MB of memory.
const DefaultPrefixLimit = 500_000

// Config is everything a speaker should do. A Config is replaced whole and
// applied without touching sessions whose Peer did not change.
type Config struct {
	AS       ASN
	RouterID netip.Addr     // IPv4
	Listen   netip.AddrPort // address sessions are accepted on; port 0 means do not listen
	Peers    []Peer         // sorted by Addr, no address twice
	// Advertise are the prefixes originated here, sorted, no prefix twice.
	Advertise []Advertisement
	// Complete says that Advertise is the full set of local prefixes: until
	// then no End-of-RIB is sent (RFC 4724 section 4.1).
	Complete bool
}

// Peer is one configured neighbour.
type Peer struct {
	Addr        netip.Addr
	Port        uint16 // 0 means 179
	AS          ASN
	Name        string // node or resource name, for people
	Kind        PeerKind
	LocalAddr   netip.Addr // source address of our connections
	Password    string     `json:"-"` // TCP MD5 key (RFC 2385), "" for none; never printed
	Passive     bool       // do not dial
	Hold        time.Duration
	Keepalive   time.Duration
	RestartTime time.Duration // advertised graceful restart time; 0 turns graceful restart off
	// PrefixLimit is how many prefixes it may announce: the session ends with
	// a Cease beyond it (RFC 4486); 0 means DefaultPrefixLimit.
	PrefixLimit int
}

// Advertisement is one prefix we originate.
type Advertisement struct {
	Prefix    netip.Prefix
	NextHop   netip.Addr
	LocalPref uint32 // 0 means 100
}

// SessionState is the state of RFC 4271 section 8.2.2.
type SessionState string

// Session states.
const (
	Idle        SessionState = "Idle"
	Connect     SessionState = "Connect"
	Active      SessionState = "Active"
	OpenSent    SessionState = "OpenSent"
	OpenConfirm SessionState = "OpenConfirm"
	Established SessionState = "Established"
)

// Session is what is known of one peer's session.
type Session struct {
	Peer     netip.Addr   `json:"peer"`
	Name     string       `json:"name,omitempty"`
	Kind     PeerKind     `json:"type"`
	AS       ASN          `json:"as"`
	State    SessionState `json:"state"`
	Since    time.Time    `json:"since"`
	RouterID netip.Addr   `json:"routerID,omitzero"`
	Received int          `json:"received"`         // prefixes in Adj-RIB-In
	Sent     int          `json:"sent"`             // prefixes in Adj-RIB-Out
	Stale    bool         `json:"stale,omitempty"`  // routes kept while the peer restarts (RFC 4724)
	Reason   string       `json:"reason,omitempty"` // why the session is not Established, or why it last fell
	Hold     float64      `json:"holdSeconds,omitempty"`
	MD5      bool         `json:"md5,omitempty"`
	Flaps    int          `json:"flaps"`
	// MessagesReceived and MessagesSent count whole BGP messages since the
	// agent started.
	MessagesReceived uint64 `json:"messagesReceived,omitempty"`
	MessagesSent     uint64 `json:"messagesSent,omitempty"`
}

// Path is one learned route as the best-path process sees it.
type Path struct {
	Prefix    netip.Prefix `json:"prefix"`
	NextHop   netip.Addr   `json:"nextHop"`
	From      netip.Addr   `json:"from"` // the peer it was learned from; zero for our own
	FromName  string       `json:"fromName,omitempty"`
	LocalPref uint32       `json:"localPref"`
	MED       uint32       `json:"med,omitempty"`
	ASPath    []ASN        `json:"asPath,omitempty"`
	Origin    string       `json:"origin"` // IGP, EGP, incomplete
	Stale     bool         `json:"stale,omitempty"`
	Best      bool         `json:"best"`
	Why       string       `json:"why,omitempty"` // what decided for or against it
}
