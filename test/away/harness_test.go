// SPDX-License-Identifier: Apache-2.0

// Package away proves what a node does while a part of the cluster is away:
// the datastore, the agent, the record of its pods, or somebody else's good
// sense. All of it in real labs, whose processes die as in life.
package away

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/ocicat-net/ocicat/api/v1"
	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/speaker"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/etcd"
	"github.com/ocicat-net/ocicat/test/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

const (
	master, worker = "k8s-master-1", "k8s-node-1"
	masterAddr     = "192.168.0.11"
	workerAddr     = "192.168.0.12"
)

// masterBlock is the block the master announces.
var masterBlock = netip.MustParsePrefix("172.16.196.0/26")

// world is a lab of two nodes with one pod each, devops/m on the master and
// devops/w on the worker.
type world struct {
	*labtest.Lab
	t *testing.T
}

func up(t *testing.T) *world {
	t.Helper()
	return &world{labtest.Up(t, 2, []lab.PodSpec{{Namespace: "devops", Name: "m", Node: master}, {Namespace: "devops", Name: "w", Node: worker}}, nil), t}
}

func (w *world) state() *lab.State {
	w.t.Helper()
	s, err := w.State()
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// resume starts again what is dead.
func (w *world) resume() {
	w.t.Helper()
	if err := w.Up(w.t.Context(), w.state().Topology, nil); err != nil {
		w.t.Fatalf("resume: %v (%s)", err, fault.HintOf(err))
	}
}

// kill kills a process as a crash would and waits until it is gone.
func (w *world) kill(p lab.Process) {
	w.t.Helper()
	if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
		w.t.Fatal(err)
	}
	nstest.Eventually(w.t, 5*time.Second, func() bool { return !p.Alive() }, "process gone")
}

func (w *world) killAgent(node string) {
	w.t.Helper()
	if err := w.KillAgent(w.t.Context(), node); err != nil {
		w.t.Fatal(err)
	}
}

// startAgent starts a node's agent and waits until it serves.
func (w *world) startAgent(node string) {
	w.t.Helper()
	if err := w.RestartAgent(w.t.Context(), node); err != nil {
		w.t.Fatalf("start agent of %s: %v (%s)", node, err, fault.HintOf(err))
	}
}

func (w *world) agentPID(node string) int {
	w.t.Helper()
	n, err := w.state().Node(node)
	if err != nil {
		w.t.Fatal(err)
	}
	return n.Agent.PID
}

// add attaches a pod to a node.
func (w *world) add(name, node string) lab.Pod {
	w.t.Helper()
	pod, err := w.AddPod(w.t.Context(), lab.PodSpec{Namespace: "devops", Name: name, Node: node})
	if err != nil {
		w.t.Fatalf("ADD %s: %v (%s)", name, err, fault.HintOf(err))
	}
	return pod
}

// refused tries to attach a pod, which must end with CNI code 11, and returns
// how long that took.
func (w *world) refused(name, node string, words ...string) time.Duration {
	w.t.Helper()
	start := time.Now()
	_, err := w.AddPod(w.t.Context(), lab.PodSpec{Namespace: "devops", Name: name, Node: node})
	if !fault.Is(err, fault.Unavailable) {
		w.t.Fatalf("ADD %s: %v, want code 11", name, err)
	}
	w.t.Logf("refused: %v (%s)", err, fault.HintOf(err))
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			w.t.Errorf("ADD %s: %q does not say %q", name, err, word)
		}
	}
	return time.Since(start)
}

func (w *world) del(names ...string) {
	w.t.Helper()
	for _, name := range names {
		if _, err := w.DeletePod(w.t.Context(), "devops/"+name); err != nil {
			w.t.Fatalf("DEL %s: %v", name, err)
		}
	}
}

// talk pings between two pods, both ways.
func (w *world) talk(a, b string) {
	w.t.Helper()
	w.Pod("devops/"+a, "busybox ping -c 1 -W 2 "+w.pod(b).Address.Addr().String())
	w.Pod("devops/"+b, "busybox ping -c 1 -W 2 "+w.pod(a).Address.Addr().String())
}

// reunited waits until two pods talk.
func (w *world) reunited(a, b string) {
	w.t.Helper()
	ping := []string{"busybox", "ping", "-c", "1", "-W", "1", w.pod(b).Address.Addr().String()}
	nstest.Eventually(w.t, 5*time.Second, func() bool {
		code, err := w.ExecPod(w.t.Context(), "devops/"+a, ping, lab.Streams{})
		return err == nil && code == 0
	}, a, " reaches ", b)
	w.talk(a, b)
}

func (w *world) pod(name string) lab.Pod {
	w.t.Helper()
	pod, err := w.state().Pod("devops/" + name)
	if err != nil {
		w.t.Fatal(err)
	}
	return *pod
}

func (w *world) admin(node string) *admin.Client { return admin.Dial(w.AdminSocket(node)) }

// session is a node's only session.
func (w *world) session(node string) speaker.Session {
	w.t.Helper()
	sessions, err := w.admin(node).Sessions(w.t.Context())
	if err != nil || len(sessions) != 1 {
		w.t.Fatalf("sessions of %s: %v, %v", node, sessions, err)
	}
	return sessions[0]
}

// established waits until a node's only session is up.
func (w *world) established(node string, within time.Duration) {
	w.t.Helper()
	nstest.Eventually(w.t, within, func() bool {
		sessions, err := w.admin(node).Sessions(w.t.Context())
		return err == nil && len(sessions) == 1 && sessions[0].State == speaker.Established
	}, "session of ", node)
}

func (w *world) report(node string) v1.NodeReport {
	w.t.Helper()
	report, err := w.admin(node).Report(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return report.Status
}

// problem waits until a node reports a problem whose text holds all words.
func (w *world) problem(node, code string, words ...string) v1.Problem {
	w.t.Helper()
	var found v1.Problem
	nstest.Eventually(w.t, 5*time.Second, func() bool {
		for _, p := range w.report(node).Problems {
			if p.Code == code && !slices.ContainsFunc(words, func(s string) bool { return !strings.Contains(p.Text, s) }) {
				found = p
				return true
			}
		}
		return false
	}, code, " with ", words, " on ", node)
	return found
}

// solved waits until a node reports a problem no more.
func (w *world) solved(node, code string) {
	w.t.Helper()
	nstest.Eventually(w.t, 5*time.Second, func() bool {
		return !slices.ContainsFunc(w.report(node).Problems, func(p v1.Problem) bool { return p.Code == code })
	}, code, " is over on ", node)
}

// runFile is the path of a file in a node's /run/ocicat.
func (w *world) runFile(node string, name ...string) string {
	return filepath.Join(append([]string{filepath.Dir(w.AdminSocket(node))}, name...)...)
}

// ocicat runs the command line on the lab and returns all it printed, and its
// exit code.
func (w *world) ocicat(args ...string) (string, int) {
	w.t.Helper()
	cmd := exec.Command(filepath.Join(w.Bin, "ocicat"), append([]string{"--lab", w.Name()}, args...)...)
	cmd.Env = append(os.Environ(), "OCICAT_LAB_DIR="+w.Root)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		w.t.Fatalf("ocicat %v: %v", args, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// statusSays waits until the published state of the cluster has a problem.
func (w *world) statusSays(problem string) {
	w.t.Helper()
	nstest.Eventually(w.t, 5*time.Second, func() bool {
		out, code := w.ocicat("status")
		return code == 10 && strings.Contains(out, problem)
	}, "ocicat status says ", problem)
}

// nodeOutput runs a command in a node and returns what it printed and its
// exit code.
func (w *world) nodeOutput(node string, argv ...string) (string, int) {
	w.t.Helper()
	var out bytes.Buffer
	code, err := w.ExecNode(w.t.Context(), node, argv, lab.Streams{Out: &out, Err: &out})
	if err != nil {
		w.t.Fatal(err)
	}
	return out.String(), code
}

func (w *world) store() store.Store {
	w.t.Helper()
	s, err := etcd.New(etcd.Config{Endpoints: w.state().Endpoints})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = s.Close() })
	return s
}

// clean waits until the datastore, the agents and the kernels hold the lab's
// pods and nothing else.
func (w *world) clean() {
	w.t.Helper()
	s := w.store()
	var wrong []string
	deadline := time.Now().Add(10 * time.Second)
	for {
		wrong = append(w.accounts(s), w.remains()...)
		if len(wrong) == 0 {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("datastore or nodes differ from the pods:\n%s", strings.Join(wrong, "\n"))
		}
		<-time.After(50 * time.Millisecond)
	}
}

// accounts compares addresses and handles in the datastore with the pods.
func (w *world) accounts(s store.Store) (wrong []string) {
	w.t.Helper()
	owner := map[netip.Addr]string{} // handle of each pod's address
	for _, p := range w.state().Pods {
		addr := p.Address.Addr()
		if other, twice := owner[addr]; twice {
			wrong = append(wrong, fmt.Sprintf("address %s was given twice: %s and %s", addr, other, p))
		}
		owner[addr] = names.Handle("k8s-pod-network", p.ContainerID)
	}
	counted := map[string]int{}
	for _, e := range w.list(s, store.Block) {
		b, err := alloc.ParseBlock(e.Value)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, addr := range b.HeldBy(func(alloc.Attribute) bool { return true }) {
			who, _ := b.Holder(addr)
			counted[who.Handle]++
			if _, reserve := names.ParseReserveHandle(who.Handle); reserve && owner[addr] == "" {
				continue
			}
			if who.Handle != owner[addr] {
				wrong = append(wrong, fmt.Sprintf("address %s: held by %q, want %q", addr, who.Handle, owner[addr]))
			}
			delete(owner, addr)
		}
	}
	for addr, handle := range owner {
		wrong = append(wrong, fmt.Sprintf("address %s of %s: not in the datastore", addr, handle))
	}
	for _, e := range w.list(s, store.Handle) {
		h, err := alloc.ParseHandle(e.Value)
		if err != nil {
			w.t.Fatal(err)
		}
		sum := 0
		for _, n := range h.Blocks {
			sum += n
		}
		// The reserve's own handle counts the most it ever held of a block.
		_, reserve := names.ParseReserveHandle(e.Key.Name)
		if sum < counted[e.Key.Name] || sum > counted[e.Key.Name] && !reserve {
			wrong = append(wrong, fmt.Sprintf("handle %s counts %d addresses, the blocks hold %d", e.Key.Name, sum, counted[e.Key.Name]))
		}
		delete(counted, e.Key.Name)
	}
	for handle := range counted {
		wrong = append(wrong, "no handle object "+handle)
	}
	return wrong
}

func (w *world) list(s store.Store, kind store.Kind) []store.Entry {
	w.t.Helper()
	entries, _, err := s.List(w.t.Context(), kind, "")
	if err != nil {
		w.t.Fatal(err)
	}
	return entries
}

// remains compares what the nodes' kernels and agents hold with the pods.
func (w *world) remains() (wrong []string) {
	w.t.Helper()
	for _, node := range []string{master, worker} {
		var devices, routes []string
		for _, p := range w.state().Pods {
			if p.Node == node {
				devices = append(devices, p.HostIf)
				routes = append(routes, p.Address.Addr().String()+" dev "+p.HostIf)
			}
		}
		wrong = append(wrong, differ(node+" links", w.devices(node), devices)...)
		wrong = append(wrong, differ(node+" routes", w.podRoutes(node), routes)...)
		var known []string
		endpoints, err := w.admin(node).Endpoints(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		for _, ep := range endpoints {
			known = append(known, ep.HostIf)
		}
		wrong = append(wrong, differ(node+" endpoints", known, devices)...)
		if stones, _ := os.ReadDir(w.runFile(node, "tombstones")); len(stones) > 0 {
			wrong = append(wrong, fmt.Sprintf("%s: %d tombstones", node, len(stones)))
		}
		if n := w.report(node).Counts.WritesPending; n > 0 {
			wrong = append(wrong, fmt.Sprintf("%s: %d writes pending", node, n))
		}
	}
	return wrong
}

// devices are the host ends on a node, and those about to be destroyed.
func (w *world) devices(node string) (list []string) {
	w.t.Helper()
	for line := range strings.Lines(w.Node(node, "ip -o link show")) {
		name, _, _ := strings.Cut(strings.Fields(line)[1], "@")
		if strings.HasPrefix(name, "cali") || strings.HasPrefix(name, "gone") {
			list = append(list, strings.TrimSuffix(name, ":"))
		}
	}
	return list
}

// podRoutes are the routes to pods on a node, as "address dev link".
func (w *world) podRoutes(node string) (list []string) {
	w.t.Helper()
	for line := range strings.Lines(w.Node(node, "ip route show")) {
		if f := strings.Fields(line); len(f) > 2 && strings.HasPrefix(f[2], "cali") {
			list = append(list, strings.Join(f[:3], " "))
		}
	}
	return list
}

func differ(what string, got, want []string) (wrong []string) {
	for _, s := range got {
		if !slices.Contains(want, s) {
			wrong = append(wrong, what+": too many: "+s)
		}
	}
	for _, s := range want {
		if !slices.Contains(got, s) {
			wrong = append(wrong, what+": missing: "+s)
		}
	}
	return wrong
}
