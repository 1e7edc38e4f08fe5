// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/cniwire"
)

// BenchmarkAttach is the agent's own share of ADDs and DELs that come eight
// and 32 at a time, without plugin, socket and datastore.
func BenchmarkAttach(b *testing.B) {
	for _, workers := range []int{1, 8, 32} {
		b.Run(fmt.Sprint(workers, "-at-once"), func(b *testing.B) {
			n := newNode(b)
			n.cfg.Log = slog.New(slog.DiscardHandler)
			n.start()
			pods := make([]*pod, 100)
			for i := range pods {
				pods[i] = n.pod(fmt.Sprint("p", i), fmt.Sprint("c", i))
			}
			var adds, dels time.Duration
			for b.Loop() {
				adds += together(workers, pods, func(p *pod) {
					if _, err := n.agent.Add(b.Context(), p.req); err != nil {
						b.Error(err)
					}
				})
				dels += together(workers, pods, func(p *pod) {
					if err := n.agent.Del(b.Context(), cniwire.DelRequest{ID: p.req.ID, Network: p.req.Network}); err != nil {
						b.Error(err)
					}
				})
				for len(n.handles()) > 0 { // the next ADDs find a quiet agent
					<-time.After(time.Millisecond)
				}
			}
			count := float64(b.N * len(pods))
			b.ReportMetric(count/adds.Seconds(), "ADD/s")
			b.ReportMetric(count/dels.Seconds(), "DEL/s")
		})
	}
}

// together does f for all pods, so many at a time, and returns how long it
// took.
func together(workers int, pods []*pod, f func(*pod)) time.Duration {
	work := make(chan *pod)
	var group sync.WaitGroup
	begin := time.Now()
	for range workers {
		group.Go(func() {
			for p := range work {
				f(p)
			}
		})
	}
	for _, p := range pods {
		work <- p
	}
	close(work)
	group.Wait()
	return time.Since(begin)
}
