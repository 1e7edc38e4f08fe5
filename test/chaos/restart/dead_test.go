// SPDX-License-Identifier: Apache-2.0

package restart

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/speaker"
	"github.com/ocicat-net/ocicat/test/chaos"
	"github.com/ocicat-net/ocicat/test/flow"
)

// TestStaysDead: what an agent that does not come back leaves behind. Its node's
// kernel goes on for ever; its peers keep their routes for the restart time, in
// which nothing is lost, and drop them then. CI sees the beginning.
func TestStaysDead(t *testing.T) {
	for _, p := range peers {
		if p.rib {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.peer = p
			if p.take != nil {
				p.take(t, s, true, nil)
			}
			r := chaos.Begin(t, "D12", "kill -9, the agent stays dead, peer "+p.name,
				fmt.Sprintf("0 packets lost for %v, the dead node's kernel unchanged; then what the peer does", speaker.DefaultRestartTime))
			awaitSettled(t, s)
			// What the node's own kernel does: any event there would be a change.
			events := flow.WatchRoutes(t, s.Netns(dying), stableBlock)
			before := s.Node(dying, "ip route show")
			spared := time.Duration(chaos.Scale(8, 110)) * time.Second
			f := flow.Start(t, s.Netns(sender), s.Netns(receiver), s.to)
			f.Await(t, time.Second/2)
			s.agent.end(t, unix.SIGKILL)
			died := time.Now()
			f.Await(t, spared)
			sent, lost := f.End()
			r.Measuredf("%d of %d packets lost in the first %v", lost, sent, spared)
			if lost != 0 {
				t.Errorf("%d packets lost while the peer waits", lost)
			}
			if chaos.Full() {
				gone := awaitRouteGone(t, s)
				r.Measuredf("peer drops the route %.0f s after the death", gone.Sub(died).Seconds())
			}
			if after := s.Node(dying, "ip route show"); after != before || events.Load() != 0 {
				t.Errorf("routes of the dead node changed, %d events:\n%s\nwere\n%s", events.Load(), after, before)
			}
			s.agent.start(t)
			awaitSession(t, s.Lab, dying)
			awaitKernelRoute(t, s)
			r.Measuredf("0 changes on the dead node; route back once it started again")
		})
	}
}

// awaitSettled waits until the dying node has the peer's route for good.
func awaitSettled(t *testing.T, s *scene) {
	t.Helper()
	client := admin.Dial(s.agent.socket)
	nstest.Eventually(t, 30*time.Second, func() bool {
		sessions, err := client.Sessions(t.Context())
		if err != nil || len(sessions) != 1 || sessions[0].Stale || sessions[0].Received != 1 {
			return false
		}
		routes, err := client.Routes(t.Context())
		return err == nil && len(routes) == 1 && routes[0].State == "installed" &&
			strings.Contains(s.Node(dying, "ip route show "+stableBlock.String()), "via")
	}, "the peer's route is installed")
}

// awaitRouteGone waits until the peer has no route to the dead node's block.
func awaitRouteGone(t *testing.T, s *scene) time.Time {
	t.Helper()
	nstest.Eventually(t, 10*time.Minute, func() bool {
		return !strings.Contains(s.Node(stable, "ip route show "+dyingBlock.String()), "via")
	}, "the peer drops the route to ", dyingBlock)
	return time.Now()
}

// TestDrain: a drained node says goodbye, and its peers turn away at once; a
// restart brings it back.
func TestDrain(t *testing.T) {
	t.Parallel()
	r := chaos.Begin(t, "C11", "ocicat drain, peer our own", "route gone at the peer in < 1 s, stays away, back after a restart")
	s := newScene(t)
	began := time.Now()
	if err := admin.Dial(s.agent.socket).Drain(t.Context(), "maintenance"); err != nil {
		t.Fatal(err)
	}
	gone := awaitRouteGone(t, s).Sub(began)
	sessions, err := admin.Dial(s.AdminSocket(stable)).Sessions(t.Context())
	if err != nil || len(sessions) != 1 || !strings.Contains(sessions[0].Reason, "maintenance") {
		t.Errorf("peer was not told why: %+v, %v", sessions, err)
	}
	r.Measuredf("route gone %d ms after the command, the peer knows the reason", gone.Milliseconds())
	if gone > time.Second {
		t.Errorf("route is gone after %v", gone)
	}
	s.agent.end(t, unix.SIGTERM)
	s.agent.start(t)
	awaitSession(t, s.Lab, dying)
	awaitKernelRoute(t, s)
	r.Measuredf("back after a restart")
}
