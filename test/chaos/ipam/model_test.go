// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/store"
)

// Sizes of a state: objects that exist in a scenario, and clients.
const (
	maxKeys    = 16
	maxClients = 3
)

// state is everything that decides what can still happen. Revisions are not
// in it: of what a client read only matters whether it still is so.
type state struct {
	world   [maxKeys]uint16    // what each object says, 0 for one that does not exist
	at      [maxClients]uint32 // the points the clients are at
	current [maxClients]uint16 // which objects are as each client last read them, by bit
	told    [maxKeys]uint16    // by handle: the addresses its client was told to hold
	lost    uint8              // answers lost so far
}

// begin is what the clock of a model shows.
var begin = time.Unix(1_000_000_000, 0)

// point is where a client stands: its program up to here, and what it was
// answered since its present operation began. The same answers always lead to
// the same point, so each is found out once, by running the client.
type point struct {
	client    int
	operation int
	mine      map[string][]netip.Addr
	from      *point                  // of the same operation; nil at its begin
	answer    answer                  // the way from there
	reads     [maxKeys]store.Revision // how many versions of each object it saw: the last one's revision
	call      *call                   // nil at the end of the program
	races     int                     // comparisons it lost in this operation
	private   bool                    // only this client ever touches what call is about
	next      map[string]edge
}

// edge is the way from a point to the next.
type edge struct {
	to     uint32
	events []event
}

// model is a scenario and what was found out of it.
type model struct {
	scenario
	blind bool // the datastore compares nothing

	keys     []store.Key
	handles  []string // that are told to hold addresses
	values   [][]byte // what objects say, by number
	numbers  map[string]uint16
	tells    [][]netip.Addr
	points   []*point
	starts   map[string]uint32 // points at which an operation begins
	known    map[state]float64 // ways from a state to an end
	facts    map[uint16]*blockFacts
	checked  map[[maxKeys]uint16]bool
	ended    map[[maxKeys]uint16]bool
	limit    int
	cut      bool // there are more states than the limit
	problems []string
	path     []string
	answered []byte // scratch
}

// newModel plays the setup.
func newModel(s scenario) (*model, state) {
	m := &model{
		scenario: s, values: [][]byte{nil}, numbers: map[string]uint16{}, tells: [][]netip.Addr{nil},
		points: []*point{}, starts: map[string]uint32{}, known: map[state]float64{}, facts: map[uint16]*blockFacts{},
		checked: map[[maxKeys]uint16]bool{}, ended: map[[maxKeys]uint16]bool{},
	}
	w := newWorld()
	w.applied = func(store.Key, []byte) {}
	p := &play{scenario: s, who: "setup", mine: map[string][]netip.Addr{}}
	first := newActor(s.nodes[0], s.pool, true, s.commits, func() time.Time { return begin }, func(a *actor) {
		for _, o := range s.setup {
			if err := o.do(p, a); err != nil {
				m.say("setup: %v", err)
			}
		}
	})
	for first.pending != nil {
		first.answer(w.do(first.pending))
	}
	var s0 state
	for key, e := range w.entries {
		s0.world[m.key(key)] = m.number(key, e.Value)
	}
	m.hear(&s0, p.events)
	for i := range s.programs {
		to := m.start(i, 0, p.mine)
		s0.at[i] = to.to
		m.hear(&s0, to.events)
	}
	m.check(s0)
	return m, s0
}

func (m *model) say(format string, args ...any) {
	m.problems = append(m.problems, fmt.Sprintf(format, args...))
}

// key is the number of an object, from when it is first written.
func (m *model) key(key store.Key) uint8 {
	at := slices.Index(m.keys, key)
	if at < 0 {
		at = len(m.keys)
		m.keys = append(m.keys, key)
		if at >= maxKeys {
			panic("more objects than a state holds: " + key.String())
		}
	}
	return uint8(at)
}

// number is the number of what an object says. Without faults no client ever
// looks at sequence numbers, and they are left out.
func (m *model) number(key store.Key, value []byte) uint16 {
	if key.Kind == store.Block && m.faults == 0 {
		if b, err := alloc.ParseBlock(value); err == nil {
			b.Sequence = 0
			for at := range b.SequenceFor {
				b.SequenceFor[at] = 0
			}
			if value, err = b.Encode(); err != nil {
				m.say("%s: %v", key, err)
			}
		}
	}
	n, ok := m.numbers[string(value)]
	if !ok {
		n = uint16(len(m.values))
		if int(n) != len(m.values) {
			panic("more values than a state can tell apart")
		}
		m.numbers[string(value)], m.values = n, append(m.values, value)
	}
	return n
}

// start is the point at which a client begins an operation.
func (m *model) start(client, operation int, mine map[string][]netip.Addr) edge {
	p := &point{client: client, operation: operation, mine: mine}
	name := fmt.Sprint(client, operation, mine)
	to, known := m.starts[name]
	if operation >= len(m.programs[client]) {
		if !known {
			to = m.add(p)
			m.starts[name] = to
		}
		return edge{to: to}
	}
	events, after := m.run(p)
	if after != nil {
		panic("an operation that asks nothing")
	}
	if !known {
		to = m.add(p)
		m.starts[name] = to
	}
	return edge{to, events}
}

func (m *model) add(p *point) uint32 {
	p.next = map[string]edge{}
	p.private = m.faults == 0 && p.call != nil && m.isPrivate(p.client, p.call.key)
	m.points = append(m.points, p)
	return uint32(len(m.points) - 1)
}

// run carries the operation of p out up to the call after its answers, and
// returns what happened since the last of them. If the operation ended, after is
// what its client holds then.
func (m *model) run(p *point) (events []event, after map[string][]netip.Addr) {
	pl := &play{scenario: m.scenario, who: fmt.Sprint("c", p.client), mine: maps.Clone(p.mine)}
	asked := 0 // the clock goes on with each look at it: no two make the same block
	clock := func() time.Time {
		asked++
		return begin.Add(time.Duration(p.client + maxClients*(p.operation+8*asked)))
	}
	a := newActor(m.nodes[p.client], m.pool, true, m.commits, clock, func(a *actor) { _ = m.programs[p.client][p.operation].do(pl, a) })
	defer a.kill()
	var answers []answer
	for at := p; at.from != nil; at = at.from {
		answers = append(answers, at.answer)
	}
	for _, r := range slices.Backward(answers) {
		pl.events = nil
		a.answer(r)
	}
	events = slices.Clone(pl.events)
	if a.pending == nil {
		return events, pl.mine
	}
	c := *a.pending
	p.call = &c
	return events, nil
}

// follow is the edge from point p by an answer, which is name in short.
func (m *model) follow(p *point, name []byte, r answer, reads [maxKeys]store.Revision) edge {
	if e, ok := p.next[string(name)]; ok {
		return e
	}
	next := &point{client: p.client, operation: p.operation, mine: p.mine, from: p, answer: r, reads: reads, races: p.races}
	if r.err == errCompare {
		next.races++
	}
	var e edge
	events, after := m.run(next)
	if after == nil {
		e = edge{m.add(next), events}
	} else {
		e = m.start(p.client, p.operation+1, after)
		e.events = append(events, e.events...)
	}
	p.next[string(name)] = e
	return e
}

// isPrivate says whether only one client ever touches an object: its calls
// commute with all that others do.
func (m *model) isPrivate(client int, key store.Key) bool {
	switch key.Kind {
	case store.IPAMConfig:
		return true // nobody writes it
	case store.Handle:
		return strings.HasPrefix(key.Name, fmt.Sprint("c", client, "-"))
	case store.Affinity:
		node, _, _ := strings.Cut(key.Name, "/")
		for other := range m.programs {
			if other != client && (m.nodes[other] == node || node == m.nodes[0] && slices.ContainsFunc(m.programs[other], isReclaim)) {
				return false
			}
		}
		return m.nodes[client] == node
	}
	return false
}

func isReclaim(o operation) bool { return o.name == reclaim.name }

// explore counts the ways from s to an end, and checks every state on them.
func (m *model) explore(s state) float64 {
	if ways, ok := m.known[s]; ok {
		return ways
	}
	if len(m.known) >= m.limit {
		m.cut = true
	}
	if m.cut || len(m.problems) > 0 {
		return 0
	}
	m.known[s] = 0
	ways, ended := 0.0, true
	for _, i := range m.choices(s) {
		ended = false
		p := m.points[s.at[i]]
		if p.races > m.races {
			continue // others go on from here
		}
		for _, lost := range []bool{false, true} {
			if lost && (s.lost >= uint8(m.faults) || !p.call.changes()) {
				break
			}
			next := m.take(s, i, lost)
			ways += m.explore(next)
			if len(m.problems) > 0 {
				m.path = append(m.path, fmt.Sprintf("c%d %s, its answer lost: %t; then %s", i, p.call, lost, m.show(next)))
				return 0
			}
		}
	}
	if ended {
		m.end(s)
		ways = 1
	}
	m.known[s] = ways
	return ways
}

// choices are the clients that can go on. A private call is taken at once: only
// its orders with calls that can matter are tried.
func (m *model) choices(s state) []int {
	var all []int
	for i := range m.programs {
		p := m.points[s.at[i]]
		if p.call == nil {
			continue
		}
		if p.private {
			return []int{i}
		}
		all = append(all, i)
	}
	return all
}

// take carries out the call of client i in s. With lost its client hears that it
// may have happened.
func (m *model) take(s state, i int, lost bool) state {
	p := m.points[s.at[i]]
	var r answer
	reads := p.reads
	m.answered = m.answered[:0]
	// see reads an object: the version it knows already, or a new one.
	see := func(k uint8) store.Entry {
		if s.current[i]&(1<<k) == 0 {
			s.current[i] |= 1 << k
			reads[k]++
		}
		m.answered = binary.LittleEndian.AppendUint16(append(m.answered, k, uint8(reads[k])), s.world[k])
		return store.Entry{Key: m.keys[k], Value: m.values[s.world[k]], Revision: reads[k]}
	}
	before := s.world
	switch c := p.call; c.op {
	case opGet:
		r.err = errMissing
		if k := slices.Index(m.keys, c.key); k >= 0 && s.world[k] != 0 {
			r = answer{entry: see(uint8(k))}
		}
	case opList:
		var found []uint8
		for k, key := range m.keys {
			if key.Kind == c.kind && strings.HasPrefix(key.Name, c.key.Name) && s.world[k] != 0 {
				found = append(found, uint8(k))
			}
		}
		slices.SortFunc(found, func(a, b uint8) int { return strings.Compare(m.keys[a].Name, m.keys[b].Name) })
		for _, k := range found {
			r.entries = append(r.entries, see(k))
		}
	case opPut:
		k := m.key(c.key)
		if r.err = m.compare(s, i, k, c.prev); r.err == nil {
			m.write(&s, k, m.number(c.key, c.value))
			if !lost {
				r.rev = see(k).Revision
			}
		}
	case opDelete:
		k := slices.Index(m.keys, c.key)
		if k < 0 || s.world[k] == 0 {
			r.err = errMissing
		} else if r.err = m.compare(s, i, uint8(k), c.prev); r.err == nil {
			m.write(&s, uint8(k), 0)
		}
	case opCommit:
		r.err = m.commit(&s, i, c.writes)
	}
	if lost {
		s.lost++
		r.err = errAmbiguous
	}
	if r.err != nil {
		m.answered = append(m.answered, r.err.Error()...)
	}
	e := m.follow(p, m.answered, r, reads)
	if m.points[e.to].operation != p.operation {
		s.current[i] = 0
	}
	s.at[i] = e.to
	if s.world != before {
		m.check(s)
	}
	m.hear(&s, e.events)
	return s
}

// commit carries out all writes of client i, or none.
func (m *model) commit(s *state, i int, writes []store.Write) error {
	for _, w := range writes {
		if err := m.compare(*s, i, m.key(w.Key), w.Prev); err != nil {
			return err
		}
	}
	for _, w := range writes {
		n := uint16(0)
		if !w.Delete {
			n = m.number(w.Key, w.Value)
		}
		m.write(s, m.key(w.Key), n)
	}
	return nil
}

// compare is the comparison of a write with what client i read.
func (m *model) compare(s state, i int, k uint8, prev store.Revision) error {
	switch {
	case m.blind || prev == store.AnyRevision:
		return nil
	case prev == 0 && s.world[k] == 0:
		return nil
	case prev != 0 && prev == m.points[s.at[i]].reads[k] && s.current[i]&(1<<k) != 0:
		return nil
	}
	return errCompare
}

// write changes an object: whoever read it has an old version now.
// Without transactions, as in Kubernetes, a write of what is stored already
// makes no new version; each write of a block says something new.
func (m *model) write(s *state, k uint8, n uint16) {
	if s.world[k] == n && !m.commits && m.keys[k].Kind != store.Block {
		return
	}
	s.world[k] = n
	for i := range s.current {
		s.current[i] &^= 1 << k
	}
}
