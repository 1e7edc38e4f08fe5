// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"time"

	"github.com/ocicat-net/ocicat/internal/bgp/session"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// What the fields of an OPEN can hold.
const (
	minHold    = 3 * time.Second // but 0
	maxHold    = 0xffff * time.Second
	maxRestart = 0xfff * time.Second
)

// peerConfig is what concerns one peer in a speaker.Config.
type peerConfig struct {
	peer    speaker.Peer
	session session.Config
	invalid error // why the peer cannot be served as configured
}

// newPeerConfig is what concerns p in cfg.
func newPeerConfig(cfg speaker.Config, p speaker.Peer) peerConfig {
	return peerConfig{
		peer: p,
		session: session.Config{
			LocalAS:     cfg.AS,
			RouterID:    cfg.RouterID,
			PeerAS:      p.AS,
			Hold:        p.Hold,
			Keepalive:   p.Keepalive,
			RestartTime: p.RestartTime,
			Passive:     p.Passive,
		},
		invalid: checkPeer(cfg, p),
	}
}

// checkPeer says why p cannot be served, nil when it can.
func checkPeer(cfg speaker.Config, p speaker.Peer) error {
	hint := "Correct the BGPPeer or the node's BGP settings."
	switch {
	case !p.Addr.Is4():
		return fault.Hint(fault.New(fault.Invalid, "peer address %v is not IPv4", p.Addr), "%s", hint)
	case p.LocalAddr.IsValid() && !p.LocalAddr.Is4():
		return fault.Hint(fault.New(fault.Invalid, "local address %v is not IPv4", p.LocalAddr), "%s", hint)
	case !cfg.RouterID.Is4() || cfg.RouterID.IsUnspecified():
		return fault.Hint(fault.New(fault.Invalid, "router ID %v is not an IPv4 address", cfg.RouterID), "%s", hint)
	case cfg.AS == 0 || p.AS == 0:
		return fault.Hint(fault.New(fault.Invalid, "AS number is 0"), "%s", hint)
	case p.Hold != 0 && (p.Hold < minHold || p.Hold > maxHold):
		return fault.Hint(fault.New(fault.Invalid, "hold time %v is neither 0 nor between %v and %v", p.Hold, minHold, maxHold), "%s", hint)
	case p.RestartTime < 0 || p.RestartTime > maxRestart:
		return fault.Hint(fault.New(fault.Invalid, "restart time %v is not between 0 and %v", p.RestartTime, maxRestart), "%s", hint)
	}
	return checkPassword(p.Password)
}
