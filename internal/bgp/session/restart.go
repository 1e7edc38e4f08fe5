// SPDX-License-Identifier: Apache-2.0

package session

import (
	"time"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
)

// down takes the session of c down. Its routes are kept as stale for the
// restart time the peer announced, if it was lost in a way that allows it (RFC
// 4724 section 4.2, RFC 8538 section 4).
func (f *FSM) down(c *conn, e ending, now time.Time) {
	keep := e.loss && c.params.Restart.Time > 0
	f.staleUntil, f.syncedAt = time.Time{}, time.Time{}
	if keep {
		f.staleUntil = now.Add(c.params.Restart.Time)
	}
	f.why.lost(e.reason)
	f.do(Down{Conn: c.id, KeepStale: keep, Reason: e.reason})
}

// up brings the session of c up. Stale routes stay until End-of-RIB only if
// the peer says it kept forwarding by them.
func (f *FSM) up(c *conn, now time.Time) {
	if f.Stale() {
		if c.params.Restart.Forwarding {
			f.staleUntil = now.Add(eorWait)
		} else {
			f.dropStale()
		}
	}
	if !f.synced && c.params.Restart.Time == 0 {
		f.syncedAt = now.Add(syncGrace)
	}
	f.do(Up{Params: c.params})
}

// dropStale removes what is still stale.
func (f *FSM) dropStale() {
	if f.Stale() {
		f.staleUntil = time.Time{}
		f.do(DropStale{})
	}
}

// sync notes that the peer's first full set is here.
func (f *FSM) sync() {
	f.syncedAt = time.Time{}
	if !f.synced {
		f.synced = true
		f.do(Synced{})
	}
}

// lasting is n in the form that makes the peer drop our routes even where
// both ends keep them over notifications (RFC 8538 section 3).
func (f *FSM) lasting(c *conn, n *message.Notification) *message.Notification {
	if c.params.Restart.Notification {
		return message.Hard(n)
	}
	return n
}
