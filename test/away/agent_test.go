// SPDX-License-Identifier: Apache-2.0

package away

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/statefile"
)

// Without its agent a node keeps its pods connected: ADD is refused at once,
// or after five seconds when the agent hangs; DEL succeeds and is served when
// the agent is back. A second agent is refused and harms nothing.
func TestAgentAway(t *testing.T) {
	w := up(t)
	w.secondAgentRefused()
	w.add("gone", master)

	w.killAgent(master)
	if took := w.refused("early", master, "agent"); took > time.Second {
		t.Errorf("ADD without agent is answered after %s", took)
	}
	w.del("gone")
	w.stones(master, 2) // of the refused ADD too: its runtime deletes what may be there
	w.talk("m", "w")
	w.startAgent(master)
	w.clean()

	w.add("gone", master)
	w.frozen(func() {
		if took := w.refused("hung", master); took < 4*time.Second || took > 12*time.Second {
			t.Errorf("ADD and DEL of a frozen agent are answered after %s, want 5 s each", took)
		}
		w.del("gone")
		w.stones(master, 2)
		w.talk("m", "w")
	})
	w.clean()
	w.add("next", master)
	w.talk("next", "w")
	w.clean()
}

// frozen does f while the master's agent is stopped.
func (w *world) frozen(f func()) {
	w.t.Helper()
	pid := w.agentPID(master)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		w.t.Fatal(err)
	}
	defer syscall.Kill(pid, syscall.SIGCONT)
	f()
}

// stones checks how many DELs wait for the agent.
func (w *world) stones(node string, want int) {
	w.t.Helper()
	list, err := os.ReadDir(w.runFile(node, "tombstones"))
	if err != nil || len(list) != want {
		w.t.Errorf("%d tombstones on %s (%v), want %d", len(list), node, err, want)
	}
}

// program runs ocicatd in a node beside the one that is there, with the
// arguments of env.
func (w *world) program(node string, env ...string) (string, int) {
	w.t.Helper()
	argv := append([]string{"env", "NODENAME=" + node, "ETCD_ENDPOINTS=http://192.168.0.2:2379", "IP=autodetect"}, env...)
	return w.nodeOutput(node, append(argv, "timeout", "10", filepath.Join(w.Bin, "ocicatd"))...)
}

func (w *world) secondAgentRefused() {
	w.t.Helper()
	before := w.session(master)
	out, code := w.program(master)
	if code == 0 || strings.Count(out, "error:") != 1 || !strings.Contains(out, fmt.Sprintf("process %d,", w.agentPID(master))) {
		w.t.Errorf("second agent: exit %d\n%s", code, out)
	}
	w.t.Logf("second agent: exit %d: %s", code, out)
	if after := w.session(master); after.Since != before.Since || after.State != before.State {
		w.t.Errorf("session before: %+v, after the second agent: %+v", before, after)
	}
	w.add("second", master)
	w.talk("second", "w")
	w.del("second")
}

// Whatever is lost or damaged of an agent's files while it is down, it starts
// with its pods attached or says what to do.
func TestFilesLost(t *testing.T) {
	w := up(t)
	w.add("kept", master)
	w.clean() // its name is in the datastore: the kernel does not know it
	spoil := []struct {
		what string
		do   func()
	}{
		{"journal removed", func() { w.removeAll(w.runFile(master, "journal")) }},
		{"journal garbage", func() { w.write(w.runFile(master, "journal"), "\x00\xffnonsense\n{\n") }},
		{"lease garbage", func() { w.write(w.runFile(master, "lease"), "{\"version\": 1, \"held\": 7") }},
		{"lease of another version", func() { w.write(w.runFile(master, "lease"), "{\"version\": 99}") }},
		{"restart state garbage", func() { w.spoilRestartState() }},
		{"local copy garbage", func() { w.write(w.copyFile(), "]") }},
		{"local copy half written", func() { w.halve(w.copyFile()) }},
		{"local copy removed", func() { w.removeAll(w.copyFile()) }},
		{"run directory wiped", func() { w.wipeRun() }},
	}
	for i, s := range spoil {
		t.Log(s.what)
		w.killAgent(master)
		s.do()
		w.startAgent(master)
		w.established(master, 3*time.Second)
		w.reunited("kept", "w")
		name := "new" + string(rune('a'+i))
		w.add(name, master)
		w.talk(name, "kept")
		w.clean()
		w.del(name)
		w.clean()
	}
	if out, code := w.Ocicat("ipam", "show", "--ip="+w.pod("kept").Address.Addr().String()); code != 0 || !strings.Contains(out, "pod: kept\n") {
		t.Errorf("ipam show --ip, exit %d:\n%s", code, out)
	}
	w.newerCopyRefused()
	w.del("kept", "m")
	w.clean()
}

func (w *world) removeAll(path string) {
	w.t.Helper()
	if err := os.RemoveAll(path); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) write(path, text string) {
	w.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// copyFile is the master's local copy of the datastore.
func (w *world) copyFile() string { return w.runFile(master, "..", "var", "datastore.json") }

func (w *world) read(path string) string {
	w.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(text)
}

func (w *world) halve(path string) {
	w.t.Helper()
	text := w.read(path)
	w.write(path, text[:len(text)/2])
}

// spoilRestartState writes nonsense into every file the speaker left.
func (w *world) spoilRestartState() {
	w.t.Helper()
	files, err := filepath.Glob(w.runFile(master, "gr", "*"))
	if err != nil || len(files) == 0 {
		w.t.Fatalf("restart state: %v, %v", files, err)
	}
	for _, f := range files {
		w.write(f, "\x00{")
	}
}

// wipeRun removes all that is in the run directory, as a mistaken cleaning
// does; the directory itself is a mount.
func (w *world) wipeRun() {
	w.t.Helper()
	entries, err := os.ReadDir(w.runFile(master))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		w.removeAll(w.runFile(master, e.Name()))
	}
}

// newerCopyRefused checks that the agent does not start from, nor overwrite, a
// local copy that a newer version wrote, and says how to go on.
func (w *world) newerCopyRefused() {
	w.t.Helper()
	w.killAgent(master)
	old := w.read(w.copyFile())
	later := statefile.LocalCopy
	later.Version = 99
	if err := later.Write(w.copyFile(), []byte("{}"), true); err != nil {
		w.t.Fatal(err)
	}
	newer := w.read(w.copyFile())
	out, code := w.program(master)
	if code == 0 || strings.Count(out, "error:") != 1 || !strings.Contains(out, "version is 99") || !strings.Contains(out, "hint:") {
		w.t.Errorf("newer local copy: exit %d\n%s", code, out)
	}
	w.t.Logf("newer local copy: exit %d: %s", code, out)
	if w.read(w.copyFile()) != newer {
		w.t.Error("the newer local copy was overwritten")
	}
	w.talk("kept", "w")
	w.write(w.copyFile(), old)
	w.startAgent(master)
	w.clean()
}
