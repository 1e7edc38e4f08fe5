// SPDX-License-Identifier: Apache-2.0

// Package bgp is the speaker: it holds the sessions a speaker.Config asks for,
// originates its prefixes and reports what the peers announce. It drives the
// state machines of package session with sockets and time, and feeds table.
//
// # Who waits for whom
//
// Every peer has one goroutine that owns its state machine, and per connection
// a reader and a writer. The writer alone writes to the socket; it sends
// keepalives by its own timer and takes no lock while it does, so neither the
// table nor another peer's slowness can make a peer believe us dead. The timers
// of all peers run out together (see beats), and a KEEPALIVE of an established
// session wakes up the reader only: an idle node sleeps most of the time. Nothing
// that other goroutines call waits for a peer's goroutine: configuration and
// accepted connections are left in a slot it looks into. A panic in any of the
// three ends this peer's session and quarantines the peer, nothing else.
//
// # How it ends
//
// When Run's context ends, all connections are closed without a word: peers
// that restart gracefully keep our routes, and packets flow on. Shutdown is for
// leaving for good: it tells the peers, who then drop our routes.
package bgp
