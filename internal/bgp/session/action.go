// SPDX-License-Identifier: Apache-2.0

package session

import (
	"net/netip"
	"time"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// Action is what the driver has to do: one of the types below.
type Action interface{ action() }

type (
	// Dial opens a TCP connection to the peer; Dialed or DialFailed answers.
	Dial struct{}

	// CancelDial takes the last Dial back; nothing answers it any more.
	CancelDial struct{}

	// Send writes a message to Conn, after what was sent to it before.
	Send struct {
		Conn ConnID
		Msg  message.Message
	}

	// Keepalives sends a KEEPALIVE on Conn every so often (with jitter, RFC
	// 4271 section 10) until it closes. It comes at most once for a Conn.
	Keepalives struct {
		Conn  ConnID
		Every time.Duration
	}

	// Close ends Conn after what was sent to it. Nothing about Conn needs to
	// be reported afterwards.
	Close struct{ Conn ConnID }

	// Up says that the session is Established on Params.Conn: advertise.
	Up struct{ Params Params }

	// Down says that the established session on Conn is over. Its routes are
	// to be kept as stale or dropped; those already stale go either way (RFC
	// 4724 section 4.2).
	Down struct {
		Conn      ConnID
		KeepStale bool
		Reason    string
	}

	// DropStale removes the routes that are still stale.
	DropStale struct{}

	// Learn hands an UPDATE of the established session to the table.
	Learn struct{ Update *message.Update }

	// Readvertise answers the peer's ROUTE-REFRESH: send all routes again.
	Readvertise struct{ Conn ConnID }

	// Synced says, once in the life of an FSM, that the peer has delivered
	// its first full set of routes.
	Synced struct{}
)

func (Dial) action()        {}
func (CancelDial) action()  {}
func (Send) action()        {}
func (Keepalives) action()  {}
func (Close) action()       {}
func (Up) action()          {}
func (Down) action()        {}
func (DropStale) action()   {}
func (Learn) action()       {}
func (Readvertise) action() {}
func (Synced) action()      {}

// Params are what both ends agreed on.
type Params struct {
	Conn         ConnID
	RouterID     netip.Addr // the peer's BGP identifier
	AS           speaker.ASN
	Hold         time.Duration // 0: no hold timer
	Keepalive    time.Duration // 0: none are sent
	RouteRefresh bool
	Message      message.Options
	// Restart is how the peer restarts gracefully; the zero value means that
	// it does not, or that we do not.
	Restart Restart
}

// Restart is the peer's graceful restart capability as far as it concerns
// IPv4 unicast.
type Restart struct {
	Time         time.Duration // how long its routes may be kept; 0: not at all
	Forwarding   bool          // it kept forwarding (F)
	Notification bool          // both ends keep routes over NOTIFICATIONs, too (N, RFC 8538)
}
