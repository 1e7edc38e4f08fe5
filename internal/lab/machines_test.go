// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/nstest"
)

// newLab is a lab of the test's own, removed with it.
func newLab(t *testing.T, bin string) *Lab {
	t.Helper()
	nstest.RequireRoot(t)
	l, err := New(Config{Name: fmt.Sprintf("t%d-%s", os.Getpid(), shortName(t)), Root: t.TempDir(), BinDir: bin})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := l.Down(context.Background()); err != nil && !fault.Is(err, fault.NotFound) {
			t.Errorf("remove lab: %v", err)
		}
	})
	return l
}

func shortName(t *testing.T) string {
	name := strings.ToLower(strings.TrimPrefix(t.Name(), "Test"))
	return name[:min(len(name), 12)]
}

// raise makes the machines of a lab with the article's topology and nothing
// that runs in them.
func raise(t *testing.T, l *Lab, nodes int) *State {
	t.Helper()
	topology, err := Article(nodes)
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.found(t.Context(), topology)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.raiseMachines(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return s
}

// in runs a command on a node and returns what it printed, without space at
// the end of lines.
func in(t *testing.T, l *Lab, node string, argv ...string) string {
	t.Helper()
	var out bytes.Buffer
	code, err := l.ExecNode(t.Context(), node, argv, Streams{Out: &out, Err: &out})
	if err != nil || code != 0 {
		t.Fatalf("%s: %v: exit %d, %v\n%s", node, argv, code, err, out.String())
	}
	return trimLines(out.String())
}

func trimLines(s string) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

func TestMachines(t *testing.T) {
	l := newLab(t, "")
	raise(t, l, 2)

	want := `default via 192.168.0.2 dev ens160 proto static metric 100
192.168.0.0/24 dev ens160 proto kernel scope link src 192.168.0.12 metric 100`
	var got string // linkdown is shown until the kernel noticed the carrier, within a second (linkwatch)
	nstest.Eventually(t, 5*time.Second, func() bool {
		got = in(t, l, "k8s-node-1", "ip", "route", "show")
		return !strings.Contains(got, "linkdown")
	}, "carrier on the uplink")
	if got != want {
		t.Errorf("routes of k8s-node-1:\n%s\nwant:\n%s", got, want)
	}
	link := in(t, l, "k8s-node-1", "ip", "addr", "show", "enp2s0")
	for _, want := range []string{
		"link/ether 00:0c:29:90:fa:e2 brd ff:ff:ff:ff:ff:ff",
		"altname enp2s0",
		"inet 192.168.0.12/24 brd 192.168.0.255 scope global noprefixroute ens160",
		"mtu 1500",
	} {
		if !strings.Contains(link, want) {
			t.Errorf("uplink lacks %q:\n%s", want, link)
		}
	}
	if got := in(t, l, "k8s-node-1", "hostname"); got != "k8s-node-1" {
		t.Errorf("host name is %q", got)
	}
	if got := in(t, l, "k8s-node-1", "cat", "/proc/sys/net/ipv4/ip_forward"); got != "0" {
		t.Errorf("ip_forward is %s before the agent started", got)
	}
	in(t, l, "k8s-master-1", "busybox", "ping", "-c", "1", "-W", "5", "192.168.0.12")
	in(t, l, "k8s-master-1", "busybox", "ping", "-c", "1", "-W", "5", "192.168.0.2")
	neigh := in(t, l, "k8s-master-1", "ip", "neigh", "show", "192.168.0.2")
	if !strings.Contains(neigh, "lladdr 00:50:56:e0:1b:11") {
		t.Errorf("gateway is %s", neigh)
	}
}

func TestNodeHasItsOwnFilesAndBoot(t *testing.T) {
	l := newLab(t, "")
	s := raise(t, l, 2)

	boots := map[string]string{}
	for _, n := range s.Nodes {
		boots[n.Name] = in(t, l, n.Name, "cat", bootID)
	}
	machine, err := os.ReadFile(bootID)
	if err != nil {
		t.Fatal(err)
	}
	boots["this machine"] = strings.TrimSpace(string(machine))
	seen := map[string]string{}
	for who, id := range boots {
		if other, twice := seen[id]; twice {
			t.Errorf("%s and %s have the boot id %s", who, other, id)
		}
		seen[id] = who
	}
	for _, p := range private {
		in(t, l, "k8s-master-1", "sh", "-c", "echo mine > "+p.inside+"/proof")
		if text, err := os.ReadFile(l.dir("nodes", "k8s-master-1", p.outside, "proof")); err != nil || string(text) != "mine\n" {
			t.Errorf("%s of the node is not %s of its directory: %q, %v", p.inside, p.outside, text, err)
		}
		for _, elsewhere := range []string{p.inside + "/proof", l.dir("nodes", "k8s-node-1", p.outside, "proof")} {
			if _, err := os.Stat(elsewhere); err == nil {
				t.Errorf("%s exists too", elsewhere)
			}
		}
	}
	// A namespace made later appears in the nodes, and can be removed for good.
	if err := makeNetns(l.name + ".later"); err != nil {
		t.Fatal(err)
	}
	in(t, l, "k8s-master-1", "nsenter", "--net="+netnsPath(l.name+".later"), "true")
	if err := removeNetns(l.name + ".later"); err != nil {
		t.Fatal(err)
	}
	if out := in(t, l, "k8s-master-1", "sh", "-c", "ls "+netnsDir+"; grep later /proc/self/mountinfo || true"); strings.Contains(out, "later") {
		t.Errorf("removed namespace is still seen in the node:\n%s", out)
	}
}

// A second Up leaves alone what stands and boots what does not.
func TestMachinesResume(t *testing.T) {
	l := newLab(t, "")
	s := raise(t, l, 3)
	boot := func(node string) string { return in(t, l, node, "cat", bootID) }
	before := map[string]string{"k8s-master-1": boot("k8s-master-1"), "k8s-node-1": boot("k8s-node-1"), "k8s-node-2": boot("k8s-node-2")}

	run(t, "ip", "netns", "delete", l.nodeNetns("k8s-node-1"))
	run(t, "umount", l.space("k8s-node-2").mnt)
	if _, err := l.raiseMachines(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	for node, id := range before {
		if same := boot(node) == id; same != (node == "k8s-master-1") {
			t.Errorf("%s: boot id is the same: %v", node, same)
		}
	}
	in(t, l, "k8s-node-2", "busybox", "ping", "-c", "1", "-W", "5", "192.168.0.12")
}

func TestAttachWithoutAgent(t *testing.T) {
	bin := t.TempDir()
	if err := build(bin, "ocicat-cni"); err != nil {
		t.Fatal(err)
	}
	l := newLab(t, bin)
	s := raise(t, l, 1)
	if err := l.writeConflist("k8s-master-1"); err != nil {
		t.Fatal(err)
	}
	if err := l.save(s); err != nil {
		t.Fatal(err)
	}
	spec := PodSpec{Namespace: "devops", Name: "web-0", Node: "k8s-master-1"}
	_, err := l.AddPod(t.Context(), spec)
	if !fault.Is(err, fault.Unavailable) || fault.HintOf(err) == "" {
		t.Errorf("add without agent: %v (%v, hint %q), want unavailable, the kind of CNI code 11, with a hint", err, fault.KindOf(err), fault.HintOf(err))
	}
	if isNamespace(netnsPath(l.podNetns(spec))) {
		t.Error("the pod's namespace is still there")
	}
	after, err := l.State()
	if err != nil || len(after.Pods) != 0 {
		t.Errorf("record after a failed add: %v, %v", after, err)
	}
}

// Down finds everything by name: with the record lost, the directory of pins
// unmounted or not, and with processes that hold on to namespaces.
func TestDownWithoutRecord(t *testing.T) {
	for _, broken := range []string{"", "{", "missing"} {
		t.Run("record="+broken, func(t *testing.T) {
			l := newLab(t, "")
			raise(t, l, 2)
			inside := hold(t, l.space("k8s-node-1"), nil)
			marked := hold(t, space{}, []string{envMark + "=" + l.name})
			other := hold(t, space{}, []string{envMark + "=" + l.name + "x"})
			switch broken {
			case "missing":
				os.Remove(l.dir("lab.json"))
			case "{":
				os.WriteFile(l.dir("lab.json"), []byte("{"), 0o600)
			}
			r, err := l.Down(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if r.Namespaces != 4 || r.Processes != 2 || !r.Files {
				t.Errorf("removed %+v, want 4 namespaces, 2 processes and the files", r)
			}
			if inside.Alive() || marked.Alive() {
				t.Error("processes of the lab are alive")
			}
			if !other.Alive() {
				t.Error("a process of another lab was killed")
			}
			if rest := remains(t, l); rest != "" {
				t.Errorf("left over:\n%s", rest)
			}
			if _, err := l.Down(t.Context()); !fault.Is(err, fault.NotFound) {
				t.Errorf("second down: %v, want not found", err)
			}
		})
	}
}

// remains lists all there is of a lab on this machine.
func remains(t *testing.T, l *Lab) string {
	t.Helper()
	var found []string
	names, err := l.netnsNames()
	if err != nil {
		t.Fatal(err)
	}
	found = append(found, names...)
	list, err := l.processes()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
		found = append(found, fmt.Sprintf("process %d %s", p.PID, bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, l.dir()) || strings.Contains(line, "/"+l.name+".") {
			found = append(found, "mount "+line)
		}
	}
	files, err := filepath.Glob(filepath.Join(l.root, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(append(found, files...), "\n")
}

// hold starts a process that stays in s.
func hold(t *testing.T, s space, env []string) Process {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := s.run(cmd.Start); err != nil {
		t.Fatal(err)
	}
	p, ok := identify(cmd.Process.Pid)
	go func() { _ = cmd.Wait() }()
	if !ok {
		t.Fatal("the process ended at once")
	}
	t.Cleanup(func() {
		if err := p.kill(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return p
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// build builds commands of this module into dir.
func build(dir string, names ...string) error {
	args := []string{"build", "-o", dir + "/"}
	for _, name := range names {
		args = append(args, "github.com/ocicat-net/ocicat/cmd/"+name)
	}
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("go %v: %w\n%s", args, err, out)
	}
	return nil
}

func TestCheckHostLeavesNothing(t *testing.T) {
	nstest.RequireRoot(t)
	before, err := mountsBelow("/sys")
	if err != nil {
		t.Fatal(err)
	}
	have, err := CheckHost()
	if err != nil || !strings.Contains(strings.Join(have, " "), "veth, bridge") {
		t.Errorf("host check: %v, %v", have, err)
	}
	after, err := mountsBelow("/sys")
	if err != nil || !slices.Equal(before, after) {
		t.Errorf("mounts below /sys changed from %v to %v (%v)", before, after, err)
	}
	if out, err := exec.Command("ip", "link", "show", "check0").CombinedOutput(); err == nil {
		t.Errorf("check0 is left: %s", out)
	}
}

// The last lab of one place takes nothing from the labs of another: nodes
// keep their own directories.
func TestDownLeavesOtherLabsTheirMounts(t *testing.T) {
	a, b := newLab(t, ""), newLab(t, "")
	b.name += "b"
	raise(t, a, 1)
	raise(t, b, 1)
	if _, err := a.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, p := range private {
		in(t, b, "k8s-master-1", "sh", "-c", "echo mine > "+p.inside+"/proof")
		if _, err := os.Stat(b.dir("nodes", "k8s-master-1", p.outside, "proof")); err != nil {
			t.Errorf("%s is not the node's own any more: %v", p.inside, err)
		}
	}
}
