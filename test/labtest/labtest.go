// SPDX-License-Identifier: Apache-2.0

// Package labtest gives tests a lab of their own, made of programs built for
// the test and removed with it.
package labtest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/internal/netns"
	"github.com/ocicat-net/ocicat/internal/nstest"
)

var labs atomic.Int64 // gives every lab of a process another name

// Lab is a lab that belongs to a test.
type Lab struct {
	*lab.Lab
	t *testing.T
	// Bin is the directory with the programs, the command line among them.
	Bin string
	// Root is where the lab keeps its files.
	Root string
}

// Up brings up a lab of the article's topology with that many nodes and pods;
// change, if not nil, may change the topology before.
func Up(t *testing.T, nodes int, pods []lab.PodSpec, change func(*lab.Topology)) *Lab {
	t.Helper()
	nstest.RequireRoot(t)
	l := &Lab{t: t, Bin: Build(t), Root: t.TempDir()}
	var err error
	l.Lab, err = lab.New(lab.Config{Name: fmt.Sprintf("t%d-%d", os.Getpid(), labs.Add(1)), Root: l.Root, BinDir: l.Bin})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.down)
	topology, err := lab.Article(nodes)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&topology)
	}
	if err := l.Lab.Up(t.Context(), topology, pods); err != nil {
		t.Fatalf("lab up: %v (%s)", err, fault.HintOf(err))
	}
	return l
}

func (l *Lab) down() {
	if l.t.Failed() {
		logs, _ := filepath.Glob(filepath.Join(l.Root, l.Name(), "nodes", "*", "log", "*.log"))
		for _, file := range logs {
			text, _ := os.ReadFile(file)
			l.t.Logf("%s:\n%s", file, text)
		}
	}
	if _, err := l.Down(context.Background()); err != nil {
		l.t.Errorf("remove lab: %v", err)
	}
}

// programs are built once for all tests of a process.
var programs struct {
	once sync.Once
	dir  string
	err  error
}

// Main runs a package's tests and removes the programs built for them.
func Main(m *testing.M) int {
	defer func() { _ = os.RemoveAll(programs.dir) }()
	return m.Run()
}

// Build builds all programs and returns their directory. The package's
// TestMain must call Main.
func Build(t *testing.T) string {
	t.Helper()
	programs.once.Do(func() {
		if programs.dir, programs.err = os.MkdirTemp("", "ocicat-bin-"); programs.err != nil {
			return
		}
		out, err := exec.Command("go", "build", "-o", programs.dir+"/", "github.com/ocicat-net/ocicat/cmd/...").CombinedOutput()
		if err != nil {
			programs.err = fmt.Errorf("build programs: %w\n%s", err, out)
		}
	})
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	return programs.dir
}

// Node runs a command in a node's namespaces and returns what it printed.
func (l *Lab) Node(node, command string) string {
	l.t.Helper()
	return l.run(l.ExecNode, node, command)
}

// Pod runs a command in a pod's namespace and returns what it printed.
func (l *Lab) Pod(pod, command string) string {
	l.t.Helper()
	return l.run(l.ExecPod, pod, command)
}

func (l *Lab) run(exec func(context.Context, string, []string, lab.Streams) (int, error), where, command string) string {
	l.t.Helper()
	var out bytes.Buffer
	code, err := exec(l.t.Context(), where, strings.Fields(command), lab.Streams{Out: &out, Err: &out})
	if err != nil || code != 0 {
		l.t.Fatalf("%s: %s: exit %d, %v\n%s", where, command, code, err, out.String())
	}
	return out.String()
}

// Ocicat runs the command line on this lab and returns what it printed to
// standard output, and its exit code.
func (l *Lab) Ocicat(args ...string) (string, int) {
	l.t.Helper()
	cmd := exec.Command(filepath.Join(l.Bin, "ocicat"), append([]string{"--lab", l.Name()}, args...)...)
	cmd.Env = append(os.Environ(), "OCICAT_LAB_DIR="+l.Root)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if cmd.ProcessState == nil {
		l.t.Fatalf("ocicat %v: %v", args, err)
	}
	if stderr.Len() > 0 {
		l.t.Logf("ocicat %v: %s", args, stderr.String())
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// Netns opens a node's or pod's network namespace by its name in /run/netns
// without the lab's name.
func (l *Lab) Netns(name string) *os.File {
	l.t.Helper()
	ns, err := netns.Open(filepath.Join("/run/netns", l.Name()+"."+name))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { ns.Close() })
	return ns
}
