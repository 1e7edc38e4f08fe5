// SPDX-License-Identifier: Apache-2.0

package session

import (
	"fmt"
	"time"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
)

// openMessage is our OPEN.
func (f *FSM) openMessage() *message.Open {
	open := &message.Open{
		AS:       f.cfg.LocalAS,
		HoldTime: uint16(f.cfg.Hold / time.Second),
		RouterID: f.cfg.RouterID,
	}
	if f.plain {
		return open
	}
	open.Capabilities = message.Capabilities{
		Families:     []message.Family{message.IPv4Unicast},
		RouteRefresh: true,
		AS4:          true,
		Restart:      f.restartCapability(),
	}
	return open
}

// restartCapability announces our graceful restart, nil when it is off. After
// a boot nothing was kept; that the F bit is set again in the OPENs that
// follow a session of ours says that no loss of a connection harms forwarding.
func (f *FSM) restartCapability() *message.GracefulRestart {
	if f.cfg.RestartTime == 0 {
		return nil
	}
	return &message.GracefulRestart{
		Restarting:   f.restarting,
		Notification: true,
		Time:         uint16(f.cfg.RestartTime / time.Second),
		Families: []message.RestartFamily{{
			Family:     message.IPv4Unicast,
			Forwarding: f.verified && (f.restarting || f.wasUp),
		}},
	}
}

// negotiate judges the peer's OPEN against the configuration and ours (RFC
// 4271 section 6.2): the session's parameters, or the refusal to send.
func (f *FSM) negotiate(o *message.Open) (Params, *message.Notification) {
	internal := f.cfg.PeerAS == f.cfg.LocalAS
	switch {
	case o.AS != f.cfg.PeerAS:
		return Params{}, openError(message.BadPeerAS, "its OPEN says AS %d, configured is AS %d", o.AS, f.cfg.PeerAS)
	case internal && o.RouterID == f.cfg.RouterID:
		return Params{}, openError(message.BadIdentifier, "its BGP identifier %v is ours, too", o.RouterID)
	case !o.Capabilities.HasFamily(message.IPv4Unicast):
		return Params{}, openError(message.UnsupportedCapability, "it does not speak IPv4 unicast")
	}
	p := Params{
		RouterID:     o.RouterID,
		AS:           o.AS,
		Hold:         min(f.cfg.Hold, time.Duration(o.HoldTime)*time.Second),
		RouteRefresh: o.Capabilities.RouteRefresh && !f.plain,
		Message:      message.Options{AS4: o.Capabilities.AS4 && !f.plain, Internal: internal},
		Restart:      f.peerRestart(o.Capabilities.Restart),
	}
	if p.Hold > 0 {
		p.Keepalive = min(f.cfg.Keepalive, p.Hold/3)
		if p.Keepalive <= 0 {
			p.Keepalive = p.Hold / 3
		}
	}
	return p, nil
}

func openError(s message.Subcode, format string, args ...any) *message.Notification {
	return &message.Notification{Code: message.OpenError, Subcode: s, Detail: fmt.Sprintf(format, args...)}
}

// peerRestart is what both ends' capabilities come to.
func (f *FSM) peerRestart(g *message.GracefulRestart) Restart {
	forwarding, kept := g.Kept(message.IPv4Unicast)
	if !kept || f.cfg.RestartTime == 0 || f.plain {
		return Restart{}
	}
	return Restart{
		Time:         time.Duration(g.Time) * time.Second,
		Forwarding:   forwarding,
		Notification: g.Notification,
	}
}
