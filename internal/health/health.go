// SPDX-License-Identifier: Apache-2.0

// Package health answers Kubernetes' probes over HTTP: is the process alive,
// which is that every loop of it still turns, and is it ready, which its owner
// decides. Nothing outside the process makes it dead: a restart would not
// help.
package health

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// Times. A loop is asked for a turn every interval; one that has not ended a
// turn for StuckAfter, far above what work takes on a slow and busy machine,
// is stuck.
const (
	interval   = 2 * time.Second
	StuckAfter = 60 * time.Second
)

// Loop is one thing that must go on.
type Loop struct {
	// Name says what it does.
	Name string
	// Turn returns once the loop has ended what it was at when Turn was
	// called, at once where that was nothing. It may hang if the loop does,
	// and must not wait for anything outside this process.
	Turn func(ctx context.Context) error
}

// Beats is the task that asks loops for turns. Make one with NewBeats.
type Beats struct {
	// StuckAfter is the constant of that name; a test may be less patient.
	StuckAfter time.Duration

	loops []Loop

	mu   sync.Mutex
	last []time.Time // end of each loop's last turn
}

// NewBeats returns the task for loops, which count as having turned now.
func NewBeats(loops ...Loop) *Beats {
	b := &Beats{StuckAfter: StuckAfter, loops: loops, last: make([]time.Time, len(loops))}
	for n := range b.last {
		b.last[n] = time.Now()
	}
	return b
}

// String names the task.
func (b *Beats) String() string { return "beats" }

// Run asks until ctx ends. A turn that hangs does not keep it from ending.
func (b *Beats) Run(ctx context.Context) error {
	for n := range b.loops {
		go b.follow(ctx, n)
	}
	<-ctx.Done()
	return nil
}

func (b *Beats) follow(ctx context.Context, n int) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if b.loops[n].Turn(ctx) == nil {
			b.mu.Lock()
			b.last[n] = time.Now()
			b.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Alive is nil while every loop turns, else Internal and says which do not.
func (b *Beats) Alive() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var stuck []string
	for n, loop := range b.loops {
		if since := time.Since(b.last[n]); since > b.StuckAfter {
			stuck = append(stuck, fmt.Sprintf("%s for %s", loop.Name, since.Round(time.Second)))
		}
	}
	if len(stuck) == 0 {
		return nil
	}
	return fault.New(fault.Internal, "stuck: %s", strings.Join(stuck, ", "))
}
