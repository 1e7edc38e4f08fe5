// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/store"
)

// check wants the promises of the checker kept in s.
func (m *model) check(s state) {
	if !m.checked[s.world] {
		m.checked[s.world] = true
		m.problems = append(m.problems, m.checker(s).problems...)
	}
	for at, handle := range m.handles {
		for _, addr := range m.tells[s.told[at]] {
			if got := m.holder(s, addr); got != handle {
				m.say("%s was taken from %s, which was told to hold it, and is held by %q", addr, handle, got)
			}
		}
	}
}

// checker is a checker that has seen the world of s.
func (m *model) checker(s state) *checker {
	c := newChecker(newWorld())
	for _, kind := range []store.Kind{store.Handle, store.Block, store.Affinity} {
		for k, key := range m.keys {
			if key.Kind == kind && s.world[k] != 0 {
				c.applied(key, m.values[s.world[k]])
			}
		}
	}
	return c
}

// holder is the handle that holds an address.
func (m *model) holder(s state, addr netip.Addr) string {
	for k, key := range m.keys {
		if key.Kind != store.Block || s.world[k] == 0 {
			continue
		}
		n := s.world[k]
		if m.facts[n] == nil {
			b, err := alloc.ParseBlock(m.values[n])
			if err != nil {
				m.say("%s: %v", key, err)
				return ""
			}
			m.facts[n] = factsOf(b)
		}
		if f := m.facts[n]; f.cidr.Contains(addr) {
			return f.held[addr]
		}
	}
	return ""
}

// hear takes in what clients were told.
func (m *model) hear(s *state, events []event) {
	for _, e := range events {
		at := m.handle(e.handle)
		if e.leaves {
			s.told[at] = 0
			continue
		}
		for _, addr := range e.addrs {
			for other, handle := range m.handles {
				if slices.Contains(m.tells[s.told[other]], addr) {
					m.say("%s was given to %s and to %s", addr, handle, e.handle)
				}
			}
			if got := m.holder(*s, addr); got != e.handle {
				m.say("%s was given to %s, the datastore says %q", addr, e.handle, got)
			}
		}
		all := slices.Concat(m.tells[s.told[at]], e.addrs)
		n := slices.IndexFunc(m.tells, func(known []netip.Addr) bool { return slices.Equal(known, all) })
		if n < 0 {
			n, m.tells = len(m.tells), append(m.tells, all)
		}
		s.told[at] = uint16(n)
	}
}

func (m *model) handle(name string) int {
	at := slices.Index(m.handles, name)
	if at < 0 {
		at, m.handles = len(m.handles), append(m.handles, name)
	}
	return at
}

// end checks the end of a way: no claim is left half-way, and everything can
// be released.
func (m *model) end(s state) {
	if m.ended[s.world] {
		return
	}
	m.ended[s.world] = true
	c := m.checker(s)
	for block, f := range c.blocks {
		if f.owner != "" && !c.claims[block][f.owner] {
			m.say("block %s is %s's, without a confirmed affinity", block, f.owner)
		}
	}
	w := newWorld()
	w.applied = c.applied
	for k, key := range m.keys {
		if s.world[k] == 0 {
			continue
		}
		value := m.values[s.world[k]]
		if key.Kind == store.Affinity && !strings.Contains(string(value), `"confirmed"`) {
			m.say("%s is left as %s", key, value)
		}
		w.writes[key] = 1
		w.entries[key] = store.Entry{Key: key, Value: value, Revision: 1}
	}
	last := newActor("last", m.pool, true, m.commits, nil, func(a *actor) {
		for _, key := range m.keys {
			if key.Kind == store.Handle {
				_ = a.client.ReleaseByHandle(a.ctx, key.Name)
			}
		}
		for _, node := range m.nodes {
			_ = a.client.RemoveHost(a.ctx, node)
		}
	})
	for last.pending != nil {
		last.answer(w.do(last.pending))
	}
	if len(w.entries) > 0 {
		c.say("leaked: %s", c.rest(w))
	}
	m.problems = append(m.problems, c.problems...)
}

// show is what the datastore says, for people.
func (m *model) show(s state) string {
	var all []string
	for k, key := range m.keys {
		if s.world[k] != 0 {
			all = append(all, fmt.Sprintf("%s is %.70s", key, m.values[s.world[k]]))
		}
	}
	return strings.Join(all, "; ")
}
