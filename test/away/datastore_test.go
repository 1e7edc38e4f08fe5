// SPDX-License-Identifier: Apache-2.0

package away

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/speaker"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// With the datastore dead pods keep their network, sessions stay, pods come
// from the reserve until it is empty, DEL works, and an agent that restarts
// does all this from what it remembers. When the datastore is back it learns
// everything.
func TestDatastoreDead(t *testing.T) {
	r := chaos.Begin(t, "E1", "real etcd killed; pods of two nodes; ADDs until the reserve is empty, DELs, one agent restarted; etcd started again",
		"pods talk, BGP stays, DEL works, ADD from the reserve, then code 11; agent < 1 % of a core; nothing lost after")
	w := up(t)
	w.clean()
	held := w.report(master).Counts.ReserveHeld
	if held == 0 {
		t.Fatal("no address is held ready")
	}
	w.kill(w.state().Datastore)
	w.problem(master, "OC5003")
	w.talk("m", "w")
	w.statusAsksAgents()
	w.useUpReserve(held)
	idle := w.cpu(worker)
	<-time.After(cpuWindow)
	share := idle()
	r.Measuredf("%d ADDs from the reserve, then code 11; the other node's agent took %.2f %% of a core", held, share)
	if share >= 1 {
		t.Errorf("the agent of %s took %.2f %% of a core without a datastore", worker, share)
	}
	w.restartWithoutDatastore()
	for _, node := range []string{master, worker} {
		if s := w.session(node); s.State != speaker.Established {
			t.Errorf("session of %s: %s", node, s.State)
		}
	}
	w.resume()
	w.clean()
	for _, name := range []string{"m", "r1", "r2"} {
		out, code := w.Ocicat("ipam", "show", "--ip="+w.pod(name).Address.Addr().String())
		if code != 0 || !strings.Contains(out, "pod: "+name+"\n") {
			t.Errorf("ipam show --ip of %s, exit %d:\n%s", name, code, out)
		}
	}
	w.solved(master, "OC5003")
	w.add("after", master)
	w.talk("after", "w")
	w.clean()
}

// cpuWindow is how long the processor time of an agent is measured.
const cpuWindow = 5 * time.Second

// cpu starts to measure an agent; the function returned says how much of one
// core it took since, in per cent.
func (w *world) cpu(node string) func() float64 {
	w.t.Helper()
	threads := fmt.Sprintf("/proc/%d/task/*/schedstat", w.agentPID(node))
	read := func() (ran int64) {
		tasks, _ := filepath.Glob(threads) // the pattern is right
		for _, task := range tasks {
			var ns int64
			if text, err := os.ReadFile(task); err == nil { // a thread may end
				_, _ = fmt.Sscan(string(text), &ns)
			}
			ran += ns
		}
		return ran
	}
	start, from := time.Now(), read()
	return func() float64 { return 100 * float64(read()-from) / float64(time.Since(start)) }
}

// statusAsksAgents checks the command line without the datastore.
func (w *world) statusAsksAgents() {
	w.t.Helper()
	out, code := w.Ocicat("status")
	if code != 10 || !strings.Contains(out, master) || !strings.Contains(out, worker) || !strings.Contains(out, "OC5003") {
		w.t.Errorf("status without datastore, exit %d:\n%s", code, out)
	}
}

// useUpReserve adds pods until none is left, then deletes one.
func (w *world) useUpReserve(held int) {
	w.t.Helper()
	for i := range held {
		w.add(fmt.Sprint("r", i), master)
	}
	w.talk("r0", "w")
	w.talk("r1", "m")
	if took := w.refused("late", master, "datastore"); took > 4*time.Second {
		w.t.Errorf("an empty reserve answers after %s", took)
	}
	w.del("r0")
	for i := 3; i < held; i++ {
		w.del(fmt.Sprint("r", i))
	}
	w.talk("r1", "w")
}

// restartWithoutDatastore kills the master's agent and starts it again.
func (w *world) restartWithoutDatastore() {
	w.t.Helper()
	events := w.watchRoutes(worker, masterBlock)
	w.killAgent(master)
	start := time.Now()
	w.startAgent(master)
	w.established(master, 3*time.Second-time.Since(start))
	w.t.Logf("restarted and Established without datastore after %s", time.Since(start))
	nstest.Eventually(w.t, 3*time.Second, func() bool {
		counts := w.report(master).Counts
		return counts.RoutesInstalled == 1 && counts.RoutesWanted == 1 && counts.Drift == 0
	}, "routes verified")
	w.talk("r1", "w")
	w.del("r2")
	w.add("r2", worker)
	w.talk("r2", "m")
	if n := events.Load(); n != 0 {
		w.t.Errorf("the peer's kernel saw %d changes of the route, want none", n)
	}
}
