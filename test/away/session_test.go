// SPDX-License-Identifier: Apache-2.0

package away

import (
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// Both agents started together are Established in under a second, and so is a
// session whose one end crashed.
func TestSessionsInASecond(t *testing.T) {
	w := up(t)
	for range 3 {
		w.killAgent(master)
		w.killAgent(worker)
		// Starting waits until the agent serves: together, that is until both do.
		started := make(chan time.Time, 2)
		for _, node := range []string{master, worker} {
			go func() {
				nstest.Eventually(t, 10*time.Second, func() bool { return w.admin(node).Ready(t.Context()) == nil }, node, " ready")
				started <- time.Now()
			}()
		}
		w.resume()
		<-started
		<-started
		w.quick(t, "both ends started together")
	}
	for range 3 {
		w.killAgent(master)
		w.startAgent(master)
		w.quick(t, "one end crashed")
	}
	w.reunited("m", "w")
}

// quick checks that both ends' sessions were up within a second of the start
// of the later agent.
func (w *world) quick(t *testing.T, what string) {
	t.Helper()
	w.established(master, 5*time.Second)
	w.established(worker, 5*time.Second)
	var start, up time.Time
	for _, node := range []string{master, worker} {
		if s := w.report(node).Agent.Started; s.After(start) {
			start = s
		}
		s := w.session(node)
		if s.State != speaker.Established {
			t.Fatalf("%s: session of %s: %s", what, node, s.State)
		}
		if s.Since.After(up) {
			up = s.Since
		}
	}
	took := up.Sub(start)
	t.Logf("%s: Established %s after the later start", what, took)
	if took > time.Second || took < 0 {
		t.Errorf("%s: Established after %s, want under a second", what, took)
	}
}
