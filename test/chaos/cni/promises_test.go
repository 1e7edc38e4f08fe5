// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// TestDelAlwaysAnswers: whatever a DEL finds, it answers 0 and leaves nothing.
func TestDelAlwaysAnswers(t *testing.T) {
	w := up(t)
	r := chaos.Begin(t, "A5", "DEL of what was never added, then of a pod, 100 times each", "exit 0 always, 0 leaks")
	failed := 0
	del := func(id string, variables ...string) {
		t.Helper()
		if a := w.call("DEL", id, variables...); a.code != 0 {
			failed++
			t.Errorf("DEL %s: %s", id, a)
		}
	}
	w.mustAdd("twice")
	for range 100 {
		del("never")
		del("twice")
	}
	w.clean("200 DELs")
	r.Measuredf("%d of 200 failed, 0 leaks", failed)

	r = chaos.Begin(t, "A6", "DEL with CNI_NETNS empty, absent, another's, and after the namespace is gone", "exit 0, address released")
	for _, path := range []string{"", "/run/netns/absent", "/proc/self/ns/net", "/etc/passwd"} {
		w.mustAdd("netns")
		del("netns", "CNI_NETNS="+path)
		if !w.clean("DEL with CNI_NETNS=" + path) {
			failed++
		}
	}
	gone := w.Name() + ".gone"
	w.mustIP("netns add " + gone)
	if a := w.call("ADD", "netns", "CNI_NETNS=/run/netns/"+gone); a.code != 0 {
		t.Fatal(a)
	}
	w.mustIP("netns del " + gone)
	del("netns", "CNI_NETNS=/run/netns/"+gone)
	if !w.clean("DEL after the namespace was removed") {
		failed++
	}
	r.Measuredf("%d of 5 failed, 0 leaks", failed)
}

// TestNamesTaken: what stands where an ADD wants to put something is left
// alone, and said.
func TestNamesTaken(t *testing.T) {
	w := up(t)
	refused := func(what, says string) {
		t.Helper()
		if a := w.call("ADD", "taken"); a.code == 0 || !strings.Contains(a.out, says) {
			t.Errorf("ADD where %s: %s\nwant …%s…", what, a, says)
		}
	}
	r := chaos.Begin(t, "A8", "an interface of that name in the pod, of another plugin", "error that names it, nothing changed, 0 leaks")
	w.pod.IP("link add eth0 type bridge")
	before := w.pod.IP("-o link show")
	refused("eth0 exists", "eth0")
	if after := w.pod.IP("-o link show"); after != before {
		t.Errorf("the pod's links became\n%s", after)
	}
	w.pod.IP("link del eth0")
	w.clean("ADD where eth0 exists")
	r.Measuredf("code, 0 changes, 0 leaks")

	r = chaos.Begin(t, "A9", "the host end's name taken: by a foreign link; by a veth of another pod", "error that names it, the other untouched, 0 leaks; free again: ADD succeeds")
	w.mustAdd("taken")
	held, _ := w.recorded([]string{"taken"})
	hostIf := held["taken"].Endpoint.HostIf
	w.mustDel("taken")
	w.clean("DEL")
	other := nstest.New(t)
	for _, kind := range []string{"bridge", "veth peer name eth0 netns " + other.Path()} {
		if out, code := w.node(strings.Fields("ip link add " + hostIf + " type " + kind)...); code != 0 {
			t.Fatal(out)
		}
		refused("the host end's name is taken", hostIf)
		if out, code := w.node("ip", "link", "del", hostIf); code != 0 {
			t.Errorf("the other's link is gone: %s", out)
		}
		w.clean("ADD where the name is taken")
	}
	w.mustAdd("taken")
	w.mustDel("taken")
	w.clean("ADD and DEL")
	r.Measuredf("2 of 2 refused, 0 changes, 0 leaks")
}

// mustIP runs ip outside the lab.
func (w *world) mustIP(args string) {
	w.t.Helper()
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		w.t.Fatalf("ip %s: %v: %s", args, err, out)
	}
}

// TestStatus: STATUS says whether an ADD would succeed.
func TestStatus(t *testing.T) {
	w := up(t)
	r := chaos.Begin(t, "A16", "datastore dead, with addresses in reserve and without; agent dead", "0 throughout: the network of the node's pods is there, ADD says 11")
	status := func(when string, want string) {
		t.Helper()
		a := w.call("STATUS", "x")
		if want == "" && a.code != 0 || want != "" && !strings.Contains(a.out, `"code":`+want+`,`) {
			t.Errorf("STATUS %s: %s, want code %s", when, a, want)
		}
	}
	status("at first", "")
	datastore := w.state().Datastore
	if err := syscall.Kill(datastore.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, 5*time.Second, func() bool { return !datastore.Alive() }, "datastore gone")
	status("with a reserve and no datastore", "")
	served := 0
	for ; served <= reserve; served++ {
		a := w.call("ADD", fmt.Sprint("s", served), "CNI_NETNS="+nstest.New(t).Path())
		if a.code != 0 {
			if !strings.Contains(a.out, `"code":11,`) {
				t.Errorf("ADD without reserve: %s", a)
			}
			break
		}
	}
	if served == 0 || served > reserve {
		t.Errorf("%d ADDs served of a reserve of %d", served, reserve)
	}
	status("without reserve and datastore", "")
	for i := range served {
		w.mustDel(fmt.Sprint("s", i))
	}
	if err := w.Up(t.Context(), w.state().Topology, nil); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, 10*time.Second, func() bool { return w.call("STATUS", "x").code == 0 }, "STATUS 0 with the datastore back")
	nstest.Eventually(t, 20*time.Second, func() bool { _, code := w.Ocicat("get", "ippools"); return code == 0 }, "the datastore answers")
	nstest.Eventually(t, 10*time.Second, func() bool { _, _, err := w.store.List(t.Context(), store.Block, ""); return err == nil }, "it answers the test, too")
	w.clean("all DELs")
	if err := w.KillAgent(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	status("without agent", "")
	marker := filepath.Join(filepath.Dir(w.AdminSocket(node)), cniwire.ServedFile)
	if err := os.Remove(marker); err != nil {
		t.Fatal(err)
	}
	status("without an agent that ever served", "50")
	r.Twinf("without an agent that served since the boot: 50")
	w.restart()
	nstest.Eventually(t, 10*time.Second, func() bool { return w.call("STATUS", "x").code == 0 }, "STATUS 0 with the agent back")
	r.Measuredf("6 of 6 as wanted; %d ADDs served of the reserve, then 11", served)
}

// TestManyAtOnce attaches and detaches many pods at once.
func TestManyAtOnce(t *testing.T) {
	w := up(t)
	pods := 200
	r := chaos.Begin(t, "A18", fmt.Sprintf("%d ADDs, 32 at once, then %d DELs", pods, pods), "all succeed, 0 duplicates, 0 leaks")
	spaces := make([]*nstest.NS, pods)
	for i := range spaces {
		spaces[i] = nstest.New(t)
	}
	for range chaos.Scale(1, 10) {
		addrs := make([]netip.Prefix, pods)
		adds := w.inParallel("ADD", spaces, func(i int, a answer) {
			if got := a.addrs(t); len(got) == 1 {
				addrs[i] = got[0]
			}
		})
		slices.SortFunc(addrs, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
		if unique := len(slices.Compact(addrs)); unique != pods || !addrs[0].IsValid() {
			t.Errorf("%d addresses of %d pods", unique, pods)
		}
		dels := w.inParallel("DEL", spaces, func(int, answer) {})
		w.clean("all DELs")
		r.Measuredf("0 failed, 0 duplicates, 0 leaks; ADD %s, DEL %s", adds, dels)
	}
}

// inParallel calls the plugin once for each pod, 32 at a time, and describes
// how long it took. Failures are the test's.
func (w *world) inParallel(verb string, spaces []*nstest.NS, each func(int, answer)) string {
	w.t.Helper()
	slots := make(chan struct{}, 32)
	took := make([]time.Duration, len(spaces))
	answers := make([]answer, len(spaces))
	var calls sync.WaitGroup
	begin := time.Now()
	for i, ns := range spaces {
		slots <- struct{}{}
		calls.Go(func() {
			defer func() { <-slots }()
			start := time.Now()
			answers[i] = w.call(verb, fmt.Sprint("m", i), "CNI_NETNS="+ns.Path())
			took[i] = time.Since(start)
		})
	}
	calls.Wait()
	all := time.Since(begin)
	for i, a := range answers {
		if a.code != 0 {
			w.t.Errorf("%s m%d: %s", verb, i, a)
			continue
		}
		each(i, a)
	}
	slices.Sort(took)
	return fmt.Sprintf("p50 %d ms, p99 %d ms, %.0f/s", took[len(took)/2].Milliseconds(), took[len(took)*99/100].Milliseconds(), float64(len(spaces))/all.Seconds())
}

// TestAddAndDelAtOnce: a runtime that calls ADD and DEL of one container at
// the same time gets one of the two orders.
func TestAddAndDelAtOnce(t *testing.T) {
	w := up(t)
	rounds := chaos.Scale(20, 500)
	r := chaos.Begin(t, "A19", fmt.Sprintf("%d times ADD and DEL of one container at once", rounds), "attached whole or gone whole; DEL then leaves nothing")
	attached := 0
	for i := range rounds {
		id := fmt.Sprint("both", i)
		var add, del answer
		var calls sync.WaitGroup
		calls.Go(func() { add = w.call("ADD", id) })
		calls.Go(func() { del = w.call("DEL", id) })
		calls.Wait()
		if add.code != 0 || del.code != 0 {
			t.Errorf("ADD %s, DEL %s", add, del)
		}
		var alive []string
		if _, wrong := w.recorded([]string{id}); len(wrong) == 0 {
			alive = []string{id}
			attached++
		}
		w.clean("both at once", alive...)
		w.mustDel(id)
		w.clean("the last DEL")
	}
	r.Measuredf("%d attached, %d gone, 0 leaks", attached, rounds-attached)
}
