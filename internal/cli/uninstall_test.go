// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// uninstallHost is a node's directories below a directory of the test.
type uninstallHost struct{ bin, conf, source, run string }

func newUninstallHost(t *testing.T) uninstallHost {
	t.Helper()
	dir := t.TempDir()
	h := uninstallHost{filepath.Join(dir, "bin"), filepath.Join(dir, "net.d"), filepath.Join(dir, "source"), filepath.Join(dir, "run")}
	for file, text := range map[string]string{
		filepath.Join(h.bin, "ocicat-cni"):          "ours",
		filepath.Join(h.bin, "ocicat-portmap"):      "ours",
		filepath.Join(h.bin, "ocicat-bandwidth"):    "ours",
		filepath.Join(h.bin, "loopback"):            "the distribution's",
		filepath.Join(h.bin, "bridge"):              "the distribution's",
		filepath.Join(h.source, "loopback"):         "ours",
		filepath.Join(h.conf, "10-ocicat.conflist"): `{"name": "k8s-pod-network", "plugins": [{"type": "ocicat-cni"}]}`,
		filepath.Join(h.conf, "87-bridge.conflist"): `{"name": "other", "plugins": [{"type": "bridge"}]}`,
		filepath.Join(h.run, "kept"):                "",
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
func (h uninstallHost) uninstall(t *testing.T) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Run(t.Context(), Config{Stdin: &bytes.Buffer{}, Stdout: &out, Stderr: &errs, Getenv: func(string) string { return "" }, Program: Program, LabDir: h.run},
		[]string{"uninstall", "--cni-bin-dir", h.bin, "--cni-net-dir", h.conf, "--cni-source", h.source, "--run-dir", h.run})
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
		if got := h.files(t); code != ExitOK || !slices.Equal(got, want) || !strings.HasPrefix(stdout, "uninstalled: ") {
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
