// SPDX-License-Identifier: Apache-2.0

// Package machine proves what a node does when its machine fails under it: no
// file descriptors, a disk that answers with errors, neighbours that take the
// CPU, a clock that jumps, a second agent. All in real labs; a flow between
// pods of two nodes spans each fault.
package machine

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/internal/netns"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/speaker"
	"github.com/ocicat-net/ocicat/test/chaos"
	"github.com/ocicat-net/ocicat/test/flow"
	"github.com/ocicat-net/ocicat/test/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

const master, worker = "k8s-master-1", "k8s-node-1"

// scene is a lab of two nodes with a pod each; the master's machine fails.
type scene struct {
	*labtest.Lab
	t *testing.T
}

func newScene(t *testing.T) *scene {
	t.Helper()
	return &scene{labtest.Up(t, 2, []lab.PodSpec{{Namespace: "devops", Name: "m", Node: master}, {Namespace: "devops", Name: "w", Node: worker}}, nil), t}
}

// in is the scene in a part of the test.
func (s *scene) in(t *testing.T) *scene { return &scene{s.Lab, t} }

func (s *scene) state() *lab.State {
	s.t.Helper()
	state, err := s.State()
	if err != nil {
		s.t.Fatal(err)
	}
	return state
}

func (s *scene) agentPID() int {
	s.t.Helper()
	n, err := s.state().Node(master)
	if err != nil {
		s.t.Fatal(err)
	}
	return n.Agent.PID
}

func (s *scene) pod(name string) netip.Addr {
	s.t.Helper()
	pod, err := s.state().Pod("devops/" + name)
	if err != nil {
		s.t.Fatal(err)
	}
	return pod.Address.Addr()
}

// flow begins to send from the worker's pod to the master's.
func (s *scene) flow() *flow.Flow {
	s.t.Helper()
	return flow.StartAt(s.t, s.Netns("devops.w"), s.Netns("devops.m"), s.pod("m"), 200)
}

// add attaches a pod to the master, or says why not.
func (s *scene) add(name string) error {
	_, err := s.AddPod(s.t.Context(), lab.PodSpec{Namespace: "devops", Name: name, Node: master})
	return err
}

func (s *scene) del(name string) {
	s.t.Helper()
	if _, err := s.DeletePod(s.t.Context(), "devops/"+name); err != nil {
		s.t.Errorf("DEL %s: %v", name, err)
	}
}

// session is the worker's session with the master.
func (s *scene) session() speaker.Session {
	s.t.Helper()
	sessions, err := admin.Dial(s.AdminSocket(worker)).Sessions(s.t.Context())
	if err != nil || len(sessions) != 1 {
		s.t.Fatalf("sessions of the worker: %v, %v", sessions, err)
	}
	return sessions[0]
}

// heard waits until the worker heard that many messages more of the master,
// and returns the longest time without one.
func (s *scene) heard(more int) time.Duration {
	s.t.Helper()
	var longest time.Duration
	for range more {
		before, start := s.session().MessagesReceived, time.Now()
		nstest.Eventually(s.t, speaker.DefaultHold, func() bool { return s.session().MessagesReceived > before }, "another message of the master")
		longest = max(longest, time.Since(start))
	}
	return longest
}

// says waits until the master's agent reports a problem, or reports it no more.
func (s *scene) says(code string, want bool) {
	s.t.Helper()
	client := admin.Dial(s.AdminSocket(master))
	nstest.Eventually(s.t, 15*time.Second, func() bool {
		report, err := client.Report(s.t.Context())
		if err != nil {
			return false
		}
		found := false
		for _, p := range report.Status.Problems {
			found = found || p.Code == code
		}
		return found == want
	}, code, " reported: ", want)
}

// same fails unless the session is the one of before; it returns how often it
// fell meanwhile.
func (s *scene) same(before speaker.Session) int {
	s.t.Helper()
	after := s.session()
	if after.State != speaker.Established || !after.Since.Equal(before.Since) || after.Flaps != before.Flaps {
		s.t.Errorf("session before: %+v, after: %+v", before, after)
	}
	return after.Flaps - before.Flaps
}

// TestMachineFaults has one fault after the other on one lab.
func TestMachineFaults(t *testing.T) {
	s := newScene(t)
	t.Run("file descriptors", func(t *testing.T) { s.in(t).descriptors() })
	t.Run("second agent", func(t *testing.T) { s.in(t).secondAgent() })
	t.Run("disk errors", func(t *testing.T) { s.in(t).diskErrors() })
	t.Run("CPU", func(t *testing.T) { s.in(t).neighbours() })
	t.Run("metrics port", func(t *testing.T) { s.in(t).metricsPort() })
	t.Run("twin", func(t *testing.T) { s.in(t).drained() })
}

// descriptors takes every file descriptor the agent does not have yet.
func (s *scene) descriptors() {
	rounds := chaos.Scale(1, 11)
	r := chaos.Begin(s.t, "F5", fmt.Sprintf("prlimit: no new file descriptor for the agent, for %d keepalives", rounds), "0 hold expiries, 0 lost, ADD says why or waits, DEL works, over at once")
	if err := s.add("held"); err != nil {
		s.t.Fatal(err)
	}
	before, f := s.session(), s.flow()
	pid := s.agentPID()
	var limit unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &limit); err != nil {
		s.t.Fatal(err)
	}
	s.limit(pid, unix.Rlimit{Cur: 3, Max: limit.Max})
	restored := false
	defer func() {
		if !restored {
			s.limit(pid, limit)
		}
	}()
	start := time.Now()
	err := s.add("refused")
	if !fault.Is(err, fault.Unavailable) {
		s.t.Errorf("ADD without file descriptors: %v, want code 11", err)
	}
	waited := time.Since(start)
	s.t.Logf("ADD: %v (%s) after %s", err, fault.HintOf(err), waited)
	s.del("held")
	gap := s.heard(rounds)
	s.limit(pid, limit)
	restored = true
	start = time.Now()
	nstest.Eventually(s.t, 10*time.Second, func() bool { return s.add("after") == nil }, "ADD when there are file descriptors again")
	recovered := time.Since(start)
	s.del("after")
	flaps := s.same(before)
	sent, lost := f.End()
	if lost != 0 {
		s.t.Errorf("%d of %d packets lost", lost, sent)
	}
	r.Measuredf("%d of %d packets lost; %d hold expiries, longest silence %.0f s of 90; ADD refused after %.1f s; ADD %.1f s after the end", lost, sent, flaps, gap.Seconds(), waited.Seconds(), recovered.Seconds())
}

func (s *scene) limit(pid int, limit unix.Rlimit) {
	s.t.Helper()
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		s.t.Fatal(err)
	}
}

// program runs ocicatd in the master with more arguments, and returns what it
// printed and its exit code.
func (s *scene) program(args ...string) (string, int) {
	s.t.Helper()
	argv := []string{"env", "NODENAME=" + master, "ETCD_ENDPOINTS=http://192.168.0.2:2379", "IP=autodetect", "timeout", "10", filepath.Join(s.Bin, "ocicatd")}
	var out strings.Builder
	code, err := s.ExecNode(s.t.Context(), master, append(argv, args...), lab.Streams{Out: &out, Err: &out})
	if err != nil {
		s.t.Fatal(err)
	}
	return out.String(), code
}

// secondAgent starts one beside the other, with the same directories and with
// others.
func (s *scene) secondAgent() {
	r := chaos.Begin(s.t, "F7", "second agent on a node, same directories and others", "refused at once, naming the first's process id; 0 sessions disturbed")
	before := s.session()
	pid := fmt.Sprintf("process %d,", s.agentPID())
	other := s.t.TempDir()
	refused := 0
	for _, args := range [][]string{nil, {"-run-dir", filepath.Join(other, "run"), "-state-dir", filepath.Join(other, "state")}} {
		out, code := s.program(args...)
		if code != 5 || !strings.Contains(out, pid) || strings.Count(out, "error:") != 1 || !strings.Contains(out, "hint: Stop the other one first.") {
			s.t.Errorf("second agent %v: exit %d\n%s", args, code, out)
			continue
		}
		refused++
	}
	if err := s.add("beside"); err != nil {
		s.t.Error(err)
	}
	s.del("beside")
	r.Measuredf("%d of 2 refused, %d sessions disturbed", refused, s.same(before))
}

// diskErrors has every fsync of the agent fail.
func (s *scene) diskErrors() {
	r := chaos.Begin(s.t, "A20", "strace -e inject: EIO from every fsync of the agent", "OC4011; ADD and DEL work; over at once")
	before := s.session()
	tracer := exec.Command("strace", "-f", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:error=EIO", "-p", fmt.Sprint(s.agentPID()))
	if err := tracer.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = tracer.Wait(); close(ended) }()
	// A resource that changes is what the local copy is written for.
	nstest.Eventually(s.t, 15*time.Second, func() bool {
		s.touchResource()
		report, err := admin.Dial(s.AdminSocket(master)).Report(s.t.Context())
		if err != nil {
			return false
		}
		for _, p := range report.Status.Problems {
			if p.Code == "OC4011" && strings.Contains(p.Text, "input/output error") {
				return true
			}
		}
		return false
	}, "OC4011 with the disk's error")
	if err := s.add("eio"); err != nil {
		s.t.Errorf("ADD while the disk fails: %v", err)
	}
	s.del("eio")
	if err := tracer.Process.Signal(syscall.SIGINT); err != nil {
		s.t.Fatal(err)
	}
	<-ended
	s.says("OC4011", false)
	left, err := filepath.Glob(filepath.Join(filepath.Dir(s.AdminSocket(master)), "..", "var", ".*.new"))
	if err != nil || len(left) != 0 {
		s.t.Errorf("half-written files left: %v, %v", left, err)
	}
	r.Measuredf("OC4011 reported and taken back; ADD and DEL answered; %d files left half written; %d sessions lost", len(left), s.same(before))
}

// touchResource changes a label of no meaning.
func (s *scene) touchResource() {
	s.t.Helper()
	text := fmt.Sprintf("apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: unused\nspec:\n  cidr: 10.99.%d.0/24\n  disabled: true\n", time.Now().UnixNano()%250)
	path := filepath.Join(s.t.TempDir(), "pool.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.Ocicat("delete", "ippool", "unused")
	if out, code := s.Ocicat("apply", "-f", path); code != 0 {
		s.t.Fatalf("apply: exit %d\n%s", code, out)
	}
}

// neighbours has eight processes for each CPU work beside the agent.
func (s *scene) neighbours() {
	rounds := chaos.Scale(1, 11)
	r := chaos.Begin(s.t, "F5", fmt.Sprintf("four busy processes for each CPU, for %d keepalives", rounds), "0 hold expiries, ADD and DEL work")
	before := s.session()
	for range 8 {
		busy := exec.Command("sh", "-c", "while :; do :; done")
		if err := busy.Start(); err != nil {
			s.t.Fatal(err)
		}
		defer func() { _ = busy.Process.Kill(); _ = busy.Wait() }()
	}
	start := time.Now()
	if err := s.add("busy"); err != nil {
		s.t.Errorf("ADD beside busy neighbours: %v", err)
	}
	took := time.Since(start)
	s.del("busy")
	gap := s.heard(rounds)
	r.Measuredf("%d hold expiries, longest silence %.0f s of 90; ADD in %d ms", s.same(before), gap.Seconds(), took.Milliseconds())
}

// metricsPort asks the agent for its metrics, and has it start with the port
// taken.
func (s *scene) metricsPort() {
	page := s.Node(master, "busybox wget -qO- http://127.0.0.1:9091/metrics")
	for _, line := range []string{
		`ocicat_bgp_peer_up{peer="192.168.0.12",name="k8s-node-1",type="mesh"} 1`, `ocicat_bgp_peers{state="Established"} 1`,
		`ocicat_routes_wanted 1`, `ocicat_routes_installed 1`, `ocicat_datastore_connected 1`, `ocicat_agent_ready 1`, `felix_active_local_endpoints 1`,
		`felix_cluster_num_hosts 2`, `ocicat_problems{code="OC1001"} 0`, `ocicat_cni_requests_total{verb="ADD",result="ok"}`,
		`ipam_allocations_in_use{ippool="default-ipv4-ippool",node="k8s-master-1"} 1`, "ocicat_datastore_heartbeat_age_seconds ",
	} {
		if !strings.Contains(page, line) {
			name, _, _ := strings.Cut(line, "{")
			at := max(0, strings.Index(page, "\n"+name))
			s.t.Errorf("no %s in %.600s", line, page[at:])
		}
	}
	if out := s.Node(master, "ss -Hltn sport = :9091"); !strings.Contains(out, "127.0.0.1:9091") || strings.Contains(out, "0.0.0.0:9091") || strings.Contains(out, "*:9091") {
		s.t.Errorf("metrics are served at %s", out)
	}
	if err := s.KillAgent(s.t.Context(), master); err != nil {
		s.t.Fatal(err)
	}
	holder := s.hold("127.0.0.1:9091")
	if err := s.RestartAgent(s.t.Context(), master); err != nil {
		s.t.Fatal(err)
	}
	s.says("OC4010", true)
	if err := s.add("portless"); err != nil {
		s.t.Errorf("ADD without metrics: %v", err)
	}
	s.del("portless")
	holder()
	s.says("OC4010", false)
}

// hold listens at an address of the master until what it returns is called.
func (s *scene) hold(addr string) func() {
	s.t.Helper()
	var holder net.Listener
	err := netns.Do(s.Netns(master), func() (err error) {
		holder, err = net.Listen("tcp", addr)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return func() { _ = holder.Close() }
}

// drained is the twin of all: a session that ends is seen by the same meter.
func (s *scene) drained() {
	r := chaos.Begin(s.t, "F5", "the session ended on purpose, by drain", "the meter sees it")
	nstest.Eventually(s.t, 10*time.Second, func() bool { return s.session().State == speaker.Established }, "session up")
	before := s.session()
	if err := admin.Dial(s.AdminSocket(master)).Drain(s.t.Context(), "twin"); err != nil {
		s.t.Fatal(err)
	}
	nstest.Eventually(s.t, 10*time.Second, func() bool { return s.session().Flaps > before.Flaps }, "flap counted")
	r.Twinf("%d flap seen", s.session().Flaps-before.Flaps)
	if states := []speaker.SessionState{speaker.Established}; slices.Contains(states, s.session().State) {
		s.t.Error("session still up")
	}
}
