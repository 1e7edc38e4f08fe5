// SPDX-License-Identifier: Apache-2.0

package session

import (
	"time"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
)

// ConnID numbers a TCP connection of one peer. The driver chooses it and
// never uses one twice.
type ConnID uint64

// Event is what can happen to a peer: one of the types below.
type Event interface{ event() }

type (
	// Start lets the peer be dialled and served.
	Start struct{}

	// Stop ends every connection until the next Start. With a Notification
	// the peer is told and its routes are dropped here; without one the
	// connections close silently and the peer's routes are kept as after a
	// loss.
	Stop struct {
		Notification *message.Notification
		Reason       string // for people
	}

	// Reset replaces the Config: connections end as with Stop, and the peer
	// is dialled again at once.
	Reset struct {
		Config       Config
		Notification *message.Notification
		Reason       string
	}

	// Forwarding says that the kernel's routes were verified: from now on
	// OPENs after a restart may claim that forwarding was kept (RFC 4724's F
	// bit).
	Forwarding struct{}

	// Loaded says that all our routes and End-of-RIB were sent on Conn: our
	// restart is over as far as this peer is concerned.
	Loaded struct{ Conn ConnID }

	// Dialed answers Dial: the TCP connection stands.
	Dialed struct{ Conn ConnID }

	// DialFailed answers Dial. Reason is for people and equal for equal
	// causes, which are counted; Hint may say what else to look at.
	DialFailed struct{ Reason, Hint string }

	// Accepted is a TCP connection the peer made to us.
	Accepted struct{ Conn ConnID }

	// Received is a well-formed message.
	Received struct {
		Conn ConnID
		Msg  message.Message
	}

	// Heard says that a KEEPALIVE came on Conn, which is Established. It may
	// tell that late and of the last one only, but before a Tick.
	Heard struct {
		Conn ConnID
		At   time.Time
	}

	// Malformed is a message that could not be decoded.
	Malformed struct {
		Conn ConnID
		Err  *message.Notification
	}

	// Refused ends the session by our own decision, as when the peer exceeds
	// its prefix limit. Neither end keeps routes.
	Refused struct {
		Conn ConnID
		Err  *message.Notification
	}

	// Lost says that the TCP connection is gone or can no longer be written.
	Lost struct {
		Conn   ConnID
		Reason string
	}

	// Tick says that Deadline may have passed.
	Tick struct{}
)

func (Start) event()      {}
func (Stop) event()       {}
func (Reset) event()      {}
func (Forwarding) event() {}
func (Loaded) event()     {}
func (Dialed) event()     {}
func (DialFailed) event() {}
func (Accepted) event()   {}
func (Received) event()   {}
func (Heard) event()      {}
func (Malformed) event()  {}
func (Refused) event()    {}
func (Lost) event()       {}
func (Tick) event()       {}
