// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/health"
	"github.com/ocicat-net/ocicat/internal/install"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// startWindow is how long after its start an agent waits for its sessions
// before it is ready: a rolling update then goes on to the next node only
// when this one has its routes. A peer that is dead holds it up for as long.
const startWindow = 30 * time.Second

// installing adds what puts the CNI plugin on the host.
func (a *Agent) installing() error {
	if a.cfg.Install == nil {
		return nil
	}
	installer, err := install.New(install.Options{
		Config: *a.cfg.Install, Ready: a.awaitReady, Log: a.log,
		Changed: func() { a.loop.Mark(sectionStatus) },
	})
	a.installer = installer
	return err
}

// awaitReady returns when the agent is Ready, or an error when ctx ends.
func (a *Agent) awaitReady(ctx context.Context) error {
	for _, done := range []<-chan struct{}{a.filter.settled, a.door.Ready(), a.verified} {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-done:
		}
	}
	return a.Ready()
}

// probing adds what answers Kubernetes' probes.
func (a *Agent) probing() {
	if !a.cfg.Health.IsValid() {
		return
	}
	a.beats = health.NewBeats(a.liveLoops()...)
	changed := func() { a.loop.Mark(sectionStatus) }
	a.health = health.NewServer(a.cfg.Health, health.Probes{Alive: a.beats.Alive, Ready: a.probeReady}, a.log, changed)
}

// liveLoops are what must go on for the node to be served. What waits for the
// datastore is none of them: a restart would not bring it back.
func (a *Agent) liveLoops() []health.Loop {
	var loops []health.Loop
	for _, section := range []string{sectionKernel, sectionSpeaker, sectionFilter} {
		loops = append(loops, health.Loop{Name: "reconciling the " + section, Turn: func(ctx context.Context) error { return a.loop.Turn(ctx, section) }})
	}
	door := cniwire.Client{Path: filepath.Join(a.cfg.RunDir, "cni.sock"), Timeout: health.StuckAfter}
	return append(loops,
		health.Loop{Name: "BGP", Turn: func(context.Context) error { a.speaker.Sessions(); a.speaker.Learned(); return nil }},
		health.Loop{Name: "addresses", Turn: func(context.Context) error { a.reserve.State(); return nil }},
		health.Loop{Name: "attachments", Turn: func(context.Context) error { a.journal.List(); return nil }},
		health.Loop{Name: "answering the CNI plugin", Turn: func(ctx context.Context) error { return knock(ctx, door) }},
	)
}

// knock asks at the plugin's door. Any answer, and a door that is not open
// yet, is one of a loop that turns; to be left without one is not.
func knock(ctx context.Context, door cniwire.Client) error {
	start := time.Now()
	err := door.Status(cniwire.StatusRequest{})
	if ctx.Err() == nil && time.Since(start) >= door.Timeout {
		return err
	}
	return nil
}

// probeReady is nil when the node should count as ready: the agent is Ready,
// the plugin installed, and the start's sessions are as they should be or
// were waited for long enough. Later nothing of BGP counts: a restart of a
// peer must not take nodes out of service.
func (a *Agent) probeReady() error {
	if err := a.Ready(); err != nil {
		return err
	}
	if a.installer != nil {
		select {
		case <-a.installer.Installed():
		default:
			return fault.New(fault.Unavailable, "the CNI plugin is not installed yet")
		}
	}
	return a.start.pass(time.Since(a.started), a.converging)
}

// startGate holds readiness back in an agent's first seconds, and once open
// stays so.
type startGate struct{ open atomic.Bool }

// pass is nil once the window is over or converging was nil once, and else
// the latter's reason.
func (g *startGate) pass(age time.Duration, converging func() error) error {
	if g.open.Load() {
		return nil
	}
	if age < startWindow {
		if err := converging(); err != nil {
			return err
		}
	}
	g.open.Store(true)
	return nil
}

// converging says what of BGP the start still waits for.
func (a *Agent) converging() error {
	if a.peerProblems.Load() == nil {
		return fault.New(fault.Unavailable, "the BGP speaker has no peers yet")
	}
	sessions := a.speaker.Sessions()
	up := 0
	for _, s := range sessions {
		if s.State == speaker.Established {
			up++
		}
	}
	if up < len(sessions) {
		return fault.New(fault.Unavailable, "%d of %d BGP sessions established", up, len(sessions))
	}
	if unsynced, _ := a.speaker.Unsynced(); len(unsynced) > 0 {
		return fault.New(fault.Unavailable, "routes of %d of %d BGP peers not complete yet", len(unsynced), len(sessions))
	}
	return nil
}
