// SPDX-License-Identifier: Apache-2.0

package restart

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/test/chaos"
	"github.com/ocicat-net/ocicat/test/flow"
)

// event is something that befalls the agent of the dying node.
type event struct {
	id, how string
	// happen does it, while packets flow, and returns when the agent is there
	// again and its session up.
	happen func(t *testing.T, s *scene, f *flow.Flow, r *chaos.Record)
}

// down is how long an agent that was killed stays away.
const down = 500 * time.Millisecond

func frozen() time.Duration { return time.Duration(chaos.Scale(15, 60)) * time.Second }

// soon is when BGP must be up again after a start, if the peer lets us.
const soon = 3 * time.Second

// after is how long a flow goes on after an event.
func after() time.Duration { return time.Duration(chaos.Scale(2, 10)) * time.Second }

// events in their order; the last leaves the datastore dead.
func events() []event {
	return []event{
		{"C9", "kill -9", killed},
		{"C10", "SIGTERM", func(t *testing.T, s *scene, _ *flow.Flow, r *chaos.Record) {
			s.agent.end(t, unix.SIGTERM)
			restarted(t, s, r)
		}},
		{"C10", "upgrade to another build", func(t *testing.T, s *scene, _ *flow.Flow, _ *chaos.Record) { s.agent.upgrade(t, s.Lab) }},
		{"F4", "killed by the memory limit of a cgroup (version 1)", func(t *testing.T, s *scene, f *flow.Flow, r *chaos.Record) {
			if kills := s.agent.starve(t); kills != 1 {
				t.Errorf("the kernel killed %d processes by the limit, want 1", kills)
			}
			f.Await(t, down)
			restarted(t, s, r)
		}},
		{"C8", fmt.Sprintf("frozen for %v (SIGSTOP)", frozen()), func(t *testing.T, s *scene, f *flow.Flow, _ *chaos.Record) {
			s.agent.signal(unix.SIGSTOP)
			f.Await(t, frozen())
			s.agent.signal(unix.SIGCONT)
			awaitSession(t, s.Lab, dying)
		}},
		{"E2", "datastore killed, then the agent by kill -9", func(t *testing.T, s *scene, f *flow.Flow, r *chaos.Record) {
			state, err := s.State()
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Kill(state.Datastore.PID, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			f.Await(t, down)
			s.agent.end(t, unix.SIGKILL)
			if took := restarted(t, s, r); took >= soon+s.peer.idle {
				t.Errorf("BGP is up %v after the start, want less than %v", took, soon+s.peer.idle)
			}
		}},
	}
}

func killed(t *testing.T, s *scene, f *flow.Flow, r *chaos.Record) {
	s.agent.end(t, unix.SIGKILL)
	f.Await(t, down)
	restarted(t, s, r)
}

// restarted starts the agent; it says how long its session took.
func restarted(t *testing.T, s *scene, r *chaos.Record) time.Duration {
	t.Helper()
	s.agent.start(t)
	took := awaitSession(t, s.Lab, dying)
	if r != nil {
		r.Measuredf("BGP up %d ms after the start", took.Milliseconds())
	}
	return took
}

// meter runs a flow across an event.
func (p peer) meter(t *testing.T, s *scene, happen func(*flow.Flow)) (sent, lost, events int64, gap time.Duration) {
	t.Helper()
	seen := p.watch(t, s)
	f := flow.Start(t, s.Netns(sender), s.Netns(receiver), s.to)
	f.Await(t, time.Second/2)
	happen(f)
	f.Await(t, after())
	sent, lost = f.End()
	return sent, lost, seen.Load(), f.Longest()
}

// TestRestarts is every event with every peer.
func TestRestarts(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.peer = p
			var stands *daemons
			place := func(t *testing.T, graceful bool) {
				if p.take != nil {
					stands = p.take(t, s, graceful, stands)
				}
			}
			twins := map[string]string{}
			place(t, false)
			for _, e := range p.twins() {
				twins[e.how] = p.twin(t, s, e)
			}
			place(t, true)
			for _, e := range p.events() {
				t.Run(strings.Fields(e.how)[0], func(t *testing.T) { p.spared(t, s, e, twins[e.how]) })
			}
		})
	}
}

// events are those that the peer sees: in CI fewer for one that makes each take
// seconds longer.
func (p peer) events() []event {
	all := events()
	if p.idle == 0 || chaos.Full() {
		return all
	}
	return []event{all[0], all[4], all[5]}
}

// twins are the events that a peer without graceful restart shows: all but
// that which leaves the datastore dead, in CI the first. For our own agent it
// is a Cease, whatever the event.
func (p peer) twins() []event {
	if p.take == nil || !chaos.Full() {
		return events()[:1]
	}
	return events()[:5]
}

// twin has the event happen where it must be seen; it says what was.
func (p peer) twin(t *testing.T, s *scene, e event) string {
	t.Helper()
	_, lost, seen, _ := p.meter(t, s, func(f *flow.Flow) {
		if p.take != nil {
			e.happen(t, s, f, nil)
			return
		}
		if err := admin.Dial(s.agent.socket).Drain(t.Context(), "test"); err != nil {
			t.Fatal(err)
		}
		f.Await(t, down)
		killed(t, s, f, nil)
	})
	// The first event proves the meter; a peer that takes a moment to act on a
	// later one may meet the agent's next start.
	if first := events()[0]; e.id == first.id && (seen == 0 || lost == 0 && !p.rib) {
		t.Errorf("%s without graceful restart: %d packets lost, %d route events: the meter sees nothing", e.how, lost, seen)
	}
	what := "without graceful restart"
	if p.take == nil {
		what = "with a Cease"
	}
	if p.rib {
		return fmt.Sprintf("%s %d RIB events", what, seen)
	}
	return fmt.Sprintf("%s %d packets lost, %d route events", what, lost, seen)
}

// spared has the event happen where nothing may be seen.
func (p peer) spared(t *testing.T, s *scene, e event, twin string) {
	aim := "0 packets lost, 0 route events in the peer's kernel"
	if p.rib {
		aim = "0 RIB events at the peer"
	}
	if e.id == "E2" {
		aim += ", BGP up < 3 s"
	}
	if e.id == "E2" && p.idle > 0 {
		aim += fmt.Sprintf(" after the %v that the peer refuses connections", p.idle)
	}
	r := chaos.Begin(t, e.id, fmt.Sprintf("%s, peer %s, %d packets/s", e.how, p.name, flow.Rate()), aim)
	sent, lost, events, gap := p.meter(t, s, func(f *flow.Flow) { e.happen(t, s, f, r) })
	if p.rib {
		r.Measuredf("%d RIB events", events)
	} else {
		r.Measuredf("%d of %d packets lost, longest gap %d ms, %d route events", lost, sent, gap.Milliseconds(), events)
	}
	if twin != "" {
		r.Twinf("%s", twin)
	}
	t.Logf("%s, %s: %v", p.name, e.how, r.Measured)
	if events != 0 || lost != 0 && !p.rib {
		t.Errorf("%d packets lost, %d route events: want none", lost, events)
	}
}
