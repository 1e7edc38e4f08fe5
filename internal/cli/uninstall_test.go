// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/purge"
)

// uninstallHost is a network namespace and a node's directories below a
// directory of the test.
type uninstallHost struct {
	ns                            *nstest.NS
	bin, conf, source, run, state string
}

func newUninstallHost(t *testing.T) uninstallHost {
	t.Helper()
	dir := t.TempDir()
	h := uninstallHost{nstest.New(t), filepath.Join(dir, "bin"), filepath.Join(dir, "net.d"), filepath.Join(dir, "source"), filepath.Join(dir, "run"), filepath.Join(dir, "state")}
	for file, text := range map[string]string{
		filepath.Join(h.bin, "ocicat-cni"):          "ours",
		filepath.Join(h.bin, "ocicat-portmap"):      "ours",
		filepath.Join(h.bin, "ocicat-bandwidth"):    "ours",
		filepath.Join(h.bin, "loopback"):            "the distribution's",
		filepath.Join(h.bin, "bridge"):              "the distribution's",
		filepath.Join(h.source, "loopback"):         "ours",
		filepath.Join(h.conf, "10-ocicat.conflist"): `{"name": "k8s-pod-network", "plugins": [{"type": "ocicat-cni"}]}`,
		filepath.Join(h.conf, "87-bridge.conflist"): `{"name": "other", "plugins": [{"type": "bridge"}]}`,
		filepath.Join(h.run, "journal"):             "",
		filepath.Join(h.state, "notes"):             "somebody's",
	} {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// uninstall runs the command with every directory named: none is the machine's.
func (h uninstallHost) uninstall(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return h.runAs(t, Program, append([]string{"uninstall", "--cni-bin-dir", h.bin, "--cni-net-dir", h.conf, "--cni-source", h.source, "--run-dir", h.run, "--state-dir", h.state}, args...))
}

func (h uninstallHost) runAs(t *testing.T, program string, args []string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	h.ns.Do(func() {
		code = Run(t.Context(), Config{Stdin: &bytes.Buffer{}, Stdout: &out, Stderr: &errs, Getenv: func(string) string { return "" }, Program: program, LabDir: h.run}, args)
	})
	return code, out.String(), errs.String()
}

// files are the names in the directories of plugins and configurations.
func (h uninstallHost) files(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, dir := range []string{h.bin, h.conf} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestUninstallRemovesOursAlone(t *testing.T) {
	h := newUninstallHost(t)
	want := []string{"bridge", "loopback", "87-bridge.conflist"}
	for _, run := range []string{"first", "again"} {
		code, stdout, stderr := h.uninstall(t)
		if got := h.files(t); code != ExitOK || !slices.Equal(got, want) || !strings.Contains(stdout, "\nuninstalled: ") && run == "first" {
			t.Errorf("%s: code %d, files %q, want %q; stdout %q, stderr %q", run, code, got, want, stdout, stderr)
		}
	}
}

func TestUninstallRefusesBesideAnAgent(t *testing.T) {
	h := newUninstallHost(t)
	agent, err := net.Listen("unix", filepath.Join(h.run, "cni.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	before := h.files(t)
	code, stdout, stderr := h.uninstall(t)
	if got := h.files(t); code == ExitOK || stdout != "" || !slices.Equal(got, before) || !strings.Contains(stderr, "Stop it first") {
		t.Errorf("code %d, files %q, want %q; stdout %q, stderr %q", code, got, before, stdout, stderr)
	}
}

func TestUninstallDryRun(t *testing.T) {
	h := newUninstallHost(t)
	before := h.files(t)
	code, stdout, stderr := h.uninstall(t, "--purge", "--dry-run", "-o", "json")
	var r purge.Report
	if err := json.Unmarshal([]byte(stdout), &r); err != nil || code != ExitOK {
		t.Fatalf("code %d: %v\n%s%s", code, err, stdout, stderr)
	}
	for _, want := range []string{"file " + filepath.Join(h.conf, "10-ocicat.conflist"), "file " + filepath.Join(h.bin, "ocicat-cni"), "file " + filepath.Join(h.run, "journal"), "file " + h.run} {
		if !slices.Contains(r.Removed, want) {
			t.Errorf("%q is not among %q", want, r.Removed)
		}
	}
	if got := h.files(t); !slices.Equal(got, before) || !r.DryRun {
		t.Errorf("a dry run left %q of %q", got, before)
	}
}

func TestUninstallPurgesFiles(t *testing.T) {
	h := newUninstallHost(t)
	for _, run := range []string{"first", "again"} {
		if code, stdout, stderr := h.uninstall(t, "--purge"); code != ExitOK || !strings.Contains(stdout, "notes: it is not the agent's") || !strings.HasSuffix(stdout, "purged: nothing of Ocicat is left on this node\n") {
			t.Errorf("%s: code %d, %s%s", run, code, stdout, stderr)
		}
	}
	if _, err := os.Stat(h.run); !os.IsNotExist(err) {
		t.Errorf("the run directory is still there: %v", err)
	}
	if notes, err := os.ReadFile(filepath.Join(h.state, "notes")); err != nil || string(notes) != "somebody's" {
		t.Errorf("another's file: %q %v", notes, err)
	}
}

// TestUninstallGoesOn takes a file's place by a directory, which no remove
// takes away: the rest goes, and the command fails.
func TestUninstallGoesOn(t *testing.T) {
	h := newUninstallHost(t)
	stuck := filepath.Join(h.bin, "ocicat-portmap")
	if err := os.Remove(stuck); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(stuck, "full"), 0o755); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := h.uninstall(t, "--purge")
	if code != fault.Unavailable.ExitCode() || !strings.Contains(stderr, "ocicat-portmap: directory not empty") || !strings.HasSuffix(stdout, "not finished: the command can be given again\n") {
		t.Errorf("code %d, %s%s", code, stdout, stderr)
	}
	if got, want := h.files(t), []string{"bridge", "loopback", "ocicat-portmap", "87-bridge.conflist"}; !slices.Equal(got, want) {
		t.Errorf("left %q, want %q", got, want)
	}
	if err := os.RemoveAll(stuck); err != nil {
		t.Fatal(err)
	}
	if code, stdout, stderr := h.uninstall(t, "--purge"); code != ExitOK {
		t.Errorf("again: code %d, %s%s", code, stdout, stderr)
	}
}

func TestUninstallRefusesElsewhere(t *testing.T) {
	h := newUninstallHost(t)
	if code, _, stderr := h.runAs(t, KubectlPlugin, []string{"uninstall"}); code != fault.Invalid.ExitCode() || !strings.Contains(stderr, "deploy/uninstall.yaml") {
		t.Errorf("as kubectl's plugin: code %d, %s", code, stderr)
	}
	for _, args := range [][]string{{"--node", "k8s-node-1"}, {"--force"}, {"--wait"}, {"--stay"}} {
		if code, _, stderr := h.uninstall(t, args...); code != ExitUsage {
			t.Errorf("%q: code %d, %s", args, code, stderr)
		}
	}
}

// reacting is an output that calls do when a line contains word.
type reacting struct {
	bytes.Buffer
	word string
	do   func()
}

func (r *reacting) Write(line []byte) (int, error) {
	if strings.Contains(string(line), r.word) {
		r.do()
	}
	return r.Buffer.Write(line)
}

// TestUninstallWaits begins beside an agent, which ends while it is waited for,
// and stays when all is done until it is told to end.
func TestUninstallWaits(t *testing.T) {
	h := newUninstallHost(t)
	agent, err := net.Listen("unix", filepath.Join(h.run, "cni.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithTimeout(t.Context(), 20*time.Second)
	defer end()
	ended := errors.New("told to end")
	ctx, tell := context.WithCancelCause(ctx)
	out := reacting{word: "purged: ", do: func() { tell(ended) }}
	errs := reacting{word: "waiting: uninstall: an agent serves pods", do: func() { _ = agent.Close() }}
	var code int
	h.ns.Do(func() {
		code = Run(ctx, Config{Stdin: &bytes.Buffer{}, Stdout: &out, Stderr: &errs, Getenv: func(string) string { return "" }, Program: Program, LabDir: h.run},
			[]string{"uninstall", "--purge", "--wait", "--stay", "--cni-bin-dir", h.bin, "--cni-net-dir", h.conf, "--cni-source", h.source, "--run-dir", h.run, "--state-dir", h.state})
	})
	if code != ExitOK || context.Cause(ctx) != ended || strings.Count(errs.String(), "waiting: ") != 1 {
		t.Errorf("code %d, ended by %v: %s%s", code, context.Cause(ctx), out.String(), errs.String())
	}
}
