// SPDX-License-Identifier: Apache-2.0

package table

import (
	"net/netip"
	"sync/atomic"
)

// log is what a group of peers is told, in order, as a linked list: whoever
// walks it keeps what is still to be read, the garbage collector frees the
// rest. The owner appends, any number of cursors read at the same time.
type log struct {
	tail *node // the newest, not filled yet
	end  *atomic.Uint64
}

// node is one step of a log. segments and next are written once, before filled
// is closed.
type node struct {
	filled   chan struct{}
	segments []segment
	next     *node
}

func newNode() *node { return &node{filled: make(chan struct{})} }

func newLog() log { return log{tail: newNode(), end: new(atomic.Uint64)} }

// append adds segments for all who read the log.
func (l *log) append(segments []segment) {
	l.end.Add(size(segments))
	n := l.tail
	n.segments, n.next = segments, newNode()
	l.tail = n.next
	close(n.filled)
}

// size is the bytes of all messages.
func size(segments []segment) uint64 {
	var n int
	for _, s := range segments {
		for _, m := range s.messages {
			n += len(m)
		}
	}
	return uint64(n)
}

// cursor reads first and then what is appended from here on.
func (l *log) cursor(peer netip.Addr, first []segment) *Cursor {
	begin := newNode()
	begin.segments, begin.next = first, l.tail
	close(begin.filled)
	return &Cursor{peer: peer, at: begin, end: l.end, read: l.end.Load() - size(first)}
}

// Cursor is one session's place in what its group is told. It belongs to the
// goroutine that writes to the peer; the group's owner may go on meanwhile.
type Cursor struct {
	peer netip.Addr
	at   *node
	end  *atomic.Uint64 // bytes appended to the log
	read uint64         // of them, those read; wraps around as end does
}

// Ready is closed when there is something to read.
func (c *Cursor) Ready() <-chan struct{} { return c.at.filled }

// Next appends to dst the messages of the next step that are for this peer,
// which may be none, and goes on; ok is false when nothing is there yet. The
// bytes are shared with other peers and must not be changed.
func (c *Cursor) Next(dst [][]byte) (messages [][]byte, ok bool) {
	select {
	case <-c.at.filled:
	default:
		return dst, false
	}
	for _, s := range c.at.segments {
		if s.to.includes(c.peer) {
			dst = append(dst, s.messages...)
		}
	}
	c.read += size(c.at.segments)
	c.at = c.at.next
	return dst, true
}

// Lag is how many bytes the group was told that this cursor has not read, also
// those for other peers: what a peer that does not read keeps in memory. Its
// session ends when that is too much (RFC 9687); it starts anew with a dump.
func (c *Cursor) Lag() uint64 { return c.end.Load() - c.read }
