// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/test/chaos"
)

// again is the aim of A2, with what was measured of another plugin.
const again = "ADD again succeeds always (ptp with host-local: 20 of 44)"

// tally counts what became of the points of a sweep.
type tally struct {
	points, failed, leaked int
}

func (s tally) record(r *chaos.Record, what string) {
	r.Measuredf("%d points: %d %s failed, %d leaks", s.points, s.failed, what, s.leaked)
}

// TestPluginKilled kills the plugin before each of its system calls.
func TestPluginKilled(t *testing.T) {
	w := up(t)
	for _, c := range []struct {
		id, verb, then, aim string
		stride              int
	}{
		{"A2", "ADD", "ADD", again + "; 0 leaks", chaos.Scale(9, 1)},
		{"A3", "ADD", "DEL", "DEL answers 0 always, 0 leaks", chaos.Scale(9, 1)},
		{"A4", "DEL", "DEL", "DEL answers 0 always, 0 leaks", chaos.Scale(9, 1)},
	} {
		t.Run(c.id, func(t *testing.T) {
			w := *w
			w.t = t
			r := chaos.Begin(t, c.id, fmt.Sprintf("plugin killed before every system call of %s, then %s", c.verb, c.then), c.aim)
			var s tally
			for at := 1; ; at += c.stride {
				if !w.killPlugin(&s, c.verb, c.then, at) {
					break
				}
			}
			if s.points < 5 {
				t.Errorf("%d points: the meter does not work", s.points)
			}
			s.record(r, c.then)
		})
	}
}

// killPlugin is one point of a sweep; false says that the plugin ended
// unhurt.
func (w *world) killPlugin(s *tally, verb, then string, at int) bool {
	w.t.Helper()
	id := fmt.Sprintf("p%s%s%d", verb, then, at)
	if verb == "DEL" {
		w.mustAdd(id)
	}
	p, _ := w.traced(verb, id, at)
	hit := p.hit.Load()
	if hit {
		s.points++
	}
	w.finish(s, id, then, fmt.Sprintf("%s killed before call %d, %s", verb, at, p.what))
	return hit
}

// finish does what a runtime does after a kill, and counts what is left.
func (w *world) finish(s *tally, id, then, after string) {
	w.t.Helper()
	if then == "ADD" {
		if a := w.call("ADD", id); a.code != 0 {
			s.failed++
			w.t.Errorf("%s: ADD again: %s", after, a)
		} else if !w.clean(after+", ADD again", id) || !w.attached(id, a.addrs(w.t)) {
			s.leaked++
		}
	}
	for range 2 {
		if a := w.call("DEL", id); a.code != 0 || a.out != "\n" && a.out != "" {
			s.failed++
			w.t.Errorf("%s: DEL: %s", after, a)
		}
	}
	if !w.clean(after + ", DEL") {
		s.leaked++
		w.t.FailNow() // what leaks once leaks from here on
	}
}

// attached checks that what ADD answered is so: the pod has the address, and
// reaches its node.
func (w *world) attached(id string, addrs []netip.Prefix) bool {
	w.t.Helper()
	held, _ := w.recorded([]string{id})
	if len(addrs) != 1 || addrs[0].Addr() != held[id].Endpoint.Addr {
		w.t.Errorf("%s: answered %v, recorded %v", id, addrs, held[id].Endpoint.Addr)
		return false
	}
	if out, err := w.pod.Command("busybox", "ping", "-c", "1", "-W", "2", "192.168.0.11").CombinedOutput(); err != nil {
		w.t.Errorf("%s does not reach its node: %s", id, out)
		return false
	}
	return true
}

// TestAgentKilled kills the agent before each system call by which it changes
// anything, from the moment a request comes until all that follows from it is
// done.
func TestAgentKilled(t *testing.T) {
	w := up(t)
	for _, c := range []struct {
		id, verb, then, aim string
	}{
		{"A2", "ADD", "ADD", again + "; 0 leaks"},
		{"A3", "ADD", "DEL", "DEL answers 0 always, 0 leaks"},
		{"A4", "DEL", "DEL", "DEL answers 0 always, 0 leaks"},
	} {
		t.Run(c.id, func(t *testing.T) {
			w := *w
			w.t = t
			r := chaos.Begin(t, c.id, fmt.Sprintf("agent killed before every write, send, open, rename of %s, then %s", c.verb, c.then), c.aim)
			var s tally
			stride := chaos.Scale(2, 1)
			rounds := chaos.Scale(1, 10) // what runs beside the request differs
			for range rounds {
				for at := 1; w.killAgent(&s, c.verb, c.then, at); at += stride {
				}
			}
			if s.points < 10*rounds/stride {
				t.Errorf("%d points: the meter does not work", s.points)
			}
			s.record(r, c.then)
		})
	}
}

// killAgent is one point of a sweep; false says that all was done before the
// agent came that far. It is killed then, too.
func (w *world) killAgent(s *tally, verb, then string, at int) bool {
	w.t.Helper()
	id := fmt.Sprintf("a%s%s%d.%d", verb, then, s.points, at)
	if verb == "DEL" {
		w.mustAdd(id)
		w.clean("ADD", id)
	}
	p := attach(w.t, w.agentPID(), at, effect)
	answered := w.call(verb, id)
	if verb == "DEL" && answered.code != 0 {
		s.failed++
		w.t.Errorf("DEL whose agent is killed before call %d: %s", at, answered)
	}
	w.settle(p, answered, func() bool { return w.written(id) == (verb == "ADD") })
	hit := p.hit.Load()
	p.kill(w.t)
	if hit {
		s.points++
	}
	w.restart()
	w.finish(s, id, then, fmt.Sprintf("agent killed before call %d, %s, of %s (%s)", at, p.what, verb, answered))
	return hit
}

// settle waits until the agent is dead or has done all that follows from a
// request: the datastore has it, and nothing more is written.
func (w *world) settle(p *tracee, answered answer, inDatastore func() bool) {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); !p.ended(); <-time.After(5 * time.Millisecond) {
		if p.quiet(100*time.Millisecond) && inDatastore() {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("agent neither dead nor done: %d calls seen, killed %t, answered %s", p.count.Load(), p.hit.Load(), answered)
		}
	}
}
