// SPDX-License-Identifier: Apache-2.0

package session

import (
	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// collision tells the peer that one of two connections had to go. It is never
// changed.
var collision = &message.Notification{Code: message.Cease, Subcode: message.CollisionResolution}

// collide decides between c, on which a valid OPEN has just come, and the
// other connection, if there is one (RFC 4271 section 6.8). It reports whether
// c may go on; the loser is closed.
//
// Both ends must come to the same answer although they see the messages in
// different order. The connection that the end with the higher identifier
// dialled wins. That end decides as soon as it can, for it knows that its own
// connection stands, and so never confirms the other. The lower end
// waits for an OPEN on both: the higher one may have dropped its dial.
//
// A newcomer beside an Established session may be the peer come back while the
// old connection still looks alive: after a crash of its host nothing has told
// us of it. So it goes on beside it, as RFC 4724 section 4.2 demands for peers
// that restart gracefully and RFC 4271 allows for all, and replaces the session
// when the peer has confirmed it (gotConfirmation). That a peer never does for
// the loser of a collision, so no session falls to a late one of those.
func (f *FSM) collide(c *conn) bool {
	other := f.other(c)
	if other == nil {
		return true
	}
	switch {
	case other.state == speaker.Established:
		return true
	case other.state == speaker.OpenConfirm, f.higher(c.params) && other.dialled && !f.unanswered:
		if f.higher(c.params) == c.dialled {
			f.loses(other)
			return true
		}
		return f.loses(c)
	}
	return true
}

// loses closes c as the loser of a collision; it is always false.
func (f *FSM) loses(c *conn) bool {
	f.do(Send{Conn: c.id, Msg: collision})
	f.forget(c)
	return false
}

// other is the connection beside c, nil when there is none.
func (f *FSM) other(c *conn) *conn {
	for _, o := range f.conns {
		if o != c {
			return o
		}
	}
	return nil
}

// higher says whether our BGP identifier is higher than the peer's; of equal
// ones, possible between different AS, the AS decides (RFC 6286 section 2.3).
func (f *FSM) higher(peer Params) bool {
	if d := f.cfg.RouterID.Compare(peer.RouterID); d != 0 {
		return d > 0
	}
	return f.cfg.LocalAS > peer.AS
}
