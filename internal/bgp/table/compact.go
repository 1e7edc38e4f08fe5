// SPDX-License-Identifier: Apache-2.0

package table

import (
	"fmt"
	"net/netip"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
)

// Backlog is what a cursor skipped: the prefixes its peer was to be told of,
// whatever it was to be told.
type Backlog struct {
	options  message.Options
	prefixes map[netip.Prefix]bool
	endOfRIB bool
}

// NewBacklog is what a peer with Export e has skipped: nothing yet.
func NewBacklog(e Export) *Backlog {
	return &Backlog{options: message.Options{AS4: e.AS4, Internal: e.Internal}, prefixes: make(map[netip.Prefix]bool)}
}

// Skip passes over all there is to read and notes in b what it was about. It
// belongs to the goroutine that reads.
func (c *Cursor) Skip(b *Backlog) error {
	for {
		messages, ok := c.Next(nil)
		if !ok {
			return nil
		}
		for _, m := range messages {
			if err := b.note(m); err != nil {
				return fmt.Errorf("skip backlog: %w", err)
			}
		}
	}
}

// note takes down the prefixes of one message of ours.
func (b *Backlog) note(m []byte) error {
	decoded, err := message.Decode(message.TypeUpdate, m[message.HeaderLen:], b.options)
	if err != nil {
		return err
	}
	u := decoded.(*message.Update)
	b.endOfRIB = b.endOfRIB || u.EndOfRIB
	for _, p := range u.NLRI {
		b.prefixes[p] = true
	}
	for _, p := range u.Withdrawn {
		b.prefixes[p] = true
	}
	return nil
}

// Resume lets c, which has skipped b, go on with what is true now of the
// prefixes of b: each is told once, however often it changed. It reads what is
// still between c and the present, so the caller must own both the table and
// c.
func (o *Out) Resume(c *Cursor, b *Backlog) error {
	if err := c.Skip(b); err != nil {
		return err
	}
	var now batch
	only := audience{only: c.peer}
	for prefix := range b.prefixes {
		if told, ok := o.offers[prefix]; ok && told.to.includes(c.peer) {
			now.announce(prefix, offer{wire: told.wire, to: only})
		} else {
			now.withdraw(prefix, only)
		}
	}
	first := now.segments()
	if b.endOfRIB {
		first = append(first, endOfRIB())
	}
	*c = *o.log.cursor(c.peer, first)
	return nil
}

// Resume is Out.Resume for a member of the group of e; for others it does
// nothing.
func (g *Groups) Resume(e Export, c *Cursor, b *Backlog) error {
	if in := g.outs[e]; in != nil {
		return in.out.Resume(c, b)
	}
	return nil
}
