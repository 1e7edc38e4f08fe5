// SPDX-License-Identifier: Apache-2.0

package restart

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/speaker"
	"github.com/ocicat-net/ocicat/test/chaos"
	"github.com/ocicat-net/ocicat/test/flow"
	"github.com/ocicat-net/ocicat/test/labtest"
)

// dead are the nodes of a mesh that do not come back: its last ones.
const dead = 2

// mesh is a lab whose agents die and start all at once.
type mesh struct {
	*labtest.Lab
	agents []*agent
	addrs  []netip.Addr
}

// TestMesh ends all agents at once; all but two start again, first with their
// routes still in the kernels, then, as after a boot, without.
func TestMesh(t *testing.T) {
	t.Parallel()
	nodes := chaos.Scale(10, 20)
	m := &mesh{Lab: labtest.Up(t, nodes, nil, nil)}
	state, err := m.State()
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range state.Nodes {
		m.agents = append(m.agents, newAgent(t, m.Lab, n.Name))
		m.addrs = append(m.addrs, state.Topology.Nodes[i].Addr.Addr())
	}
	limit := 5 * time.Second
	r := chaos.Begin(t, "C14", fmt.Sprintf("kill -9 of all %d nodes at once, %d stay dead", nodes, dead),
		"every route back everywhere in < 5 s, no wait on the dead")

	var events []*atomic.Int64
	for _, a := range m.agents[:3] {
		events = append(events, flow.WatchRoutes(t, m.Netns(a.node), netip.Prefix{}))
	}
	m.killAll(t)
	took := m.startAll(t)
	changed := int64(0)
	for _, e := range events {
		changed += e.Load()
	}
	r.Measuredf("kernels as they were: all sessions up and every route verified %d ms after the start, %d route events on 3 nodes", took.Milliseconds(), changed)
	if took >= limit || changed != 0 {
		t.Errorf("took %v, %d route events: want less than %v and none", took, changed, limit)
	}

	m.killAll(t)
	for _, a := range m.agents {
		m.Node(a.node, "ip route flush proto bird")
	}
	took = m.startAll(t)
	r.Measuredf("kernels without routes: every route back everywhere %d ms after the start", took.Milliseconds())
	if took >= limit {
		t.Errorf("routes were back after %v, want less than %v", took, limit)
	}
	r.Twinf("%d route events on the same 3 nodes when the routes were flushed", total(events)-changed)
	if total(events) == changed {
		t.Error("the meter sees no flush")
	}
}

func total(counts []*atomic.Int64) (sum int64) {
	for _, c := range counts {
		sum += c.Load()
	}
	return sum
}

func (m *mesh) live() []*agent { return m.agents[:len(m.agents)-dead] }

// killAll kills what runs, first all, then it waits.
func (m *mesh) killAll(t *testing.T) {
	t.Helper()
	var running []*agent
	for _, a := range m.agents {
		if a.pid != 0 {
			a.signal(unix.SIGKILL)
			running = append(running, a)
		}
	}
	for _, a := range running {
		a.awaitEnd(t)
	}
}

// startAll starts all but the dead; it says how long it took until each has a
// session with each, and each other's route in its kernel.
func (m *mesh) startAll(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	for _, a := range m.live() {
		a.start(t)
	}
	var last string
	for _, a := range m.live() {
		nstest.Eventually(t, 60*time.Second, func() bool {
			last = m.missing(t, a)
			return last == ""
		}, "routes are back on ", a.node, &last)
	}
	took := time.Since(began)
	for i, a := range m.live() {
		routes := m.Node(a.node, "ip route show proto bird")
		for j := range m.live() {
			if via := fmt.Sprintf("via %v ", m.addrs[j]); i != j && !strings.Contains(routes, via) {
				t.Errorf("%s has no route %s in its kernel:\n%s", a.node, via, routes)
			}
		}
	}
	return took
}

// missing is what a node has not got back, "" for nothing.
func (m *mesh) missing(t *testing.T, a *agent) string {
	client := admin.Dial(a.socket)
	sessions, err := client.Sessions(t.Context())
	if err != nil {
		return err.Error()
	}
	up := map[netip.Addr]bool{}
	for _, s := range sessions {
		up[s.Peer] = s.State == speaker.Established && s.Received > 0 && !s.Stale
	}
	routes, err := client.Routes(t.Context())
	if err != nil {
		return err.Error()
	}
	var installed strings.Builder
	for _, r := range routes {
		if r.State == "installed" {
			fmt.Fprintln(&installed, r.Want)
		}
	}
	for i, other := range m.live() {
		addr := m.addrs[i]
		if there := strings.Contains(installed.String(), fmt.Sprintf("via %v ", addr)); other != a && (!up[addr] || !there) {
			return fmt.Sprintf("%v: session up %t, route installed %t", addr, up[addr], there)
		}
	}
	return ""
}
