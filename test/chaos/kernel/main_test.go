// SPDX-License-Identifier: Apache-2.0

// Package kernel changes what an agent keeps in its kernel, in every way that
// other programs do, and measures how soon it is right again and what packets
// it cost.
package kernel

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/ocicat-net/ocicat/api/v1"
	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/test/flow"
	"github.com/ocicat-net/ocicat/test/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

const (
	master, worker = "k8s-master-1", "k8s-node-1"
	workerAddr     = "192.168.0.12"
)

// The blocks of the two nodes.
var (
	masterBlock = netip.MustParsePrefix("172.16.196.0/26")
	workerBlock = netip.MustParsePrefix("172.16.109.64/26")
)

// world is a lab of two nodes with one pod each, devops/m on the master and
// devops/w on the worker.
type world struct {
	*labtest.Lab
	t    *testing.T
	m, w lab.Pod
}

func up(t *testing.T) *world {
	t.Helper()
	l := labtest.Up(t, 2, []lab.PodSpec{{Namespace: "devops", Name: "m", Node: master}, {Namespace: "devops", Name: "w", Node: worker}}, nil)
	state, err := l.State()
	if err != nil {
		t.Fatal(err)
	}
	return &world{l, t, state.Pods[0], state.Pods[1]}
}

// of is the world as a subtest sees it.
func (w *world) of(t *testing.T) *world {
	sub := *w
	sub.t = t
	return &sub
}

// flow sends from the worker's pod to the master's, whose node is the victim.
func (w *world) flow() *flow.Flow {
	w.t.Helper()
	f := flow.Start(w.t, w.Netns("devops.w"), w.Netns("devops.m"), w.m.Address.Addr())
	f.AwaitSent(w.t, flow.Rate()/10)
	return f
}

// back is a flow the other way: it needs the victim's learned route.
func (w *world) back() *flow.Flow {
	w.t.Helper()
	f := flow.Start(w.t, w.Netns("devops.m"), w.Netns("devops.w"), w.w.Address.Addr())
	f.AwaitSent(w.t, flow.Rate()/10)
	return f
}

// sh runs a line of shell on the master.
func (w *world) sh(line string) string {
	w.t.Helper()
	out, err := w.shell(line)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *world) shell(line string) (string, error) {
	var out strings.Builder
	code, err := w.ExecNode(w.t.Context(), master, []string{"sh", "-c", line}, lab.Streams{Out: &out, Err: &out})
	if err == nil && code != 0 {
		err = fmt.Errorf("%s: exit %d: %s", line, code, out.String())
	}
	return out.String(), err
}

// report is what the master's agent says of itself.
func (w *world) report() v1.NodeReport {
	w.t.Helper()
	status, err := admin.Dial(w.AdminSocket(master)).Report(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return status.Status
}

// problem waits until the master reports a problem with these words, and says
// how long that took.
func (w *world) problem(code string, words ...string) time.Duration {
	w.t.Helper()
	begin := time.Now()
	nstest.Eventually(w.t, 10*time.Second, func() bool {
		return slices.ContainsFunc(w.report().Problems, func(p v1.Problem) bool {
			text := p.Object + " " + p.Text
			return p.Code == code && !slices.ContainsFunc(words, func(s string) bool { return !strings.Contains(text, s) })
		})
	}, code, " with ", words)
	return time.Since(begin)
}

// solved waits until the master reports a problem no more.
func (w *world) solved(code string) {
	w.t.Helper()
	nstest.Eventually(w.t, 10*time.Second, func() bool {
		return !slices.ContainsFunc(w.report().Problems, func(p v1.Problem) bool { return p.Code == code })
	}, code, " is over")
}

// agent is the process id of the master's agent.
func (w *world) agent() int {
	w.t.Helper()
	state, err := w.State()
	if err != nil {
		w.t.Fatal(err)
	}
	n, err := state.Node(master)
	if err != nil {
		w.t.Fatal(err)
	}
	return n.Agent.PID
}

// percentile is the p-th percentile of times, nearest rank.
func percentile(times []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[min(len(sorted)*p/100, len(sorted)-1)].Round(10 * time.Microsecond)
}
