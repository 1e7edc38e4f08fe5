// SPDX-License-Identifier: Apache-2.0

package restart

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/test/labtest"
)

// agent is a node's agent that the test ends and starts by itself, in the
// node's namespaces: the lab's own commands wait for more than is measured.
type agent struct {
	node   string
	socket string // admin
	log    string
	path   string // of the program
	env    []string
	net    *os.File
	mnt    *os.File
	pid    int
	ended  chan struct{} // closed when a process of ours has ended; nil for the lab's
}

// newAgent takes over the agent the lab has started.
func newAgent(t *testing.T, l *labtest.Lab, node string) *agent {
	t.Helper()
	state, err := l.State()
	if err != nil {
		t.Fatal(err)
	}
	n, err := state.Node(node)
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{node: node, socket: l.AdminSocket(node), log: l.AgentLog(node), path: filepath.Join(l.Bin, "ocicatd"), pid: n.Agent.PID}
	env, err := os.ReadFile(a.proc("environ"))
	if err != nil {
		t.Fatal(err)
	}
	a.env = strings.Split(strings.TrimSuffix(string(env), "\x00"), "\x00")
	a.net, a.mnt = open(t, a.proc("ns/net")), open(t, a.proc("ns/mnt"))
	t.Cleanup(func() { a.signal(unix.SIGKILL) })
	return a
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func (a *agent) proc(file string) string { return fmt.Sprintf("/proc/%d/%s", a.pid, file) }

// signal sends to the process, if there is one.
func (a *agent) signal(sig syscall.Signal) {
	if a.pid != 0 {
		_ = unix.Kill(a.pid, sig)
	}
}

// end sends sig and waits until the process is gone.
func (a *agent) end(t *testing.T, sig syscall.Signal) {
	t.Helper()
	a.signal(sig)
	a.awaitEnd(t)
}

func (a *agent) awaitEnd(t *testing.T) {
	t.Helper()
	if a.ended != nil {
		select {
		case <-a.ended:
		case <-time.After(20 * time.Second):
			t.Fatalf("agent of %s does not end", a.node)
		}
	} else {
		nstest.Eventually(t, 20*time.Second, func() bool { return unix.Kill(a.pid, 0) == unix.ESRCH }, "agent ends of ", a.node)
	}
	a.pid = 0
}

// start starts the program again, as the lab did.
func (a *agent) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(a.log, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	// A child's files begin at 3; nsenter takes the place of itself.
	cmd := exec.Command("nsenter", "--net=/proc/self/fd/3", "--mount=/proc/self/fd/4", "--wd=/", a.path)
	cmd.ExtraFiles = []*os.File{a.net, a.mnt}
	cmd.Env, cmd.Stdout, cmd.Stderr = a.env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a.pid, a.ended = cmd.Process.Pid, make(chan struct{})
	go func() {
		defer close(a.ended)
		_ = cmd.Wait()
	}()
}

// anotherBuild is a program of the same source that is not the same: what an
// upgrade brings.
func anotherBuild(t *testing.T, l *labtest.Lab) string {
	t.Helper()
	another.once.Do(func() {
		path := filepath.Join(l.Bin, "ocicatd-next")
		out, err := exec.Command("go", "build", "-buildvcs=false", "-ldflags", "-s -w -B 0x6f636963617432", "-o", path,
			"github.com/ocicat-net/ocicat/cmd/ocicatd").CombinedOutput()
		another.path = path
		if err != nil {
			another.err = fmt.Errorf("build another agent: %w\n%s", err, out)
		}
	})
	if another.err != nil {
		t.Fatal(another.err)
	}
	return another.path
}

// another is built once for all tests.
var another struct {
	once sync.Once
	path string
	err  error
}

// upgrade puts another build in the program's place, as an installer does, and
// restarts the agent.
func (a *agent) upgrade(t *testing.T, l *labtest.Lab) {
	t.Helper()
	dir := t.TempDir() // the program's directory is other tests', too
	path := filepath.Join(dir, "ocicatd")
	if err := os.Link(anotherBuild(t, l), path); err != nil {
		data, err := os.ReadFile(another.path)
		if err == nil {
			err = os.WriteFile(path, data, 0o700)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	before := program(t, a.proc("exe"))
	old := a.path
	a.path = path
	a.end(t, unix.SIGTERM)
	a.start(t)
	awaitSession(t, l, a.node)
	if os.SameFile(before, program(t, a.proc("exe"))) {
		t.Error("upgraded agent runs the same program")
	}
	a.path = old // the next start goes back, which is an upgrade as well
}

func program(t *testing.T, path string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// starve has the kernel kill the agent by the memory limit of a cgroup and
// returns how often it did.
func (a *agent) starve(t *testing.T) (kills int) {
	t.Helper()
	dir := fmt.Sprintf("/sys/fs/cgroup/memory/ocicat-%d-%d", os.Getpid(), a.pid)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatalf("make a memory cgroup (version 1): %v", err)
	}
	defer func() { _ = os.Remove(dir) }()
	for _, w := range []struct{ file, text string }{{"memory.limit_in_bytes", "262144"}, {"cgroup.procs", strconv.Itoa(a.pid)}} {
		if err := os.WriteFile(filepath.Join(dir, w.file), []byte(w.text), 0); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ended := make(chan struct{})
	go func() { // many questions at once make it need more memory
		defer close(ended)
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				for ctx.Err() == nil {
					_, _ = admin.Dial(a.socket).Report(ctx)
				}
			})
		}
		wg.Wait()
	}()
	a.awaitEnd(t)
	cancel()
	<-ended
	text, err := os.ReadFile(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if n, found := strings.CutPrefix(line, "oom_kill "); found {
			kills, _ = strconv.Atoi(strings.TrimSpace(n))
		}
	}
	return kills
}
