// SPDX-License-Identifier: Apache-2.0

// Package session is the finite state machine of one BGP peer (RFC 4271
// section 8) with collision detection (6.8), capability negotiation (RFC
// 5492) and both roles of graceful restart (RFC 4724, RFC 8538).
//
// It is a pure step function: FSM.Step takes an Event and the time and
// returns Actions; there is no goroutine, clock or socket in here. Whoever
// drives it must
//
//   - call Step for one event at a time, and carry out the returned actions
//     in order before the next Step, which reuses their slice;
//   - send Tick when Deadline is reached (later does no harm, earlier neither);
//   - number connections itself (ConnID), never reusing a number, and ignore
//     what a connection still says after a Close for it;
//   - discard the result of a dial that CancelDial took back.
//
// Where this differs from the RFC's text, and why:
//
//   - One FSM holds all connections of a peer, so that a collision is decided
//     in one place, instead of one FSM per connection.
//   - There is no IdleHoldTimer: after a failure only our own dialling waits;
//     a peer that connects is always served. Two speakers started together
//     must not lose seconds to each other's penalty.
//   - The keepalive timer belongs to the driver (action Keepalives), because
//     keepalives must leave even while this FSM waits for the table.
//   - A hold timer that is found expired much too late tells of our own
//     freeze, not of the peer's silence: messages may wait in the socket, and
//     the peer gets lateGrace to be heard.
package session
