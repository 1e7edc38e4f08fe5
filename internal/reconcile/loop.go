// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// Times of the loop. The first hint after a rest starts a pass at once. Hints
// that follow wait, each time twice as long, so that a burst of changes
// becomes few passes and a single one, met by the echo of an earlier pass, is
// hardly held up.
const (
	firstGap   = 2 * time.Millisecond
	lastGap    = 20 * time.Millisecond
	firstRetry = 50 * time.Millisecond
	lastRetry  = 10 * time.Second
)

// retryDoublings is after how many tries the wait grows no more.
const retryDoublings = 10

// Section is one part of the world that is brought to its wanted state as a
// whole. Reconcile is idempotent: it observes, decides and writes only the
// differences.
type Section struct {
	Name      string
	Reconcile func(ctx context.Context) error
	Resync    time.Duration // a pass at least this often although nothing hints; 0 for never
}

// Status is the outcome of a section's last passes.
type Status struct {
	Name  string
	Error error       // of the last pass; nil when it succeeded
	Tries int         // failed passes in a row
	Since time.Time   // when the first of them failed
	Stuck []KeyStatus // the keys that failed in the last pass, sorted
}

// Loop runs sections, each in a goroutine of its own: one that hangs or fails
// holds up no other.
type Loop struct {
	log      *slog.Logger
	sections []*section
	ready    chan struct{}
}

// New returns a loop over sections; each gets a first pass when it runs.
func New(log *slog.Logger, sections ...Section) *Loop {
	l := &Loop{log: log, ready: make(chan struct{})}
	for _, s := range sections {
		l.sections = append(l.sections, &section{Section: s, log: log.With("section", s.Name), hint: make(chan struct{}, 1), passed: make(chan struct{})})
	}
	return l
}

// String names the task.
func (l *Loop) String() string { return "reconcile" }

// Ready is closed when the sections run.
func (l *Loop) Ready() <-chan struct{} { return l.ready }

// Run runs the sections until ctx ends.
func (l *Loop) Run(ctx context.Context) error {
	var running sync.WaitGroup
	for _, s := range l.sections {
		running.Go(func() { s.run(ctx) })
	}
	close(l.ready)
	running.Wait()
	return nil
}

// Mark hints that a section may differ from what is wanted. It never blocks;
// a name that is no section's is ignored.
func (l *Loop) Mark(name string) {
	if s := l.find(name); s != nil {
		s.mark()
	}
}

// Wait returns when a pass over the section that began after the call has
// ended, with that pass's error.
func (l *Loop) Wait(ctx context.Context, name string) error {
	s := l.find(name)
	if s == nil {
		return fault.New(fault.Internal, "wait for section %q: there is none", name)
	}
	return s.wait(ctx)
}

// Turn returns when the pass over the section that was under way when it was
// called has ended, at once where none was.
func (l *Loop) Turn(ctx context.Context, name string) error {
	s := l.find(name)
	if s == nil {
		return fault.New(fault.Internal, "wait for section %q: there is none", name)
	}
	s.mu.Lock()
	busy, passed := s.begun != s.ended, s.passed
	s.mu.Unlock()
	if !busy {
		return nil
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w", name, ctx.Err())
	case <-passed:
		return nil
	}
}

// Statuses are the outcomes of all sections, in their order.
func (l *Loop) Statuses() []Status {
	list := make([]Status, 0, len(l.sections))
	for _, s := range l.sections {
		list = append(list, s.status())
	}
	return list
}

func (l *Loop) find(name string) *section {
	at := slices.IndexFunc(l.sections, func(s *section) bool { return s.Name == name })
	if at < 0 {
		return nil
	}
	return l.sections[at]
}

// section is a Section at work.
type section struct {
	Section
	log  *slog.Logger
	hint chan struct{}

	mu     sync.Mutex
	begun  uint64        // passes begun
	ended  uint64        // passes ended
	passed chan struct{} // closed and replaced when a pass ends
	last   Status
	stuck  stuckKeys
}

func (s *section) mark() {
	select {
	case s.hint <- struct{}{}:
	default:
	}
}

func (s *section) run(ctx context.Context) {
	gap := firstGap
	for {
		next := s.pass(ctx)
		if ctx.Err() != nil {
			return
		}
		// Followers of a hint wait for company; then the next hint, retry or
		// resync, whichever is first.
		if !s.pause(ctx, gap, nil) {
			return
		}
		rest := time.Now()
		if !s.pause(ctx, next, s.hint) {
			return
		}
		if gap = min(2*gap, lastGap); time.Since(rest) >= lastGap {
			gap = firstGap
		}
	}
}

// pass runs Reconcile once and returns how long to wait for the next without
// a hint.
func (s *section) pass(ctx context.Context) time.Duration {
	s.mu.Lock()
	s.begun++
	s.mu.Unlock()

	err := s.guarded(ctx)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = s.begun
	close(s.passed)
	s.passed = make(chan struct{})
	return s.account(ctx, err)
}

// guarded turns a panic into an error: a defect in one section must not end
// the process that serves the others.
func (s *section) guarded(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fault.New(fault.Internal, "reconcile %s: %v", s.Name, p)
		}
	}()
	return s.Reconcile(ctx)
}

// account records a pass's outcome and returns how long to wait for the next.
// What changed for the better or the worse is logged, and nothing else: a key
// that stays stuck says so once.
func (s *section) account(ctx context.Context, err error) time.Duration {
	if err != nil && ctx.Err() != nil {
		return 0
	}
	now := time.Now()
	stuck, recovered := s.stuck.update(err, now)
	if len(stuck) > 0 {
		s.log.Warn("not reconciled, trying again", "keys", len(stuck), "error", stuck[0].Error)
	}
	if len(recovered) > 0 {
		s.log.Info("reconciled again", "keys", len(recovered), "first", recovered[0].Key, "tries", recovered[0].Tries, "after", now.Sub(recovered[0].Since).Round(time.Millisecond))
	}
	if err == nil {
		s.last = Status{Name: s.Name}
		return s.Resync
	}
	if s.last.Error == nil {
		s.last = Status{Name: s.Name, Since: now}
	}
	s.last.Error = err
	s.last.Tries++
	s.last.Stuck = s.stuck.sorted()
	return s.stuck.retry()
}

// pause waits for d (0: for ever) or for a hint and reports whether ctx lives.
func (s *section) pause(ctx context.Context, d time.Duration, hint <-chan struct{}) bool {
	var after <-chan time.Time
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		after = timer.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-after:
	case <-hint:
	}
	return true
}

func (s *section) wait(ctx context.Context) error {
	s.mu.Lock()
	target := s.begun + 1
	s.mu.Unlock()
	for {
		s.mark()
		s.mu.Lock()
		done, err, passed := s.ended >= target, s.last.Error, s.passed
		s.mu.Unlock()
		if done {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", s.Name, ctx.Err())
		case <-passed:
		}
	}
}

func (s *section) status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.last
	st.Name = s.Name
	return st
}
