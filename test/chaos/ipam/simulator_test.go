// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/internal/store"
)

// episodeSteps is how long clients work before everything is released and
// counted.
const episodeSteps = 3000

// fate is what becomes of a call.
type fate uint8

const (
	fine     fate = iota
	lost          // happens, its answer is lost
	vanished      // never happens, and nobody knows
	late          // happens later, perhaps after its caller gave up
	refused       // never happens, which is known
	fates
)

// tally counts what the simulator did.
type tally struct {
	episodes, steps, given, released, killed, frozen int
	reborns                                          int // empty objects left to the collector
	fates                                            [fates]int
}

func (t *tally) add(o tally) {
	t.episodes += o.episodes
	t.steps += o.steps
	t.given += o.given
	t.released += o.released
	t.killed += o.killed
	t.frozen += o.frozen
	t.reborns += o.reborns
	for i := range t.fates {
		t.fates[i] += o.fates[i]
	}
}

func (t *tally) String() string {
	return fmt.Sprintf("%d steps in %d episodes, %d addresses given, %d lost, %d vanished, %d late and %d refused answers, %d clients killed, %d frozen; %d empty handles or blocks left to the collector",
		t.steps, t.episodes, t.given, t.fates[lost], t.fates[vanished], t.fates[late], t.fates[refused], t.killed, t.frozen, t.reborns)
}

// episode is one run of the simulator: everything in it follows from its
// seed.
type episode struct {
	tally
	rng    *rand.Rand
	w      *world
	check  *checker
	pool   cluster.Pool
	actors []*actor
	late   []call             // writes under way whose senders gave up
	reborn map[store.Key]bool // made by a late write, perhaps after their end
	owed   map[string]bool    // handles that must be released in the end
	named  int                // handles and actors made so far
	harsh  int                // of 100 calls, how many meet a fault
	trace  *trace             // nil keeps none
}

// trace is the last calls, for whoever looks for the reason of a violation,
// and a hash of all.
type trace struct {
	lines []string
	hash  uint64
}

func (t *trace) add(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%x %s", t.hash, line)
	t.hash = h.Sum64()
	if t.lines = append(t.lines, line); len(t.lines) > 400 {
		t.lines = slices.Clone(t.lines[200:])
	}
}

func newEpisode(seed uint64) *episode {
	rng := rand.New(rand.NewPCG(seed, 0x0c1ca7))
	e := &episode{
		rng: rng, w: newWorld(), owed: map[string]bool{}, reborn: map[store.Key]bool{},
		pool:  smallPool(28 - rng.IntN(2)), // 4 or 8 blocks
		harsh: []int{0, 5, 25}[rng.IntN(3)],
	}
	e.check, e.w.lazy = newChecker(e.w), seed%2 == 1
	for range 2 + rng.IntN(5) {
		e.start()
	}
	return e
}

// start adds a client, every other one with transactions. Two may have one node's name: a node that was deleted
// and made anew, or a copy of a machine.
func (e *episode) start() {
	e.named++
	name, node := fmt.Sprint("c", e.named), fmt.Sprint("n", e.rng.IntN(3))
	p := &program{episode: e, rng: rand.New(rand.NewPCG(e.rng.Uint64(), 1)), name: name, mine: map[string][]netip.Addr{}}
	e.actors = append(e.actors, newActor(node, e.pool, e.rng.IntN(2) == 0, e.rng.IntN(2) == 0, nil, p.run))
}

// run lets the clients work for a number of steps, then releases everything.
func (e *episode) run(steps int) []string {
	e.episodes = 1
	for e.steps < steps && len(e.check.problems) == 0 {
		e.step()
	}
	for _, a := range e.actors {
		a.kill()
	}
	if len(e.check.problems) == 0 {
		e.settle()
	}
	return e.check.problems
}

// step is one call of one client, or something that happens to it.
func (e *episode) step() {
	e.steps++
	switch at := e.rng.IntN(1000); {
	case at < 3 && len(e.late) > 0 || len(e.late) > 20:
		i := e.rng.IntN(len(e.late))
		e.arrive(&e.late[i])
		e.late = slices.Delete(e.late, i, i+1)
		return
	case at == 3:
		e.actors[e.rng.IntN(len(e.actors))].frozen = e.rng.IntN(200)
		e.frozen++
		return
	case at == 4:
		e.replace(e.rng.IntN(len(e.actors)))
		return
	}
	a := e.actors[e.rng.IntN(len(e.actors))]
	if a.frozen > 0 {
		a.frozen--
		return
	}
	a.answer(e.serve(a))
}

// replace kills a client in the middle of a call, which may happen all the
// same, and starts another.
func (e *episode) replace(i int) {
	a := e.actors[i]
	e.killed++
	if c := a.pending; c.changes() {
		e.late = append(e.late, *c)
	}
	a.kill()
	e.actors = slices.Delete(e.actors, i, i+1)
	e.start()
}

// serve answers the call a client waits for.
func (e *episode) serve(a *actor) answer {
	c := a.pending
	how := fine
	if c.op != opNext && e.rng.IntN(100) < e.harsh {
		how = fate(1 + e.rng.IntN(int(fates)-1))
	}
	e.fates[how]++
	e.note(a.node, [...]string{"", " lost", " vanished", " late", " refused"}[how], c)
	if c.op == opGet || c.op == opList {
		if how != fine {
			return answer{err: errRefused}
		}
		return e.w.do(c)
	}
	switch how {
	case refused:
		return answer{err: errRefused}
	case vanished:
		return answer{err: errAmbiguous}
	case late:
		e.late = append(e.late, *c)
		return answer{err: errAmbiguous}
	}
	r := e.w.do(c)
	if how == lost {
		return answer{err: errAmbiguous}
	}
	return r
}

func (e *episode) note(who, how string, c *call) {
	if e.trace != nil {
		e.trace.add("%s: %s%s", who, c, how)
	}
}

// settle lets late writes happen, releases every handle and all blocks on a
// datastore without faults: nothing may be left.
func (e *episode) settle() {
	for i := range e.late {
		e.arrive(&e.late[i])
	}
	for addr, handle := range e.check.told {
		if got := e.check.holder(addr); got != handle {
			e.check.say("in the end %s is held by %q, %s was told to", addr, got, handle)
		}
	}
	clear(e.check.told)
	last := newActor("last", e.pool, true, e.rng.IntN(2) == 0, nil, func(a *actor) {
		for _, handle := range slices.Sorted(maps.Keys(e.owed)) {
			if err := a.client.ReleaseByHandle(a.ctx, handle); err != nil && !fault.Is(err, fault.NotFound) {
				e.check.say("release %s in the end: %v", handle, err)
			}
		}
		for n := range 3 {
			if err := a.client.RemoveHost(a.ctx, fmt.Sprint("n", n)); err != nil {
				e.check.say("remove node n%d in the end: %v", n, err)
			}
		}
	})
	for last.pending != nil {
		last.answer(e.w.do(last.pending))
	}
	e.collect()
	if len(e.w.entries) > 0 {
		e.check.say("leaked: %s", e.check.rest(e.w))
	}
}

// arrive carries out a late write.
func (e *episode) arrive(c *call) {
	e.note("late", "", c)
	if r := e.w.do(c); r.err != nil {
		return
	}
	if c.op == opPut && c.prev == 0 {
		e.reborn[c.key] = true
	}
	for _, w := range c.writes {
		if !w.Delete && w.Prev == 0 {
			e.reborn[w.Key] = true
		}
	}
}

// collect takes away what is the collector's to find. A late creation can make
// an object after its deletion, which nobody is left to undo: a handle without
// addresses, a block without. And a node whose claim was given back by others
// while it made the block, and that was then refused the claim, leaves a block
// without one, until it or the collector claims it.
func (e *episode) collect() {
	for key := range e.w.entries {
		b := e.check.blocks[key.Name]
		if key.Kind == store.Block && len(b.held) > 0 {
			continue
		}
		if unclaimed := key.Kind == store.Block && b.owner != "" && !e.claimed(b.owner, key.Name); !e.reborn[key] && !unclaimed {
			continue
		}
		e.reborns++
		delete(e.w.entries, key)
	}
}

// claimed says whether a node's claim to a block is stored.
func (e *episode) claimed(node, block string) bool {
	_, ok := e.w.entries[store.Key{Kind: store.Affinity, Name: node + "/" + block}]
	return ok
}

// program is what one client does, forever.
type program struct {
	*episode
	rng  *rand.Rand
	name string
	mine map[string][]netip.Addr
	n    int
}

func (p *program) run(a *actor) {
	for !a.dead {
		p.n++
		p.operate(a, fmt.Sprint(p.name, "-", p.n))
	}
}

// operate does one operation; what it answers counts only if the client was
// not killed meanwhile.
func (p *program) operate(a *actor, handle string) {
	switch p.rng.IntN(16) {
	case 0, 1, 2, 3:
		p.owed[handle] = true
		got, err := a.client.AutoAssign(a.ctx, ipam.AssignRequest{Node: a.node, Handle: handle, Use: ipam.Workload, Family: 4, Num: 1 + p.rng.IntN(2)})
		p.took(a, handle, got, err)
	case 4, 5:
		p.owed[handle] = true
		addr := cidr.At(p.pool.CIDR, p.rng.IntN(cidr.Size(p.pool.CIDR)))
		err := a.client.AssignIP(a.ctx, ipam.AssignIPRequest{Node: a.node, Addr: addr, Handle: handle})
		if err == nil {
			p.took(a, handle, []netip.Addr{addr}, nil)
		} else {
			p.took(a, handle, nil, err)
		}
	case 6, 7, 8, 9:
		if h, ok := p.pick(); ok {
			p.release(a, h)
		}
	case 10, 11:
		if h, ok := p.pick(); ok && len(p.mine[h]) > 0 {
			p.releaseOne(a, h)
		}
	case 12:
		_ = a.client.ReleaseHostAffinities(a.ctx, a.node, true)
	case 13:
		_ = a.client.RemoveHost(a.ctx, fmt.Sprint("n", p.rng.IntN(3)))
	case 14:
		block := cidr.BlockOf(cidr.At(p.pool.CIDR, p.rng.IntN(cidr.Size(p.pool.CIDR))), p.pool.BlockSize)
		_, _, _ = a.client.ClaimAffinity(a.ctx, a.node, block)
	default:
		_, _ = a.client.EnsureBlock(a.ctx, a.node, 4)
	}
}

// took notes what an assignment answered. After one that failed, half of the
// clients release its handle, as a runtime's DEL does.
func (p *program) took(a *actor, handle string, got []netip.Addr, err error) {
	if a.dead {
		return
	}
	p.check.given(handle, got)
	p.given += len(got)
	p.mine[handle] = got
	if err != nil && p.rng.IntN(2) == 0 {
		p.release(a, handle)
	}
}

func (p *program) pick() (string, bool) {
	if len(p.mine) == 0 {
		return "", false
	}
	all := slices.Sorted(maps.Keys(p.mine))
	return all[p.rng.IntN(len(all))], true
}

func (p *program) release(a *actor, handle string) {
	p.check.leaving(p.mine[handle]...)
	delete(p.mine, handle)
	err := a.client.ReleaseByHandle(a.ctx, handle)
	if !a.dead && (err == nil || fault.Is(err, fault.NotFound)) {
		delete(p.owed, handle)
		p.released++
	}
}

// releaseOne frees one address of a handle, sometimes twice: the second must
// not free what somebody else was given meanwhile.
func (p *program) releaseOne(a *actor, handle string) {
	addr := p.mine[handle][0]
	p.mine[handle] = p.mine[handle][1:]
	p.check.leaving(addr)
	for range 1 + p.rng.IntN(2) {
		_, _ = a.client.ReleaseIPs(a.ctx, []alloc.Release{{Addr: addr, Handle: handle}})
	}
}
