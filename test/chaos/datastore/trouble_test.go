// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	v1 "github.com/ocicat-net/ocicat/api/v1"
	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/speaker"
	"github.com/ocicat-net/ocicat/test/chaos"
	"github.com/ocicat-net/ocicat/test/labtest"
)

// cluster is a lab of two nodes whose datastore is the test's.
type cluster struct {
	*labtest.Lab
	t     *testing.T
	db    *datastore
	nodes []string
}

// TestTrouble has one lab go through a slow and a frozen datastore.
func TestTrouble(t *testing.T) {
	nodes := []string{"k8s-master-1", "k8s-node-1"}
	l := labtest.Up(t, 2, []lab.PodSpec{{Namespace: "devops", Name: "m", Node: nodes[0]}, {Namespace: "devops", Name: "w", Node: nodes[1]}}, nil)
	c := &cluster{l, t, takeOver(t, l), nodes}
	c.eventually("OC5003", false, 20*time.Second)
	t.Run("slow", func(t *testing.T) { c.in(t).slow() })
	t.Run("frozen", func(t *testing.T) { c.in(t).frozen() })
	t.Run("full", func(t *testing.T) { c.in(t).full() })
	t.Run("dead", func(t *testing.T) { c.in(t).dead() })
}

func (c *cluster) in(t *testing.T) *cluster {
	return &cluster{c.Lab, t, c.db, c.nodes}
}

func (c *cluster) slow() {
	r := chaos.Begin(c.t, "E4", "every answer of a real etcd 1 to 5 s late, by a relay; pods come and go", "ADD < 1 s from the reserve, DEL answers, BGP stays, 0 objects and routes gone, agent < 1 % of a core")
	keys, routes := c.keys(), c.routes()
	c.db.slow.Store(true)
	defer c.db.slow.Store(false)
	slowest := c.comeAndGo("s")
	if slowest > time.Second {
		c.t.Errorf("the slowest ADD took %s", slowest)
	}
	share := c.share(chaos.Scale(12, 60))
	r.Measuredf("slowest of 3 ADDs %d ms, 3 DELs answered, agent %.2f %% of a core", slowest.Milliseconds(), share)
	if gone := missing(keys, c.keys()); gone > 0 || c.routes() != routes {
		c.t.Errorf("%d objects gone, routes:\n%s\nbefore:\n%s", gone, c.routes(), routes)
	}
	c.sessionsUp()
	late := c.db.late.Load()
	r.Twinf("%d answers were late", late)
	if late == 0 {
		c.t.Error("no answer was late")
	}
	c.db.slow.Store(false)
	c.eventually("OC5003", false, 30*time.Second)
	// What is still on its way would be a sign of life of an etcd that is frozen next.
	nstest.Eventually(c.t, 10*time.Second, func() bool { return c.db.held.Load() == 0 }, "late answers have come")
}

func (c *cluster) frozen() {
	r := chaos.Begin(c.t, "E3", "real etcd frozen by SIGSTOP under two live agents", "OC5003 on both in < 10 s, BGP stays; over when it goes on")
	start := time.Now()
	c.db.signal(syscall.SIGSTOP)
	defer c.db.signal(syscall.SIGCONT)
	c.eventually("OC5003", true, 20*time.Second)
	took := time.Since(start)
	c.sessionsUp()
	c.db.signal(syscall.SIGCONT)
	c.eventually("OC5003", false, 20*time.Second)
	r.Measuredf("reported on 2 of 2 nodes after %.1f s, sessions up", took.Seconds())
	r.Twinf("thawed: OC5003 is over")
	if took > 10*time.Second {
		c.t.Errorf("reported after %s, want less than 10s", took)
	}
}

func (c *cluster) full() {
	r := chaos.Begin(c.t, "E10", "real etcd at its quota (alarm NOSPACE) under two live agents; pods come and go; compacted, defragmented, disarmed",
		"ADD from the reserve, DEL answers and is journalled, OC5010 names the remedy; all written afterwards")
	c.db.stop()
	c.db.start(4)
	c.eventually("OC5003", false, 20*time.Second)
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	db := c.db.client()
	var err error
	for filler := strings.Repeat("x", 256<<10); err == nil; {
		_, err = db.Put(ctx, "/filler", filler)
	}
	if !errors.Is(err, rpctypes.ErrNoSpace) {
		c.t.Fatal(err)
	}
	c.comeAndGo("f")
	nstest.Eventually(c.t, 70*time.Second, func() bool { // with the next status that is published
		return slices.ContainsFunc(c.report(c.nodes[0]).Problems, func(p v1.Problem) bool {
			return p.Code == string(problem.StoreFull) && strings.Contains(p.Remedy, "alarm disarm")
		})
	}, "OC5010 with its remedy")
	r.Measuredf("3 ADDs and 3 DELs answered, %d writes wait, OC5010 names its remedy", c.report(c.nodes[0]).Counts.WritesPending)
	c.sessionsUp()
	c.makeRoom(db)
	nstest.Eventually(c.t, 60*time.Second, func() bool {
		now := c.report(c.nodes[0])
		return now.Counts.WritesPending == 0 && !slices.ContainsFunc(now.Problems, func(p v1.Problem) bool { return p.Code == string(problem.StoreFull) })
	}, "all is written, and OC5010 over")
	r.Twinf("disarmed: OC5010 is over, 0 writes wait")
}

// makeRoom does what OC5010 says.
func (c *cluster) makeRoom(db *clientv3.Client) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	got, err := db.Get(ctx, "/filler")
	if err == nil {
		_, err = db.Compact(ctx, got.Header.Revision)
	}
	if err == nil {
		_, err = db.Defragment(ctx, "unix://"+c.db.socket)
	}
	if err == nil {
		_, err = db.AlarmDisarm(ctx, &clientv3.AlarmMember{})
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) dead() {
	r := chaos.Begin(c.t, "E1", "real etcd killed under two live agents, their processor time measured", "agent < 1 % of a core, BGP stays")
	c.db.stop()
	c.eventually("OC5003", true, 20*time.Second)
	seconds := chaos.Scale(20, 60)
	share := c.share(seconds)
	c.sessionsUp()
	r.Measuredf("agent %.2f %% of a core over %d s, sessions up", share, seconds)
}

// comeAndGo adds three pods on the first node, deletes them, and returns how
// long the slowest ADD took.
func (c *cluster) comeAndGo(prefix string) (slowest time.Duration) {
	c.t.Helper()
	for i := range 3 {
		start := time.Now()
		if _, err := c.AddPod(c.t.Context(), lab.PodSpec{Namespace: "devops", Name: fmt.Sprint(prefix, i), Node: c.nodes[0]}); err != nil {
			c.t.Fatal(err)
		}
		slowest = max(slowest, time.Since(start))
	}
	for i := range 3 {
		if _, err := c.DeletePod(c.t.Context(), fmt.Sprint("devops/", prefix, i)); err != nil {
			c.t.Fatal(err)
		}
	}
	return slowest
}

func (c *cluster) report(node string) v1.NodeReport {
	c.t.Helper()
	report, err := admin.Dial(c.AdminSocket(node)).Report(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return report.Status
}

// eventually waits until every node has a problem or has it no more.
func (c *cluster) eventually(code string, has bool, within time.Duration) {
	c.t.Helper()
	for _, node := range c.nodes {
		nstest.Eventually(c.t, within, func() bool {
			return has == slices.ContainsFunc(c.report(node).Problems, func(p v1.Problem) bool { return p.Code == code })
		}, code, " on ", node, ": ", has)
	}
}

func (c *cluster) sessionsUp() {
	c.t.Helper()
	for _, node := range c.nodes {
		sessions, err := admin.Dial(c.AdminSocket(node)).Sessions(c.t.Context())
		if err != nil || len(sessions) != 1 || sessions[0].State != speaker.Established || sessions[0].Flaps != 0 {
			c.t.Errorf("sessions of %s: %v, %v", node, sessions, err)
		}
	}
}

func (c *cluster) routes() string { return c.Node(c.nodes[0], "ip route show proto bird") }

// keys are the resources in the datastore.
func (c *cluster) keys() map[string]bool {
	c.t.Helper()
	got, err := c.db.client().Get(c.t.Context(), "/calico/resources/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil || len(got.Kvs) == 0 {
		c.t.Fatalf("resources: %v", err)
	}
	keys := map[string]bool{}
	for _, kv := range got.Kvs {
		keys[string(kv.Key)] = true
	}
	return keys
}

func missing(before, after map[string]bool) (n int) {
	for key := range before {
		if !after[key] {
			n++
		}
	}
	return n
}

// share measures the second node's agent and returns what it took of a core,
// in per cent.
func (c *cluster) share(seconds int) float64 {
	c.t.Helper()
	state, err := c.State()
	if err != nil {
		c.t.Fatal(err)
	}
	pid := state.Nodes[len(state.Nodes)-1].Agent.PID
	start, from := time.Now(), processorTime(pid)
	<-time.After(time.Duration(seconds) * time.Second)
	share := 100 * float64(processorTime(pid)-from) / float64(time.Since(start))
	if share >= 1 {
		c.t.Errorf("the agent took %.2f %% of a core", share)
	}
	return share
}

// processorTime is what a process's threads took, in ns.
func processorTime(pid int) (ran int64) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid)) // the pattern is right
	for _, task := range tasks {
		var ns int64
		if text, err := os.ReadFile(task); err == nil { // a thread may end
			_, _ = fmt.Fscan(bytes.NewReader(text), &ns)
		}
		ran += ns
	}
	return ran
}
