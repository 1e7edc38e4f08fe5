// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// leader is the member that says it leads; nil while none does.
func (c *etcdCluster) leader(ctx context.Context) *member {
	for _, m := range c.members {
		ask, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		leads := m.leads(ask)
		cancel()
		if leads {
			return m
		}
	}
	return nil
}

// leads reads the member's own word from its metrics.
func (m *member) leads(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.client+"/metrics", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer func() { _ = resp.Body.Close() }()
	page, err := io.ReadAll(resp.Body)
	return err == nil && strings.Contains(string(page), "\netcd_server_is_leader 1\n")
}

// tormentLeader kills or freezes the leader every three seconds, brings it
// back, and measures until a write through another member is answered again.
func (c *etcdCluster) tormentLeader() (recovered *[]time.Duration, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	recovered = new([]time.Duration)
	var running sync.WaitGroup
	running.Go(func() {
		for i := 0; pause(ctx, 3*time.Second) == nil; i++ {
			m := c.leader(ctx)
			if m == nil {
				continue
			}
			var others []string
			for _, o := range c.members {
				if o != m {
					others = append(others, o.client)
				}
			}
			s := c.connect(others...)
			back := m.suffer(c.t, i%2 == 0)
			if d, ok := untilWritten(ctx, s); ok {
				*recovered = append(*recovered, d)
			}
			_ = pause(ctx, time.Second)
			back()
			_ = s.Close()
		}
	})
	return recovered, func() { cancel(); running.Wait() }
}

// suffer kills or freezes the member and returns what ends that.
func (m *member) suffer(t testing.TB, kill bool) (back func()) {
	if !kill {
		if err := m.signal(syscall.SIGSTOP); err != nil {
			t.Errorf("freeze: %v", err)
		}
		return func() {
			if err := m.signal(syscall.SIGCONT); err != nil {
				t.Errorf("thaw: %v", err)
			}
		}
	}
	m.kill()
	return func() {
		if err := m.start(); err != nil {
			t.Errorf("start again: %v", err)
		}
	}
}

// untilWritten is how long it takes until a write is answered.
func untilWritten(ctx context.Context, s store.Store) (time.Duration, bool) {
	begin := time.Now()
	for {
		if _, err := s.Put(ctx, store.Key{Kind: store.Election, Name: "probe"}, []byte("{}"), store.AnyRevision); err == nil {
			return time.Since(begin), true
		}
		if pause(ctx, 10*time.Millisecond) != nil {
			return 0, false
		}
	}
}

// TestRaceOnThreeMembers races nodes while the leader of three etcd members
// is killed and frozen in turn.
func TestRaceOnThreeMembers(t *testing.T) {
	row := chaos.Begin(t, "B6", "3 members, every 3 s the leader killed or frozen (SIGSTOP), 50 nodes race for 256 addresses; porcupine", "0 duplicates, 0 leaks")
	seed := chaos.Seed(t)
	etcd := startEtcd(t, 3)
	r := newRace(t, chaos.Scale(3000, 30_000))
	r.limit = time.Duration(chaos.Scale(15, 3600)) * time.Second
	recovered, stop := etcd.tormentLeader()
	took := r.run(seed, func() store.Store { return etcd.connect(etcd.urls()...) })
	stop()
	etcd.ready()
	if got := r.history.linearizable(); got != porcupine.Ok {
		t.Errorf("seed %d: the history of addresses is %s", seed, got)
	}
	left := r.sweep(etcd.connect(etcd.urls()...))
	for _, l := range left {
		t.Errorf("seed %d: left: %s", seed, l)
	}
	if len(*recovered) == 0 || r.stuck.Load() > 0 {
		t.Fatalf("seed %d: %d changes of the leader, %d releases stuck", seed, len(*recovered), r.stuck.Load())
	}
	slices.Sort(*recovered)
	share := 100 * float64(r.completed.Load()) / float64(r.attempts.Load())
	row.Measuredf("0 duplicates and %d leaks in %d allocations, %d leaders lost, seed %d", len(left), r.completed.Load(), len(*recovered), seed)
	row.Measuredf("writes answered again after %s (median), %s (longest); %.2f %% of attempts completed, %.0f/s",
		(*recovered)[len(*recovered)/2].Round(time.Millisecond), (*recovered)[len(*recovered)-1].Round(time.Millisecond), share, float64(r.completed.Load())/took.Seconds())
	t.Log(row.Measured)
}
