// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/api/meta"
	v1 "github.com/ocicat-net/ocicat/api/v1"
	"github.com/ocicat-net/ocicat/internal/buildinfo"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/resource"
	"github.com/ocicat-net/ocicat/internal/speaker"
	"github.com/ocicat-net/ocicat/internal/store"
)

// publisher writes the node's NodeStatus: at once when what an operator must
// know changes, soon when the number of pods does, else once a minute.
type publisher struct {
	agent   *Agent
	waiting atomic.Bool // a pass is on its way
	mu      sync.Mutex
	said    string           // the essence last published
	last    []meta.Condition // last published
	when    time.Time        // when
	full    error            // why the datastore takes no write for want of space, nil while it does
}

// podsDelay is how long a new number of pods waits for the next: one write of
// the datastore per ADD would be more than the ADD's own.
const podsDelay = 2 * time.Second

func newPublisher(a *Agent) *publisher { return &publisher{agent: a} }

// podsChanged publishes the number of pods soon. It never blocks.
func (p *publisher) podsChanged() { p.soon(podsDelay) }

// retryDelay is when a status is written again that the datastore did not take.
// Nothing else may happen that would have it written before its minute is over.
const retryDelay = 5 * time.Second

// soon has the status published after a while, once.
func (p *publisher) soon(after time.Duration) {
	if p.waiting.CompareAndSwap(false, true) {
		time.AfterFunc(after, func() {
			p.waiting.Store(false)
			p.agent.loop.Mark(sectionStatus)
		})
	}
}

// publish is the status section of the loop.
func (p *publisher) publish(ctx context.Context) error {
	if k := p.agent.cfg.Kubernetes; k != nil {
		k.Tell(p.agent.problems())
	}
	report := p.agent.Report()
	essence := essenceOf(report)
	p.mu.Lock()
	due, first := essence != p.said || time.Since(p.when) >= v1.StatusInterval-time.Second, p.last == nil
	p.mu.Unlock()
	if !due {
		return nil
	}
	if err := p.agent.recallEnvironment(ctx); err != nil {
		p.soon(retryDelay)
		return nil // told once as OC5003
	}
	if first {
		report = p.agent.Report() // now that it is known since when conditions are what they are
		essence = essenceOf(report)
	}
	report.Status.AppliedEnvironment = p.agent.environment()
	value, err := resource.Encode(report, nil)
	if err != nil {
		return err
	}
	// Only this agent writes the object: the last write is the truth.
	key := store.Key{Kind: store.NodeStatus, Name: report.Metadata.Name}
	if _, err := p.agent.cfg.Store.Put(ctx, key, value, store.AnyRevision); err != nil {
		if fault.Is(err, fault.Unavailable) {
			p.soon(retryDelay)
			return nil // told once as OC5003
		}
		if fault.Is(err, fault.Exhausted) {
			p.mu.Lock()
			p.full = err
			p.mu.Unlock()
		}
		return err
	}
	p.mu.Lock()
	p.said, p.when, p.full, p.last = essence, time.Now(), nil, report.Status.Conditions
	p.mu.Unlock()
	return nil
}

// Problems is what keeps the status from being written and does not show as
// contact lost: a datastore out of space still answers reads.
func (p *publisher) Problems() []problem.Problem {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.full == nil {
		return nil
	}
	return []problem.Problem{problem.New(problem.StoreFull, "", p.full)}
}

// essenceOf is what of a report is published at once when it changes.
func essenceOf(s *v1.NodeStatus) string {
	r := s.Status
	essence := v1.NodeReport{AppliedEnvironment: r.AppliedEnvironment, Ready: r.Ready, Conditions: r.Conditions, Address: r.Address, AddressChoice: r.AddressChoice, AS: r.AS, Blocks: r.Blocks, Problems: r.Problems, Agent: v1.AgentInfo{Started: r.Agent.Started}}
	essence.Counts = v1.Counts{RoutesWanted: r.Counts.RoutesWanted, RoutesInstalled: r.Counts.RoutesInstalled, Pods: r.Counts.Pods}
	for _, session := range r.Sessions {
		essence.Sessions = append(essence.Sessions, v1.Session{Peer: session.Peer, State: session.State, Received: session.Received, Sent: session.Sent})
	}
	text, _ := json.Marshal(essence) // plain values always encode
	return string(text)
}

// conditions are those of a report. They keep the times of what was published
// last, at first by the agent before this one.
func (p *publisher) conditions(r v1.NodeReport, notReady error) []meta.Condition {
	before := p.agent.conditionsBefore()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last != nil {
		before = p.last
	}
	return conditionsOf(r, notReady, before, time.Now())
}

// Report is the node's state now.
func (a *Agent) Report() *v1.NodeStatus {
	snap := a.feed.Snapshot()
	build := buildinfo.Read()
	state := a.reserve.State()
	status := &v1.NodeStatus{
		Type:     meta.Type{APIVersion: v1.APIVersion, Kind: v1.KindNodeStatus},
		Metadata: meta.Object{Name: string(snap.Self)},
	}
	r := &status.Status
	r.Heartbeat = time.Now().UTC()
	r.Agent = v1.AgentInfo{
		Version: build.Version, Commit: build.Commit, Started: a.started.UTC(), MemoryBytes: residentMemory(),
		Instance: a.id.Instance, BootID: a.id.BootID, Kernel: kernelRelease(),
	}
	if me := snap.Me(); me.Address.IsValid() {
		r.Address = me.Address.String()
	}
	r.AS, r.Uplink, r.Mode, r.Mesh = uint32(a.localAS(snap)), snap.Host.Uplink, "BGP", snap.BGP.Mesh
	r.AddressChoice = a.addressReport()
	notReady := a.Ready()
	r.Ready = notReady == nil
	r.AppliedEnvironment = a.environment()
	for _, b := range snap.Blocks {
		r.Blocks = append(r.Blocks, b.CIDR.String())
	}
	for _, s := range a.speaker.Sessions() {
		r.Sessions = append(r.Sessions, sessionReport(s))
	}
	if err := a.resources.Err(); err != nil {
		r.Store = err.Error()
	}
	r.Counts = v1.Counts{Pods: len(snap.Endpoints), ReserveHeld: state.Held, ReserveLeaseSeconds: state.Lease.Seconds(), WritesPending: state.Pending}
	if last := a.last.Load(); last != nil {
		r.Counts.Drift = last.writes.Len()
		r.Counts.RoutesWanted, r.Counts.RoutesInstalled = last.wantedRoutes, last.installedRoutes
	}
	for _, p := range a.problems() {
		r.Problems = append(r.Problems, v1.Problem{Code: string(p.Code), Object: p.Object, Text: p.Text, Remedy: p.Remedy})
	}
	r.Conditions = a.publisher.conditions(*r, notReady)
	return status
}

// problems are everything wrong on this node, sorted.
func (a *Agent) problems() []problem.Problem {
	list := slices.Clone(a.cfg.Problems)
	list = append(list, a.resources.Problems()...)
	list = append(list, a.publisher.Problems()...)
	list = append(list, a.speakerProblems()...)
	list = append(list, a.uplinkProblems()...)
	list = append(list, a.filter.Problems()...)
	list = append(list, a.scrapes.Problems()...)
	list = append(list, a.installer.Problems()...)
	list = append(list, a.health.Problems()...)
	list = append(list, a.kubernetesProblems()...)
	list = append(list, a.lockProblems()...)
	list = append(list, a.reserve.State().Problems...)
	if last := a.last.Load(); last != nil {
		list = append(list, last.problems...)
	}
	if err := a.resources.Err(); err != nil {
		list = append(list, storeProblem(err))
	}
	return problem.Sort(list)
}

// downGrace is how long a session may take before that is a problem: both
// ends of a healthy one need well under a second.
const downGrace = 5 * time.Second

func (a *Agent) speakerProblems() []problem.Problem {
	var list []problem.Problem
	if decided := a.peerProblems.Load(); decided != nil {
		list = append(list, *decided...)
	}
	for _, s := range a.speaker.Sessions() {
		if s.State == speaker.Established || time.Since(a.started) < downGrace || (s.Reason == "" && time.Since(s.Since) < downGrace) {
			continue
		}
		peer := s.Peer.String()
		if s.Name != "" {
			peer = s.Name + " (" + peer + ")"
		}
		reason := s.Reason
		if reason == "" {
			reason = "no answer yet"
		}
		list = append(list, problem.New(problem.SessionDown, s.Peer.String(), peer, "down", reason))
	}
	return list
}

func sessionReport(s speaker.Session) v1.Session {
	report := v1.Session{
		Peer: s.Peer.String(), Name: s.Name, Type: string(s.Kind), AS: uint32(s.AS), State: string(s.State), Since: s.Since.UTC(),
		Received: s.Received, Sent: s.Sent, Stale: s.Stale, Reason: s.Reason, HoldSeconds: s.Hold, MD5: s.MD5, Flaps: s.Flaps,
	}
	if s.RouterID.IsValid() {
		report.RouterID = s.RouterID.String()
	}
	return report
}

// learnedCounts are the routes to other nodes, wanted and found.
func learnedCounts(want, seen host.State) (wanted, installed int) {
	for key, r := range want.Routes {
		if r.Type != host.Unicast || !r.Via.IsValid() {
			continue
		}
		wanted++
		if present, ok := seen.Routes[key]; ok && sameRoute(r, present) {
			installed++
		}
	}
	return wanted, installed
}

// residentMemory is the resident set in bytes, 0 where /proc does not tell.
func residentMemory() uint64 {
	raw, err := os.ReadFile("/proc/self/statm")
	fields := strings.Fields(string(raw))
	if err != nil || len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseUint(fields[1], 10, 64)
	return pages * uint64(os.Getpagesize())
}

func kernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// storeProblem is the problem behind an error of the datastore, with the
// error's own remedy where it has one.
func storeProblem(err error) problem.Problem {
	code := problem.StoreAway
	if errors.Is(err, store.ErrDenied) {
		code = problem.StoreDenied
	}
	p := problem.New(code, "", err)
	if hint := fault.HintOf(err); hint != "" {
		p.Remedy = strings.ToUpper(hint[:1]) + hint[1:] + ". " + p.Remedy
	}
	return p
}
