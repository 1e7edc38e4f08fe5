// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/statefile"
	"github.com/ocicat-net/ocicat/internal/store"
)

// Times of the heartbeat.
const (
	beatTimeout = 10 * time.Second // of one try
	beatRetry   = 5 * time.Second  // after one that failed, or sooner with short times
	watching    = 15 * time.Second // how often a standstill is looked at, likewise
)

// Heartbeat is the stored sign of life of a node's agent. It stands still
// when the agent does, and tells one machine of a name from another.
type Heartbeat struct {
	Counter     uint64 `json:"counter"`
	InstanceUID string `json:"instanceUID"`
	BootID      string `json:"bootID"`
	// FencedBy is set while somebody takes from the node what it holds, and
	// says who.
	FencedBy string `json:"fencedBy,omitempty"`
	// Contested is set by another boot of the same instance that lives: one of
	// the two machines is a copy of the other.
	Contested bool `json:"contested,omitempty"`
	// Lease is how long the node may use its reserve after this heartbeat; 0 in
	// one of an older version.
	Lease time.Duration `json:"leaseNs,omitempty"`
}

// mark is what tells a heartbeat from others; the rest is what it says.
func (h Heartbeat) mark() Heartbeat {
	return Heartbeat{Counter: h.Counter, InstanceUID: h.InstanceUID, BootID: h.BootID, FencedBy: h.FencedBy}
}

// among reports whether h is one of those expected.
func (h Heartbeat) among(expect []Heartbeat) bool {
	return slices.ContainsFunc(expect, func(e Heartbeat) bool { return e.mark() == h.mark() })
}

// ParseHeartbeat reads a stored heartbeat.
func ParseHeartbeat(data []byte) (Heartbeat, error) {
	var h Heartbeat
	if err := json.Unmarshal(data, &h); err != nil {
		return h, fault.New(fault.Internal, "read heartbeat: %w", err)
	}
	return h, nil
}

// lease is the right to give addresses without asking the datastore, and what
// is known of the heartbeat it comes from.
type lease struct {
	valid   bool
	start   time.Duration // CLOCK_BOOTTIME at the start of the last successful heartbeat
	last    Heartbeat     // the stored one as far as is known; count 0 before the first of this boot
	written bool          // last stands in the datastore at rev
	rev     store.Revision
}

// remaining is how much longer the lease holds; r.mu is held.
func (r *Reserve) remaining() time.Duration {
	if !r.lease.valid || r.identity != nil {
		return 0
	}
	return r.cfg.Times.Lease - (r.cfg.Boottime() - r.lease.start)
}

// boottime reads CLOCK_BOOTTIME.
func boottime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // exists since Linux 2.6.39
	return time.Duration(ts.Nano())
}

// beat sends heartbeats until ctx ends.
func (r *Reserve) beat(ctx context.Context) {
	var foreign standstill
	failing := false
	for {
		wait := r.cfg.Times.Beat
		err := r.heartbeat(ctx, &foreign)
		switch {
		case err == nil:
			if failing {
				r.log.Info("heartbeat recovered")
			}
			failing, foreign = false, standstill{}
		case ctx.Err() != nil:
			return
		default:
			if !failing {
				r.log.Warn("heartbeat failed, trying again", "error", err)
			}
			failing = true
			wait = min(beatRetry, r.cfg.Times.Beat)
			if errors.Is(err, errForeign) || errors.Is(err, errSettling) {
				wait = min(watching, r.cfg.Times.Takeover/4)
			}
			if r.allowed() != nil {
				r.failWaiters(err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-r.beatNow:
		case <-time.After(wait):
		}
	}
}

// errForeign is in the chain of a heartbeat that found another instance's.
var errForeign = errors.New("the heartbeat is another instance's")

// errSettling is in the chain of a heartbeat that waits for the other nodes.
var errSettling = errors.New("wait until every node has asserted its addresses")

// standstill watches a heartbeat that is not what it should be.
type standstill struct {
	rev   store.Revision
	since time.Time
}

// still reports whether the heartbeat at rev has stood still for at least d.
func (s *standstill) still(rev store.Revision, d time.Duration) bool {
	if s.rev != rev || s.since.IsZero() {
		*s = standstill{rev, time.Now()}
	}
	return time.Since(s.since) >= d
}

// heartbeat writes one heartbeat over this instance's last, or takes the name
// over where it may. A comparison that fails because an earlier try arrived
// late is followed by another heartbeat: only the start of a try that was
// acknowledged can begin a lease.
func (r *Reserve) heartbeat(ctx context.Context, foreign *standstill) error {
	for range 3 {
		r.mu.Lock()
		l := r.lease
		r.mu.Unlock()
		if !l.written {
			var err error
			if l, err = r.findHeartbeat(ctx, foreign, l.last, successor(l.last)); err != nil {
				return err
			}
		}
		start := r.cfg.Boottime()
		next := Heartbeat{
			Counter: l.last.Counter + 1, InstanceUID: r.cfg.InstanceUID, BootID: r.cfg.BootID,
			Contested: r.contested(), Lease: r.cfg.Times.Lease,
		}
		rev, err := r.putHeartbeat(ctx, next, l.rev)
		if err == nil {
			return r.granted(lease{valid: true, start: start, last: next, written: true, rev: rev})
		}
		if !fault.Is(err, fault.Conflict) {
			return fault.New(fault.KindOf(err), "heartbeat of %s: %w", r.cfg.Node, err)
		}
		if _, err := r.findHeartbeat(ctx, foreign, next); err != nil {
			return err
		}
	}
	return fault.New(fault.Unavailable, "heartbeat of %s: late writes of its own keep coming first", r.cfg.Node)
}

// settling is how long a node gives no address after it found that the
// datastore is not as it left it.
func (r *Reserve) settling() time.Duration { return r.cfg.Times.Beat + r.cfg.Times.Beat/4 }

func successor(h Heartbeat) Heartbeat {
	h.Counter++
	return h
}

func (r *Reserve) putHeartbeat(ctx context.Context, h Heartbeat, prev store.Revision) (store.Revision, error) {
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	data, err := json.Marshal(h)
	if err != nil {
		return 0, err
	}
	return r.c.Store.Put(ctx, r.heartbeatKey(), data, prev)
}

func (r *Reserve) heartbeatKey() store.Key {
	return store.Key{Kind: store.Heartbeat, Name: r.cfg.Node}
}

// granted starts a new lease.
func (r *Reserve) granted(l lease) error {
	r.mu.Lock()
	first := r.identity != nil
	r.lease, r.identity = l, nil
	delete(r.problems, "heartbeat")
	if !r.done {
		r.done = true
		close(r.ready)
	}
	r.mu.Unlock()
	if first {
		r.log.Info("lease granted", "node", r.cfg.Node, "heartbeat", l.last.Counter)
	}
	r.wake()
	return r.saveLease(nil)
}

// findHeartbeat reads the stored heartbeat and decides whether it may be
// written over: one of those expected; before the first of this boot also
// none, or this instance's own; or another machine's that stands still. Where
// it was not expected every address is asserted anew first.
func (r *Reserve) findHeartbeat(ctx context.Context, foreign *standstill, expect ...Heartbeat) (lease, error) {
	e, missing, err := r.getHeartbeat(ctx)
	if err != nil {
		return lease{}, fault.New(fault.KindOf(err), "heartbeat of %s: %w", r.cfg.Node, err)
	}
	stored := Heartbeat{InstanceUID: r.cfg.InstanceUID}
	if !missing {
		if stored, err = ParseHeartbeat(e.Value); err != nil {
			stored = Heartbeat{InstanceUID: "unreadable"}
		}
	}
	// Before this boot's first heartbeat one of another boot means a reboot;
	// after it, a second machine with a copy of our disk.
	first := expect[0].Counter == 0
	mine := stored.InstanceUID == r.cfg.InstanceUID && (first || missing || stored.BootID == r.cfg.BootID)
	if !(first && mine || !missing && (stored.among(expect) || r.protested(stored))) {
		r.suspend(stored, missing)
		if err := r.protest(ctx, stored, e.Revision, missing); err != nil {
			return lease{}, err
		}
		if !mine && !foreign.still(e.Revision, r.cfg.Times.Takeover) {
			return lease{}, fmt.Errorf("%w: %w", r.allowed(), errForeign)
		}
		if err := r.reassert(ctx); err != nil {
			return lease{}, fault.New(fault.KindOf(err), "assert addresses of %s anew: %w", r.cfg.Node, err)
		}
		// In a restored datastore the blocks of other nodes look free until
		// they have found out too, which each does at its next heartbeat.
		if mine && !foreign.still(e.Revision, r.settling()) {
			return lease{}, fmt.Errorf("%w: %w", r.allowed(), errSettling)
		}
	}
	r.mu.Lock()
	ahead := stored.Counter != r.lease.last.Counter && stored.InstanceUID == r.cfg.InstanceUID && stored.BootID == r.cfg.BootID
	r.lease.last, r.lease.written, r.lease.rev = stored, true, e.Revision
	l := r.lease
	r.mu.Unlock()
	if ahead { // the next write goes one further: a start after a kill expects what is on disk, or one more
		return l, r.saveLease(nil)
	}
	return l, nil
}

func (r *Reserve) getHeartbeat(ctx context.Context) (e store.Entry, missing bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	e, err = r.c.Store.Get(ctx, r.heartbeatKey())
	if fault.Is(err, fault.NotFound) {
		return store.Entry{}, true, nil
	}
	return e, false, err
}

// suspend stops giving addresses: the heartbeat is not what this instance
// wrote last.
func (r *Reserve) suspend(stored Heartbeat, missing bool) {
	code, what := problem.IdentityConflict, fmt.Sprintf("instance %s, boot %s, count %d", stored.InstanceUID, stored.BootID, stored.Counter)
	switch {
	case missing:
		code, what = problem.StoreRolledBack, "there is none"
	case stored.FencedBy != "":
		code, what = problem.StoreRolledBack, "what the node holds is being reclaimed by "+stored.FencedBy
	case stored.InstanceUID == r.cfg.InstanceUID && stored.BootID == r.cfg.BootID:
		code, what = problem.StoreRolledBack, fmt.Sprintf("an older one is, count %d", stored.Counter)
	}
	found := problem.New(code, r.cfg.Node, r.cfg.Node, what)
	r.mu.Lock()
	again := r.problems["heartbeat"] == found
	r.lease.valid = false
	r.identity = fault.Hint(fault.New(fault.Unavailable, "%s", found.Text), "%s", found.Remedy)
	r.problems["heartbeat"] = found
	r.mu.Unlock()
	r.failWaiters(r.allowed())
	if !again {
		r.log.Error("the heartbeat is not the one this agent wrote, no address is given until all are asserted", "node", r.cfg.Node, "found", what)
	}
	if err := r.saveLease(nil); err != nil {
		r.log.Error("lease not revoked on disk", "error", err)
	}
}

// unchanged is nil while the datastore holds the heartbeat this agent wrote.
// Who is about to claim a block asks first: in a datastore that was restored,
// blocks of other nodes look free.
func (r *Reserve) unchanged(ctx context.Context) error {
	r.mu.Lock()
	l := r.lease
	r.mu.Unlock()
	if !l.written {
		return nil // the first heartbeat finds out
	}
	e, missing, err := r.getHeartbeat(ctx)
	if err != nil {
		return err
	}
	stored, _ := ParseHeartbeat(e.Value) // one that cannot be read is not ours
	if !missing && stored.InstanceUID == r.cfg.InstanceUID && stored.BootID == r.cfg.BootID && stored.Counter >= l.last.Counter {
		return nil
	}
	r.suspend(stored, missing)
	return r.allowed()
}

// leaseFile is the lease as it lies on disk, with what is needed to give
// addresses while the datastore is away.
type leaseFile struct {
	Version     int             `json:"version"`
	InstanceUID string          `json:"instanceUID"`
	BootID      string          `json:"bootID"`
	Valid       bool            `json:"valid"`
	Start       time.Duration   `json:"startBoottimeNs"`
	Counter     uint64          `json:"counter"`
	Held        []netip.Addr    `json:"held"`
	Blocks      []cluster.Block `json:"blocks"`
	// Foreign are others' blocks that may hold addresses of this node.
	Foreign []netip.Prefix `json:"foreign"`
}

const leaseVersion = 1

// loadLease reads the lease file. One of another instance, boot or version,
// or an unreadable one, is as none: the next heartbeat brings a new lease.
func (r *Reserve) loadLease() {
	if r.cfg.LeaseFile == "" {
		return
	}
	data, err := statefile.Lease.Read(r.cfg.LeaseFile)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	if err != nil {
		r.log.Warn("lease not used, the next heartbeat brings another", "error", err)
		return
	}
	f, err := parseLease(data)
	if err != nil || f.InstanceUID != r.cfg.InstanceUID || f.BootID != r.cfg.BootID || f.Start > r.cfg.Boottime() {
		r.log.Info("lease of before the start not used", "instance", f.InstanceUID, "boot", f.BootID, "error", err)
		return
	}
	r.lease = lease{valid: f.Valid, start: f.Start, last: Heartbeat{Counter: f.Counter, InstanceUID: f.InstanceUID, BootID: f.BootID}}
	for _, b := range f.Blocks {
		r.blocks[b.CIDR] = b.Confirmed
	}
	r.foreignListed = f.Foreign != nil // nil in a file of an older version
	for _, p := range f.Foreign {
		r.foreign[p] = true
	}
	if !f.Valid {
		return
	}
	r.queue = f.Held
	for _, addr := range f.Held {
		r.saved[addr] = true
	}
	r.identity = nil
	r.done = true
	close(r.ready)
}

func parseLease(data []byte) (leaseFile, error) {
	var f leaseFile
	if err := json.Unmarshal(data, &f); err != nil {
		return f, fault.New(fault.Internal, "read lease: %w", err)
	}
	if f.Version != leaseVersion {
		return f, fault.New(fault.Unsupported, "read lease: version %d, want %d", f.Version, leaseVersion)
	}
	return f, nil
}

// saveLease writes the lease file with the queue as it is, without the
// addresses that are about to become somebody's: what the file names after a
// crash must still be held ready in the datastore. It needs no fsync: it is
// of no use after the kernel is gone. Where it cannot be written it is removed,
// which takes no space: no file names nothing, and holds up no assignment.
func (r *Reserve) saveLease(leaving []netip.Addr) error {
	if r.cfg.LeaseFile == "" {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	f := leaseFile{
		Version: leaseVersion, InstanceUID: r.cfg.InstanceUID, BootID: r.cfg.BootID,
		Valid: r.lease.valid, Start: r.lease.start, Counter: r.lease.last.Counter, Blocks: r.blockList(),
	}
	if r.foreignListed {
		f.Foreign = slices.AppendSeq([]netip.Prefix{}, maps.Keys(r.foreign))
	}
	for _, addr := range r.queue {
		if !slices.Contains(leaving, addr) {
			f.Held = append(f.Held, addr)
		}
	}
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	err = errors.Join(os.MkdirAll(filepath.Dir(r.cfg.LeaseFile), 0o700), statefile.Lease.Write(r.cfg.LeaseFile, data, false))
	if err != nil {
		r.problems["lease"] = problem.New(problem.StateUnwritten, r.cfg.LeaseFile, "the reserve's lease", err)
		if gone := os.Remove(r.cfg.LeaseFile); gone != nil && !errors.Is(gone, os.ErrNotExist) {
			return fault.New(fault.Internal, "write lease: %w", errors.Join(err, gone))
		}
		clear(r.saved)
		return nil
	}
	delete(r.problems, "lease")
	clear(r.saved)
	for _, addr := range f.Held {
		r.saved[addr] = true
	}
	return nil
}
