// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/ocicat-net/ocicat/internal/install"
	"github.com/ocicat-net/ocicat/internal/nstest"
)

// unpack writes this machine's image as a root file system.
func unpack(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "rootfs")
	img := read(t, runtime.GOARCH)
	for name, header := range img.files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if header.FileInfo().IsDir() {
			continue
		}
		if err := os.WriteFile(path, img.content[name], 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestRuns starts the image's programs in a container, with the settings of a
// DaemonSet: read-only root, no shell, nothing but what the image holds.
func TestRuns(t *testing.T) {
	nstest.RequireRoot(t)
	root := unpack(t)
	version := strings.TrimPrefix(strings.TrimSpace(contained(t, root, nil, "/ocicatd", "-version")), "ocicatd ")
	if version == "" || strings.ContainsAny(version, " \n") {
		t.Errorf("ocicatd -version prints %q", version)
	}
	if out := contained(t, root, nil, "/ocicat", "version"); !strings.Contains(out, version) {
		t.Errorf("ocicat version prints %q, ocicatd is %s", out, version)
	}
	// The chain as a runtime of CNI 1.1 asks for its status, but for ours,
	// which needs an agent.
	for _, plugin := range []string{"portmap", "bandwidth", "loopback"} {
		out := contained(t, root, []string{"CNI_COMMAND=STATUS", "CNI_PATH=/opt/ocicat/bin"}, "/opt/ocicat/bin/"+plugin)
		if out != "" {
			t.Errorf("STATUS of %s: %s", plugin, out)
		}
	}
}

// TestInstallsFromImage lets what the image holds install itself and asks
// each plugin under the name and with the configuration it then has.
func TestInstallsFromImage(t *testing.T) {
	nstest.RequireRoot(t)
	root := unpack(t)
	bin, conf := t.TempDir(), t.TempDir()
	installer, err := install.New(install.Options{
		Config: install.Config{Source: filepath.Join(root, "opt/ocicat/bin"), BinDir: bin, NetDir: conf, Conflist: install.Conflist{File: install.DefaultFile, Network: install.DefaultNetwork}},
		Ready:  ready, Changed: func() {}, Log: quiet(),
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = installer.Run(t.Context()) }() // it ends with the test
	<-installer.Installed()
	raw, err := os.ReadFile(filepath.Join(conf, install.DefaultFile))
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Name    string
		Plugins []map[string]any
	}
	decode(t, raw, &list)
	for _, plugin := range list.Plugins[1:] {
		plugin["name"], plugin["cniVersion"] = list.Name, "1.1.0"
		text, err := json.Marshal(plugin)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(filepath.Join(bin, plugin["type"].(string)))
		cmd.Env = []string{"CNI_COMMAND=STATUS", "CNI_PATH=" + bin}
		cmd.Stdin = strings.NewReader(string(text))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("STATUS of %s: %v: %s", plugin["type"], err, out)
		}
	}
}

// contained runs a program of the image by runc and returns what it prints.
func contained(t *testing.T, root string, env []string, args ...string) string {
	t.Helper()
	bundle := filepath.Dir(root)
	spec := map[string]any{
		"ociVersion": "1.0.2",
		"process": map[string]any{
			"args": args, "cwd": "/", "env": append([]string{"PATH=/"}, env...), "noNewPrivileges": true,
			"user": map[string]int{"uid": 0, "gid": 0},
		},
		"root":   map[string]any{"path": "rootfs", "readonly": true},
		"mounts": []map[string]any{{"destination": "/proc", "type": "proc", "source": "proc"}},
		"linux":  map[string]any{"namespaces": []map[string]string{{"type": "mount"}, {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}}},
	}
	if err := os.MkdirAll(filepath.Join(root, "proc"), 0o755); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("runc", "--root", filepath.Join(bundle, "state"), "run", "--bundle", bundle, fmt.Sprintf("ocicat-image-test-%d", os.Getpid()))
	stdin, stdout, stderr := strings.NewReader(`{"cniVersion":"1.1.0","name":"k8s-pod-network","type":"x"}`), &strings.Builder{}, &strings.Builder{}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = io.Reader(stdin), stdout, stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v: %s%s", args, err, stdout, stderr)
	}
	return stdout.String()
}
