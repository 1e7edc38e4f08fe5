// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/problem"
)

// DefaultReserve is how many addresses an agent holds ready by default.
const DefaultReserve = 16

// ReserveConfig is what a Reserve needs.
type ReserveConfig struct {
	Client *Client
	Node   string
	// InstanceUID tells this machine from others of its name; BootID is the
	// kernel's of this boot.
	InstanceUID, BootID string
	// Size is how many addresses are held ready, at most a quarter of a
	// block; 0 writes every assignment before it is answered. SetSize
	// changes it.
	Size int
	// LeaseFile keeps the lease over a restart of the agent; it lies where a
	// reboot clears it. "" keeps it nowhere.
	LeaseFile string
	// Times are those of the lease; zero for the default.
	Times Times
	// Boottime reads CLOCK_BOOTTIME, which a suspended machine cannot stop;
	// nil is the kernel's.
	Boottime func() time.Duration
	Log      *slog.Logger
	// OnBlocks is called with the own blocks, by CIDR, when they changed; nil
	// is not called. It must not block or call the Reserve.
	OnBlocks func([]cluster.Block)
}

// Reserve gives addresses to the pods of one node without waiting for the
// datastore, and is safe all the same: an address it gives already stands in
// the datastore as held by this instance of the node. Who got it is written
// behind. While the heartbeat is not this instance's, nothing is given.
//
// Make one with NewReserve, tell it with Adopt which addresses pods hold,
// then Run it. All methods are safe for concurrent use.
type Reserve struct {
	cfg     ReserveConfig
	c       *Client
	log     *slog.Logger
	handle  string // of the reserve itself
	ready   chan struct{}
	kick    chan struct{} // wakes the writer
	news    chan struct{} // tells it that heard is not empty
	beatNow chan struct{} // brings the next heartbeat forward
	size    atomic.Int64  // how many addresses are held ready
	refresh atomic.Bool   // look at the blocks before the next write
	writes  chan struct{} // full while someone writes blocks: the writer or a re-assertion

	mu       sync.Mutex
	queue    []netip.Addr        // held ready, in the order in which they are given
	saved    map[netip.Addr]bool // those of them that the lease file names
	pods     map[netip.Addr]*pod
	releases map[netip.Addr]*release
	disowned map[string]bool    // handles of containers that were deleted and not known
	waiters  []*waiter          // takes that need a write first
	waiting  map[string]*waiter // the same, and those being written, by handle
	order    int                // of the last release
	room     int                // blocks that could still be claimed, as far as known; -1 for unknown
	blocks   map[netip.Prefix]bool
	foreign  map[netip.Prefix]bool // others' blocks that may hold addresses of this node
	heard    map[netip.Prefix]word // what the watches said of blocks, not taken in yet
	// foreignListed says that foreign are all of them.
	foreignListed bool
	pools         []cluster.Pool // as last read
	lease         lease
	copied        bool  // another boot of this instance was seen alive
	identity      error // why nothing may be given; nil while this instance is the node
	full          error // the last take found no address, nil after one that did
	away          error // the last failure of the datastore, nil after a success
	problems      map[string]problem.Problem
	strays        map[stray]time.Time      // when they were first seen
	resting       map[netip.Addr]time.Time // held ready by another boot, since when that was seen
	listings      map[string]listing       // by network
	done          bool                     // ready is closed

	// Only for who filled writes:
	cache   *blockCache
	counted map[netip.Prefix]int       // what the reserve's handle is known to count
	idle    map[netip.Prefix]time.Time // own blocks of which nothing is held, since when
}

// pod is an address that a pod holds.
type pod struct {
	addr    netip.Addr
	who     alloc.Attribute
	pending bool // the datastore is not known to say so
}

// release is an address on its way back.
type release struct {
	addr   netip.Addr
	handle string
	order  int // first released, first free
	done   []func()
}

// waiter is a take that is answered after a write.
type waiter struct {
	claim     Claim
	who       alloc.Attribute
	addr      netip.Addr
	err       error
	done      chan struct{} // closed once addr or err is set
	abandoned bool          // nobody waits any more
}

// stray is an allocation of this node that no pod accounts for.
type stray struct {
	addr   netip.Addr
	handle string
}

// Held is an address that a pod holds, as the agent's journal knows it.
type Held struct {
	Handle string
	Attrs  map[string]string
	Addr   netip.Addr
}

// Claim asks for an address for a pod.
type Claim struct {
	Handle string            // of the container; one handle has one address
	Attrs  map[string]string // keys alloc.Attr…; node, instance and boot are added
	Want   netip.Addr        // this very address; zero for any
	Pools  []string          // names or CIDRs of pools; none means all that suit
}

// errStarting holds until the first heartbeat shows whose name this is.
var errStarting = fault.New(fault.Unavailable, "wait for the first heartbeat: no lease from before the start")

// NewReserve returns a Reserve with the lease and addresses of cfg.LeaseFile,
// if that is of this instance and boot.
func NewReserve(cfg ReserveConfig) *Reserve {
	if cfg.Times == (Times{}) {
		cfg.Times = DefaultTimes()
	}
	if cfg.Boottime == nil {
		cfg.Boottime = boottime
	}
	r := &Reserve{
		cfg: cfg, c: cfg.Client, log: cfg.Log,
		handle:   names.ReserveHandle(cfg.InstanceUID),
		ready:    make(chan struct{}),
		kick:     make(chan struct{}, 1),
		news:     make(chan struct{}, 1),
		beatNow:  make(chan struct{}, 1),
		writes:   make(chan struct{}, 1),
		saved:    map[netip.Addr]bool{},
		pods:     map[netip.Addr]*pod{},
		releases: map[netip.Addr]*release{},
		disowned: map[string]bool{},
		waiting:  map[string]*waiter{},
		room:     -1,
		blocks:   map[netip.Prefix]bool{},
		foreign:  map[netip.Prefix]bool{},
		heard:    map[netip.Prefix]word{},
		identity: errStarting,
		problems: map[string]problem.Problem{},
		strays:   map[stray]time.Time{},
		resting:  map[netip.Addr]time.Time{},
		listings: map[string]listing{},
		cache:    newBlockCache(),
		counted:  map[netip.Prefix]int{},
	}
	r.size.Store(int64(cfg.Size))
	r.loadLease()
	return r
}

// SetSize changes how many addresses are held ready; what is too many goes
// back, what is missing is taken with the next write.
func (r *Reserve) SetSize(n int) {
	if r.size.Swap(int64(n)) != int64(n) {
		r.Refresh()
	}
}

// limit is how many addresses are to be held ready.
func (r *Reserve) limit() int { return int(r.size.Load()) }

// Adopt tells which addresses pods hold, from before the start: they are
// never given to others and are made true in the datastore again. It is
// called before Run, once.
func (r *Reserve) Adopt(held []Held) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range held {
		r.pods[h.Addr] = &pod{addr: h.Addr, who: r.holder(h.Handle, h.Attrs), pending: true}
		r.queue = slices.DeleteFunc(r.queue, func(a netip.Addr) bool { return a == h.Addr })
	}
}

// holder is what the datastore says about a pod of this node.
func (r *Reserve) holder(handle string, attrs map[string]string) alloc.Attribute {
	all := map[string]string{}
	maps.Copy(all, attrs)
	all[alloc.AttrNode], all[alloc.AttrInstance], all[alloc.AttrBoot] = r.cfg.Node, r.cfg.InstanceUID, r.cfg.BootID
	return alloc.Attribute{Handle: handle, Secondary: all}
}

// own is what the datastore says about an address held ready.
func (r *Reserve) own() alloc.Attribute {
	return r.holder(r.handle, map[string]string{alloc.AttrType: alloc.TypeReserve})
}

// String names the task.
func (r *Reserve) String() string { return "reserve" }

// Ready is closed once addresses can be given: with a valid lease at once,
// else after the first heartbeat.
func (r *Reserve) Ready() <-chan struct{} { return r.ready }

// Take gives a pod an address. A held one needs no round trip. Else, and with
// a size of 0, the assignment is written first, together with those of all
// who wait. A handle that has an address gets it again. Errors: Exhausted,
// Conflict naming the holder of an address asked for, Invalid for one outside
// the pools, Unavailable while the datastore or the identity is in doubt.
func (r *Reserve) Take(ctx context.Context, claim Claim) (netip.Addr, error) {
	r.mu.Lock()
	if r.identity != nil && r.identity != errStarting {
		defer r.mu.Unlock()
		return netip.Addr{}, r.identity
	}
	if r.waiting[claim.Handle] != nil {
		defer r.mu.Unlock()
		return netip.Addr{}, fault.New(fault.Unavailable, "an assignment for handle %s is still being written", claim.Handle)
	}
	who := r.holder(claim.Handle, claim.Attrs)
	for addr, p := range r.pods {
		if p.who.Handle == claim.Handle && (!claim.Want.IsValid() || claim.Want == addr) {
			r.mu.Unlock()
			return addr, nil
		}
	}
	if addr, ok := r.pop(claim); ok {
		r.pods[addr] = &pod{addr: addr, who: who, pending: true}
		r.mu.Unlock()
		r.wake()
		return addr, nil
	}
	w := &waiter{claim: claim, who: who, done: make(chan struct{})}
	r.waiters = append(r.waiters, w)
	r.waiting[claim.Handle] = w
	r.mu.Unlock()
	r.wake()
	select {
	case <-w.done:
	case <-ctx.Done():
		if r.abandon(w) {
			return netip.Addr{}, fault.New(fault.Unavailable, "wait for the datastore: %w", ctx.Err())
		}
	}
	return w.addr, w.err
}

// Confirm is asked right before an address that was taken is given away. Its
// error, Unavailable, says that the lease ended while the datastore does not
// know of the pod: this node may have stood still for so long that the address
// is somebody else's.
func (r *Reserve) Confirm(addr netip.Addr) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.pods[addr]; p == nil || !p.pending || r.remaining() > 0 {
		return nil
	}
	return fault.Hint(fault.New(fault.Unavailable, "give %s: the lease of this node's addresses ended meanwhile", addr), "The runtime tries again by itself.")
}

// abandon reports whether w was still without an answer; one that comes later
// goes back.
func (r *Reserve) abandon(w *waiter) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-w.done:
		return false
	default:
	}
	w.abandoned = true
	if at := slices.Index(r.waiters, w); at >= 0 { // not being written yet
		r.waiters = slices.Delete(r.waiters, at, at+1)
		delete(r.waiting, w.claim.Handle)
	}
	return true
}

// pop takes an address that suits claim off the queue, if the lease holds.
func (r *Reserve) pop(claim Claim) (netip.Addr, bool) {
	if r.limit() == 0 || r.remaining() <= 0 {
		return netip.Addr{}, false
	}
	for i, addr := range r.queue {
		if claim.Want.IsValid() && addr != claim.Want {
			continue
		}
		if len(claim.Pools) > 0 && !slices.ContainsFunc(r.pools, func(p cluster.Pool) bool {
			return p.CIDR.Contains(addr) && (slices.Contains(claim.Pools, p.Name) || slices.Contains(claim.Pools, p.CIDR.String()))
		}) {
			continue
		}
		r.queue = slices.Delete(r.queue, i, i+1)
		return addr, true
	}
	return netip.Addr{}, false
}

// Release gives a pod's address back, behind the caller: done is called, from
// another goroutine, once the datastore has it. Until then the caller's
// journal keeps the address, and a restart releases it again. The caller has
// made sure that no link and no connection uses the address any more.
func (r *Reserve) Release(handle string, addr netip.Addr, done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.pods[addr]; p != nil && p.who.Handle == handle {
		delete(r.pods, addr)
		delete(r.problems, addr.String())
	}
	r.giveBack(handle, addr, done)
}

func (r *Reserve) giveBack(handle string, addr netip.Addr, done func()) {
	rel := r.releases[addr]
	if rel == nil {
		r.order++
		rel = &release{addr: addr, handle: handle, order: r.order}
		r.releases[addr] = rel
	}
	if done != nil {
		rel.done = append(rel.done, done)
	}
	r.wake()
}

// Refresh makes the reserve look at pools and blocks again soon: the caller
// learned that pools or the node's labels changed.
func (r *Reserve) Refresh() {
	r.refresh.Store(true)
	r.wake()
}

func (r *Reserve) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// Blocks are the node's blocks, by CIDR; only confirmed ones may be announced.
func (r *Reserve) Blocks() []cluster.Block {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.blockList()
}

func (r *Reserve) blockList() []cluster.Block {
	list := make([]cluster.Block, 0, len(r.blocks))
	for p, confirmed := range r.blocks {
		list = append(list, cluster.Block{CIDR: p, Confirmed: confirmed})
	}
	slices.SortFunc(list, func(a, b cluster.Block) int { return cidr.Compare(a.CIDR, b.CIDR) })
	return list
}

// setBlocks replaces the own blocks and tells who listens.
func (r *Reserve) setBlocks(blocks map[netip.Prefix]bool) {
	r.mu.Lock()
	same := maps.Equal(blocks, r.blocks)
	r.blocks = blocks
	list := r.blockList()
	r.mu.Unlock()
	if !same && r.cfg.OnBlocks != nil {
		r.cfg.OnBlocks(list)
	}
}

// addBlock adds one confirmed block.
func (r *Reserve) addBlock(p netip.Prefix) {
	r.mu.Lock()
	blocks := maps.Clone(r.blocks)
	r.mu.Unlock()
	blocks[p] = true
	r.setBlocks(blocks)
}

// State is what status shows of a Reserve.
type State struct {
	Held     int           // addresses ready to be given
	Lease    time.Duration // how long they may be used without another heartbeat
	Pending  int           // assignments and releases the datastore does not have yet
	Problems []problem.Problem
}

// State is how the reserve stands now.
func (r *Reserve) State() State {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := State{Held: len(r.queue), Lease: max(0, r.remaining()), Pending: len(r.releases) + len(r.waiters)}
	for _, p := range r.pods {
		if p.pending {
			s.Pending++
		}
	}
	for _, p := range r.problems {
		s.Problems = append(s.Problems, p)
	}
	s.Problems = problem.Sort(s.Problems)
	return s
}

// Available is nil if a Take for any address would be served as far as can be
// told without trying, else what it would answer.
func (r *Reserve) Available() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.identity != nil:
		return r.identity
	case r.limit() > 0 && len(r.queue) > 0 && r.remaining() > 0:
		return nil
	case r.away != nil:
		return noAnswer(r.away)
	}
	return r.full
}

// noAnswer is what a Take answers that needs the datastore while that fails:
// why, once, however many writes failed of it.
func noAnswer(err error) error {
	cause := err
	for {
		many, ok := cause.(interface{ Unwrap() []error })
		if !ok || len(many.Unwrap()) == 0 {
			break
		}
		cause = many.Unwrap()[0]
	}
	return fault.Hint(fault.New(fault.Unavailable, "no address is held ready and the datastore gives none: %w", cause),
		"If the datastore is away, bring it back; the runtime tries again by itself.")
}

// Run sends heartbeats and writes behind, until ctx ends. What is pending
// then is tried once more, for two seconds.
func (r *Reserve) Run(ctx context.Context) error {
	r.wake()
	var all sync.WaitGroup
	all.Go(func() { r.beat(ctx) })
	all.Go(func() { r.write(ctx) })
	all.Go(func() { r.watchHeartbeat(ctx) })
	all.Go(func() { r.watchClaims(ctx) })
	all.Wait()
	r.finalRound(context.WithoutCancel(ctx))
	r.failWaiters(fault.New(fault.Unavailable, "the agent is stopping"))
	return nil
}

// finalRound writes what is pending when the agent stops, if that is quick.
func (r *Reserve) finalRound(ctx context.Context) {
	pending := r.State().Pending
	if pending == 0 || r.allowed() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := r.round(ctx, onlyWrite); err != nil {
		r.log.Info("assignments not written before the end, the next start writes them", "pending", pending, "error", err)
	}
}

// allowed is nil while this instance may give addresses.
func (r *Reserve) allowed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.identity
}

func (r *Reserve) failWaiters(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.waiters {
		w.err = err
		close(w.done)
		delete(r.waiting, w.claim.Handle)
	}
	r.waiters = nil
}
