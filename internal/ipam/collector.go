// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
)

// CollectorConfig is what a Collector needs.
type CollectorConfig struct {
	Client *Client
	Node   string
	// Session tells this run of this agent from every other: instance UID,
	// boot id and something random.
	Session string
	// Times are those of the lease; zero for the default.
	Times Times
	Log   *slog.Logger
}

// Collector gives back what nodes hold that are gone: one agent of the cluster
// does it at a time, elected by a compare-and-swap in the datastore, and the
// others watch it. What it does is safe also with two of them, as all its
// writes are compare-and-swap and each node's are fenced; one is enough work
// for the datastore.
//
// It judges by what it saw itself, on its own monotonic clock, without a gap.
type Collector struct {
	cfg    CollectorConfig
	c      *Client
	log    *slog.Logger
	ready  chan struct{}
	leads  atomic.Bool
	others standstill // of the election, while it is another's
	seen   patience
	last   time.Time // of the last round that was completed
}

// NewCollector returns a Collector; it does nothing before Run.
func NewCollector(cfg CollectorConfig) *Collector {
	if cfg.Times == (Times{}) {
		cfg.Times = DefaultTimes()
	}
	return &Collector{cfg: cfg, c: cfg.Client, log: cfg.Log, ready: make(chan struct{})}
}

// String names the task.
func (*Collector) String() string { return "collector" }

// Ready is closed at once: nothing waits for the collector.
func (k *Collector) Ready() <-chan struct{} { return k.ready }

// Leads reports whether this agent is the one that collects.
func (k *Collector) Leads() bool { return k.leads.Load() }

// election is the stored sign of life of the agent that collects.
type election struct {
	Node    string `json:"node"`
	Session string `json:"session"`
	Counter uint64 `json:"counter"`
}

func electionKey() store.Key { return store.Key{Kind: store.Election, Name: "collector"} }

// Run takes part in the election, and collects while it is won, until ctx
// ends.
func (k *Collector) Run(ctx context.Context) error {
	close(k.ready)
	tick := time.NewTicker(k.cfg.Times.Beat)
	defer tick.Stop()
	failing := false
	for {
		err := k.turn(ctx)
		switch {
		case err != nil && !failing && ctx.Err() == nil:
			k.log.Warn("addresses of nodes that are gone not collected, trying again", "error", err)
		case err == nil && failing:
			k.log.Info("collecting again")
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// turn renews or seeks the election and, if it is won and time has come, does
// a round.
func (k *Collector) turn(ctx context.Context) error {
	start := time.Now()
	won, err := k.elect(ctx)
	if before := k.leads.Swap(won); before != won {
		k.seen = patience{} // what others saw does not count
		if won {
			k.log.Info("collecting the addresses of nodes that are gone", "node", k.cfg.Node)
		}
	}
	if !won || err != nil || time.Since(k.last) < k.cfg.Times.round() {
		return err
	}
	// Nobody else may have taken the election over before that.
	ctx, cancel := context.WithDeadline(ctx, start.Add(k.cfg.Times.Takeover*3/4))
	defer cancel()
	if err := k.round(ctx); err != nil {
		return err
	}
	k.last = start
	return nil
}

// elect reports whether this agent collects until the takeover time from now.
func (k *Collector) elect(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, min(beatTimeout, k.cfg.Times.Takeover/4))
	defer cancel()
	e, err := k.c.Store.Get(ctx, electionKey())
	if err != nil && !fault.Is(err, fault.NotFound) {
		return false, err
	}
	var now election
	if err == nil {
		_ = json.Unmarshal(e.Value, &now) // one that cannot be read is another's
	}
	mine := now.Session == k.cfg.Session && now.Node == k.cfg.Node
	if err == nil && !mine && !k.others.still(e.Revision, k.cfg.Times.Takeover) {
		return false, nil
	}
	data, err := json.Marshal(election{k.cfg.Node, k.cfg.Session, now.Counter + 1})
	if err != nil {
		return false, err
	}
	_, err = k.c.Store.Put(ctx, electionKey(), data, e.Revision)
	if fault.Is(err, fault.Conflict) {
		return false, nil // another was faster, or an own late write: the next turn shows
	}
	return err == nil, err
}

// patience remembers what was seen in each round, and for how long without a
// change and without a gap.
type patience struct {
	rounds    time.Time // of the last round
	now, next map[string]sighting
}

type sighting struct {
	print string // what must not change
	since time.Time
}

// begin starts a round. After a gap, in which the datastore or this agent was
// away, nothing counts that was seen before: nobody could prove that he lives.
func (p *patience) begin(gap time.Duration) {
	if time.Since(p.rounds) > gap {
		p.next = nil
	}
	p.rounds = time.Now()
	p.now, p.next = p.next, map[string]sighting{}
}

// ripe notes that something is seen, and reports whether it was seen in the
// round before as well, and unchanged for d.
func (p *patience) ripe(what, print string, d time.Duration) bool {
	s, known := p.now[what]
	if !known || s.print != print {
		p.next[what] = sighting{print, time.Now()}
		return false
	}
	p.next[what] = s
	return time.Since(s.since) >= d
}
