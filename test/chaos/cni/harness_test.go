// SPDX-License-Identifier: Apache-2.0

// Package cni proves that the CNI's verbs keep their promises whatever dies:
// the plugin and the agent are killed at each of their steps, in a lab of real
// programs, and everything that could leak is counted afterwards.
package cni

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/journal"
	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/etcd"
	"github.com/ocicat-net/ocicat/test/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

const (
	node    = "k8s-master-1"
	network = "k8s-pod-network"
	reserve = 16 // addresses an agent keeps ready
)

// world is a lab of one node, without pods of its own, and its datastore.
type world struct {
	*labtest.Lab
	t     *testing.T
	store store.Store
	pod   *nstest.NS // the namespace pods are attached in, one after the other
	run   string     // the agent's /run/ocicat
	files []string   // what is in it when all is well
}

func up(t *testing.T) *world {
	t.Helper()
	w := &world{Lab: labtest.Up(t, 1, nil, nil), t: t, pod: nstest.New(t)}
	w.run = filepath.Dir(w.AdminSocket(node))
	var err error
	if w.store, err = etcd.New(etcd.Config{Endpoints: w.state().Endpoints}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.store.Close() })
	w.restart()
	// The first pod brings forth what exists only once.
	w.mustAdd("first")
	w.mustDel("first")
	w.clean("the first pod")
	w.files = w.runFiles()
	return w
}

func (w *world) state() *lab.State {
	w.t.Helper()
	s, err := w.State()
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) agentPID() int {
	w.t.Helper()
	n, err := w.state().Node(node)
	if err != nil {
		w.t.Fatal(err)
	}
	return n.Agent.PID
}

// restart starts the agent, after ending one that still runs, and waits until
// it serves. It is no child of this process, where somebody who waits for a
// child's end would take its tracer's news away (wait(2)).
func (w *world) restart() {
	w.t.Helper()
	if out, code := w.Ocicat("lab", "restart", node); code != 0 {
		w.t.Fatalf("start agent: exit %d: %s", code, out)
	}
	// It is ready a moment before its door for plugins is open.
	nstest.Eventually(w.t, 5*time.Second, func() bool { return w.call("STATUS", "x").code == 0 }, "agent serves")
}

// answer is what the plugin printed and its exit code.
type answer struct {
	code int
	out  string
}

func (a answer) String() string { return fmt.Sprintf("exit %d: %s", a.code, strings.TrimSpace(a.out)) }

// addrs are the addresses of an ADD's answer.
func (a answer) addrs(t *testing.T) []netip.Prefix {
	t.Helper()
	var result struct {
		IPs []struct{ Address netip.Prefix }
	}
	if err := json.Unmarshal([]byte(a.out), &result); err != nil {
		t.Fatalf("%s: %v", a, err)
	}
	var addrs []netip.Prefix
	for _, ip := range result.IPs {
		addrs = append(addrs, ip.Address)
	}
	return addrs
}

// invocation is how a runtime calls the plugin: argv, environment and stdin.
func (w *world) invocation(verb, container string) (argv, env []string, stdin string) {
	argv = []string{filepath.Join(w.Bin, "ocicat-cni")}
	env = []string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + container, "CNI_IFNAME=eth0", "CNI_NETNS=" + w.pod.Path(), "CNI_PATH=" + w.Bin,
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=devops;K8S_POD_NAME=" + container,
	}
	return argv, env, fmt.Sprintf(`{"cniVersion":"1.1.0","name":%q,"type":"ocicat-cni","socket":%q}`, network, filepath.Join(w.run, "cni.sock"))
}

// call has the plugin do a verb; of a variable given here the last value counts.
func (w *world) call(verb, container string, variables ...string) answer {
	argv, env, stdin := w.invocation(verb, container)
	cmd := exec.Command(argv[0])
	cmd.Env, cmd.Stdin = append(env, variables...), strings.NewReader(stdin)
	out, err := cmd.Output()
	if cmd.ProcessState == nil {
		w.t.Fatalf("%s: %v", verb, err)
	}
	return answer{cmd.ProcessState.ExitCode(), string(out)}
}

func (w *world) mustAdd(container string) netip.Prefix {
	w.t.Helper()
	a := w.call("ADD", container)
	if a.code != 0 {
		w.t.Fatalf("ADD %s: %s", container, a)
	}
	return a.addrs(w.t)[0]
}

func (w *world) mustDel(container string) {
	w.t.Helper()
	if a := w.call("DEL", container); a.code != 0 {
		w.t.Fatalf("DEL %s: %s", container, a)
	}
}

// clean waits until kernel, journal, files and datastore hold the given
// containers and nothing else, and reports whether they do.
func (w *world) clean(after string, alive ...string) bool {
	w.t.Helper()
	var wrong []string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); <-time.After(10 * time.Millisecond) {
		if wrong = w.leaks(alive...); len(wrong) == 0 {
			return true
		}
	}
	w.t.Errorf("after %s:\n%s", after, strings.Join(wrong, "\n"))
	return false
}

// leaks are the differences between what stands and what should with these
// containers attached.
func (w *world) leaks(alive ...string) []string {
	w.t.Helper()
	held, wrong := w.recorded(alive)
	wrong = append(wrong, w.inKernel(held)...)
	wrong = append(wrong, w.inDatastore(held)...)
	if stones, _ := os.ReadDir(filepath.Join(w.run, "tombstones")); len(stones) > 0 {
		wrong = append(wrong, fmt.Sprintf("%d tombstones", len(stones)))
	}
	if w.files != nil {
		for _, name := range w.runFiles() {
			if !slices.Contains(w.files, name) {
				wrong = append(wrong, "file "+name)
			}
		}
	}
	return wrong
}

// recorded compares the journal with the containers attached.
func (w *world) recorded(alive []string) (held map[string]journal.Attachment, wrong []string) {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.run, "journal"))
	if err != nil {
		return nil, []string{err.Error()}
	}
	dir := w.t.TempDir() // a copy: the agent holds the journal's lock
	if err := os.WriteFile(filepath.Join(dir, "journal"), text, 0o600); err != nil {
		w.t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	j, _, err := journal.Open(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	defer j.Close()
	held = map[string]journal.Attachment{}
	for _, att := range j.List() {
		if !slices.Contains(alive, att.ID().ContainerID) || att.State != journal.Attached {
			wrong = append(wrong, fmt.Sprintf("journal: %s is %s", att.ID(), att.State))
		}
		held[att.ID().ContainerID] = att
	}
	for _, id := range alive {
		if _, ok := held[id]; !ok {
			wrong = append(wrong, "journal: nothing of "+id)
		}
	}
	return held, wrong
}

// inKernel compares the node's links and routes and the pod's links with the
// journal.
func (w *world) inKernel(held map[string]journal.Attachment) (wrong []string) {
	w.t.Helper()
	var links, routes []string
	for _, att := range held {
		links = append(links, att.Endpoint.HostIf)
		routes = append(routes, att.Endpoint.Addr.String()+" dev "+att.Endpoint.HostIf)
	}
	var seenLinks, seenRoutes []string
	for line := range strings.Lines(w.Node(node, "ip -o link show")) {
		name, _, _ := strings.Cut(strings.TrimSuffix(strings.Fields(line)[1], ":"), "@")
		if name != "lo" && name != "ens160" {
			seenLinks = append(seenLinks, name)
		}
	}
	for line := range strings.Lines(w.Node(node, "ip -4 route show table all type unicast")) {
		if f := strings.Fields(line); len(f) > 2 && (strings.HasPrefix(f[2], "cali") || strings.HasPrefix(f[2], "gone")) {
			seenRoutes = append(seenRoutes, strings.Join(f[:3], " "))
		}
	}
	wrong = append(wrong, differ("node's links", seenLinks, links)...)
	wrong = append(wrong, differ("node's routes", seenRoutes, routes)...)
	if n := len(strings.Split(strings.TrimSpace(w.pod.IP("-o link show")), "\n")); n != 1+len(held) {
		wrong = append(wrong, fmt.Sprintf("%d links in the pod's namespace, want %d", n, 1+len(held)))
	}
	return wrong
}

// inDatastore compares the addresses and handles of the datastore with the
// journal: all others are the reserve's.
func (w *world) inDatastore(held map[string]journal.Attachment) (wrong []string) {
	w.t.Helper()
	owner := map[netip.Addr]string{}
	for id, att := range held {
		owner[att.Endpoint.Addr] = names.Handle(network, id)
	}
	spare := 0
	for _, e := range w.list(store.Block) {
		b, err := alloc.ParseBlock(e.Value)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, addr := range b.HeldBy(func(alloc.Attribute) bool { return true }) {
			who, _ := b.Holder(addr)
			if _, ours := names.ParseReserveHandle(who.Handle); ours && owner[addr] == "" {
				spare++
				continue
			}
			if who.Handle != owner[addr] {
				wrong = append(wrong, fmt.Sprintf("address %s: held by %q, want %q", addr, who.Handle, owner[addr]))
			}
			delete(owner, addr)
		}
	}
	if spare > reserve {
		wrong = append(wrong, fmt.Sprintf("%d addresses in the reserve, want at most %d", spare, reserve))
	}
	for addr, handle := range owner {
		wrong = append(wrong, fmt.Sprintf("address %s of %s: not in the datastore", addr, handle))
	}
	for _, e := range w.list(store.Handle) {
		_, ours := names.ParseReserveHandle(e.Key.Name)
		if _, pod := held[strings.TrimPrefix(e.Key.Name, network+".")]; !ours && !pod {
			wrong = append(wrong, "handle "+e.Key.Name)
		}
	}
	return wrong
}

func (w *world) list(kind store.Kind) []store.Entry {
	w.t.Helper()
	entries, _, err := w.store.List(w.t.Context(), kind, "")
	if err != nil {
		w.t.Fatal(err)
	}
	return entries
}

// written says whether the datastore has a container's handle.
func (w *world) written(container string) bool {
	return slices.ContainsFunc(w.list(store.Handle), func(e store.Entry) bool { return e.Key.Name == names.Handle(network, container) })
}

// runFiles are the files below the agent's /run/ocicat, without tombstones.
func (w *world) runFiles() (found []string) {
	w.t.Helper()
	_ = filepath.WalkDir(w.run, func(path string, d os.DirEntry, err error) error { // what goes meanwhile is not there
		if err == nil && !d.IsDir() && filepath.Base(filepath.Dir(path)) != "tombstones" {
			found = append(found, strings.TrimPrefix(path, w.run+"/"))
		}
		return nil
	})
	return found
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

// traced has the plugin do a verb, killed before its system call at; 0 is for
// none.
func (w *world) traced(verb, container string, at int) (*tracee, answer) {
	w.t.Helper()
	argv, env, stdin := w.invocation(verb, container)
	dir := w.t.TempDir()
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	if err := os.WriteFile(in, []byte(stdin), 0o600); err != nil {
		w.t.Fatal(err)
	}
	var files []*os.File
	for _, open := range []func() (*os.File, error){
		func() (*os.File, error) { return os.Open(in) },
		func() (*os.File, error) { return os.Create(out) },
		func() (*os.File, error) { return os.Open(os.DevNull) },
	} {
		f, err := open()
		if err != nil {
			w.t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	p := start(w.t, argv, env, files, at)
	p.wait(w.t)
	text, err := os.ReadFile(out)
	if err != nil {
		w.t.Fatal(err)
	}
	a := answer{out: string(text)}
	if p.hit.Load() || bytes.Contains(text, []byte(`"code"`)) {
		a.code = 1
	}
	return p, a
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
