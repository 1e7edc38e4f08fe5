// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/problem"
)

// host is a machine's directories and the image's.
func host(t testing.TB) Config {
	t.Helper()
	c := Config{Source: t.TempDir(), BinDir: t.TempDir(), NetDir: t.TempDir(), Conflist: Conflist{File: DefaultFile, Network: DefaultNetwork}}
	for _, name := range []string{"ocicat-cni", "portmap", "bandwidth", "loopback"} {
		write(t, filepath.Join(c.Source, name), "the program "+name+strings.Repeat("\n"+name, 40_000))
	}
	return c
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
}

func content(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func serves(context.Context) error { return nil }

func installer(t testing.TB, c Config) *Installer {
	t.Helper()
	i, err := New(Options{Config: c, Ready: serves, Changed: func() {}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// run runs an installer until the test ends and returns once all is in place.
func run(t testing.TB, i *Installer) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- i.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	eventually(t, "installation", func() bool { return i.whole() })
}

func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not in 20 s", what)
		}
	}
}

func TestInstalls(t *testing.T) {
	c := host(t)
	i := installer(t, c)
	run(t, i)
	if diff := cmp.Diff([]string{"loopback", "ocicat-bandwidth", "ocicat-cni", "ocicat-portmap"}, names(t, c.BinDir)); diff != "" {
		t.Errorf("binaries (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"10-ocicat.conflist"}, names(t, c.NetDir)); diff != "" {
		t.Errorf("configurations (-want +got):\n%s", diff)
	}
	for name, source := range map[string]string{"loopback": "loopback", "ocicat-portmap": "portmap", "ocicat-bandwidth": "bandwidth", "ocicat-cni": "ocicat-cni"} {
		path := filepath.Join(c.BinDir, name)
		if content(t, path) != content(t, filepath.Join(c.Source, source)) {
			t.Errorf("%s is not what the image holds", name)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o755 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
	if info, err := os.Stat(filepath.Join(c.NetDir, DefaultFile)); err != nil || info.Mode() != 0o600 {
		t.Errorf("configuration: mode %v, %v", info.Mode(), err)
	}
	if found := i.Problems(); len(found) > 0 {
		t.Errorf("problems %v", found)
	}
}

// TestConflist reads the configuration as a runtime does that knows no more
// than the specification.
func TestConflist(t *testing.T) {
	c := Conflist{File: "05-mine.conflist", Network: "pods", MTU: 1400, Socket: "/run/other/cni.sock"}
	var got any
	if err := json.Unmarshal([]byte(c.render()), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"cniVersion": "1.0.0", "cniVersions": []any{"1.0.0", "1.1.0"}, "name": "pods", "ocicat.net/installed-by": "ocicatd",
		"plugins": []any{
			map[string]any{"type": "ocicat-cni", "mtu": 1400.0, "socket": "/run/other/cni.sock", "capabilities": map[string]any{"mac": true, "ips": true, "io.kubernetes.cri.pod-annotations": true}},
			map[string]any{"type": "ocicat-portmap", "snat": true, "capabilities": map[string]any{"portMappings": true}},
			map[string]any{"type": "ocicat-bandwidth", "capabilities": map[string]any{"bandwidth": true}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRefused(t *testing.T) {
	for what, change := range map[string]func(*Config){
		"no directory of binaries":       func(c *Config) { c.BinDir = "" },
		"no directory of configurations": func(c *Config) { c.NetDir = "" },
		"a path as name":                 func(c *Config) { c.Conflist.File = "../x.conflist" },
		"a name no runtime reads":        func(c *Config) { c.Conflist.File = "10-ocicat.conf" },
		"a hidden name":                  func(c *Config) { c.Conflist.File = ".conflist" },
		"no network":                     func(c *Config) { c.Conflist.Network = "" },
		"a small MTU":                    func(c *Config) { c.Conflist.MTU = 12 },
		"a relative socket":              func(c *Config) { c.Conflist.Socket = "cni.sock" },
	} {
		c := host(t)
		change(&c)
		if _, err := New(Options{Config: c}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want Invalid", what, err)
		}
	}
}

// TestConfigurationWaits: a node without it is not Ready, so it comes when
// pods can be served, and the binaries before.
func TestConfigurationWaits(t *testing.T) {
	c := host(t)
	ready := make(chan struct{})
	i := installer(t, c)
	i.Ready = func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ready:
			return nil
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- i.Run(ctx) }()
	eventually(t, "binaries", func() bool { return len(names(t, c.BinDir)) == 4 })
	// Another's change makes a pass, which must not bring the configuration.
	write(t, filepath.Join(c.BinDir, "ocicat-cni"), "other")
	eventually(t, "repair", func() bool { return content(t, filepath.Join(c.BinDir, "ocicat-cni")) != "other" })
	if found := names(t, c.NetDir); len(found) > 0 {
		t.Errorf("before pods can be served: %v", found)
	}
	close(ready)
	eventually(t, "configuration", func() bool { return slices.Equal(names(t, c.NetDir), []string{DefaultFile}) })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(names(t, c.NetDir)) != 1 || len(names(t, c.BinDir)) != 4 {
		t.Error("the end of the agent took away what was installed")
	}
}

// TestRightIsNotWritten: a second installer of the same files writes none,
// whatever their times; one of another content writes that alone.
func TestRightIsNotWritten(t *testing.T) {
	c := host(t)
	if _, err := installer(t, c).pass(true); err != nil {
		t.Fatal(err)
	}
	old := time.Unix(1_000_000_000, 0)
	path := filepath.Join(c.BinDir, "ocicat-portmap")
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	inodes := func() map[string]uint64 {
		found := map[string]uint64{}
		for _, dir := range []string{c.BinDir, c.NetDir} {
			for _, name := range names(t, dir) {
				s, _ := stampOf(filepath.Join(dir, name))
				found[name] = s.ino
			}
		}
		return found
	}
	before := inodes()
	again := installer(t, c)
	for range 3 {
		if _, err := again.pass(true); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(before, inodes()); diff != "" {
		t.Errorf("files were written again:\n%s", diff)
	}
	write(t, filepath.Join(c.Source, "portmap"), "a new version")
	if _, err := installer(t, c).pass(true); err != nil {
		t.Fatal(err)
	}
	after := inodes()
	if after["ocicat-portmap"] == before["ocicat-portmap"] || content(t, path) != "a new version" {
		t.Error("the new version was not installed")
	}
	delete(before, "ocicat-portmap")
	delete(after, "ocicat-portmap")
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("more than the new version was written:\n%s", diff)
	}
}

// TestBusyPlugin replaces a program while it runs.
func TestBusyPlugin(t *testing.T) {
	c := host(t)
	sleep, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(c.BinDir, pluginName)
	write(t, path, string(sleep))
	running, err := os.StartProcess(path, []string{"sleep", "60"}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = running.Kill(), running.Release() }()
	if _, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
		t.Error("the kernel lets write to a program that runs: the test proves nothing")
	}
	run(t, installer(t, c))
	if content(t, path) != content(t, filepath.Join(c.Source, pluginName)) {
		t.Error("the plugin was not replaced")
	}
	if err := running.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the program that ran: %v", err)
	}
}

// TestPutBack lets others do what they do to files of ours.
func TestPutBack(t *testing.T) {
	type files struct{ conf, bin, loopback string }
	for what, change := range map[string]func(*testing.T, files){
		"configuration deleted":     func(t *testing.T, f files) { must(t, os.Remove(f.conf)) },
		"configuration overwritten": func(t *testing.T, f files) { write(t, f.conf, `{"name":"other"}`) },
		"configuration renamed":     func(t *testing.T, f files) { must(t, os.Rename(f.conf, f.conf+".bak")) },
		"another moved over it": func(t *testing.T, f files) {
			write(t, f.conf+".x", "{}")
			must(t, os.Rename(f.conf+".x", f.conf))
		},
		"plugin deleted":        func(t *testing.T, f files) { must(t, os.Remove(f.bin)) },
		"plugin overwritten":    func(t *testing.T, f files) { write(t, f.bin, "other") },
		"plugin not executable": func(t *testing.T, f files) { must(t, os.Chmod(f.bin, 0o600)) },
		"plugin a link to something else": func(t *testing.T, f files) {
			must(t, os.Remove(f.bin))
			must(t, os.Symlink("/bin/true", f.bin))
		},
		"directory of configurations deleted": func(t *testing.T, f files) { must(t, os.RemoveAll(filepath.Dir(f.conf))) },
		"directory of plugins replaced": func(t *testing.T, f files) {
			must(t, os.Rename(filepath.Dir(f.bin), filepath.Dir(f.bin)+".old"))
			must(t, os.Mkdir(filepath.Dir(f.bin), 0o755))
		},
		"loopback deleted": func(t *testing.T, f files) { must(t, os.Remove(f.loopback)) },
	} {
		t.Run(what, func(t *testing.T) {
			c := host(t)
			run(t, installer(t, c))
			f := files{filepath.Join(c.NetDir, DefaultFile), filepath.Join(c.BinDir, pluginName), filepath.Join(c.BinDir, "loopback")}
			plugin := content(t, f.bin)
			change(t, f)
			eventually(t, what, func() bool {
				conf, err := os.ReadFile(f.conf)
				info, err2 := os.Lstat(f.bin)
				now, err3 := os.ReadFile(f.bin)
				_, err4 := os.Stat(f.loopback)
				return errors.Join(err, err2, err3, err4) == nil && string(conf) == c.Conflist.render() && info.Mode() == 0o755 && string(now) == plugin
			})
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestOthersStay: what others installed under names that are not ours alone.
func TestOthersStay(t *testing.T) {
	c := host(t)
	others := map[string]string{"loopback": "distribution's", "portmap": "distribution's", "bandwidth": "distribution's", "bridge": "distribution's"}
	for name, text := range others {
		write(t, filepath.Join(c.BinDir, name), text)
	}
	write(t, filepath.Join(c.NetDir, "20-other.conflist"), `{"name":"other","plugins":[{"type":"bridge"}]}`)
	run(t, installer(t, c))
	must(t, Uninstall(c, slog.New(slog.DiscardHandler)))
	for name, text := range others {
		if content(t, filepath.Join(c.BinDir, name)) != text {
			t.Errorf("%s was changed", name)
		}
	}
	if diff := cmp.Diff([]string{"20-other.conflist"}, names(t, c.NetDir)); diff != "" {
		t.Errorf("configurations (-want +got):\n%s", diff)
	}
}

// TestShadow: a runtime takes the first configuration by name.
func TestShadow(t *testing.T) {
	c := host(t)
	write(t, filepath.Join(c.NetDir, "05-other.conflist"), `{"name":"other","plugins":[{"type":"bridge"}]}`)
	write(t, filepath.Join(c.NetDir, "07-broken.conf"), `{`)
	write(t, filepath.Join(c.NetDir, "08-mine.conflist"), `{"name":"mine","plugins":[{"type":"ocicat-cni"}]}`)
	write(t, filepath.Join(c.NetDir, "20-other.conflist"), `{"name":"other","plugins":[{"type":"bridge"}]}`)
	write(t, filepath.Join(c.NetDir, "00-readme.txt"), `not read`)
	i := installer(t, c)
	run(t, i)
	shadows := func() []string {
		var found []string
		for _, p := range i.Problems() {
			if p.Code == problem.ConflistShadowed {
				found = append(found, p.Object)
			}
		}
		return found
	}
	eventually(t, "OC3002", func() bool { return slices.Equal(shadows(), []string{"05-other.conflist", "07-broken.conf"}) })
	must(t, os.Remove(filepath.Join(c.NetDir, "05-other.conflist")))
	must(t, os.Remove(filepath.Join(c.NetDir, "07-broken.conf")))
	eventually(t, "no OC3002", func() bool { return len(shadows()) == 0 })
}

// TestRenamed: under a new name, the configuration of the old one goes, but
// not one a person wrote.
func TestRenamed(t *testing.T) {
	c := host(t)
	if _, err := installer(t, c).pass(true); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(c.NetDir, "07-mine.conflist"), `{"name":"mine","plugins":[{"type":"ocicat-cni"}]}`)
	c.Conflist.File = "05-ocicat.conflist"
	if _, err := installer(t, c).pass(true); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"05-ocicat.conflist", "07-mine.conflist"}, names(t, c.NetDir)); diff != "" {
		t.Errorf("configurations (-want +got):\n%s", diff)
	}
}

// TestNotWritable: what cannot be written is OC3004 until it can be.
func TestNotWritable(t *testing.T) {
	c := host(t)
	i := installer(t, c)
	blocked := filepath.Join(c.NetDir, DefaultFile)
	must(t, os.MkdirAll(filepath.Join(blocked, "in the way"), 0o700))
	if _, err := i.pass(true); err == nil || i.whole() {
		t.Fatalf("a directory in the place of the configuration: %v", err)
	}
	if found := i.Problems(); len(found) != 1 || found[0].Code != problem.NotInstalled || !strings.Contains(found[0].Text, blocked) {
		t.Errorf("problems %v", found)
	}
	must(t, os.RemoveAll(blocked))
	if _, err := i.pass(true); err != nil || !i.whole() || len(i.Problems()) != 0 {
		t.Errorf("after it went: %v, %v", err, i.Problems())
	}
}

// TestDeletedUnderMount: a container keeps a directory that the host no longer
// has, and what is written there nobody finds.
func TestDeletedUnderMount(t *testing.T) {
	c := host(t)
	source := filepath.Join(t.TempDir(), "net.d")
	must(t, os.Mkdir(source, 0o755))
	if err := unix.Mount(source, c.NetDir, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("bind mount, which needs root: %v", err)
	}
	defer func() { must(t, unix.Unmount(c.NetDir, unix.MNT_DETACH)) }()
	i := installer(t, c)
	done := make(chan error, 1)
	go func() { done <- i.Run(t.Context()) }()
	eventually(t, "installation", i.whole)
	must(t, os.RemoveAll(source))
	select {
	case err := <-done:
		if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), c.NetDir) {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("goes on with a directory nobody sees")
	}
}

func TestUninstall(t *testing.T) {
	c := host(t)
	log := slog.New(slog.DiscardHandler)
	if _, err := installer(t, c).pass(true); err != nil {
		t.Fatal(err)
	}
	write(t, fresh(filepath.Join(c.BinDir, pluginName)), "left by a crash")
	write(t, fresh(filepath.Join(c.NetDir, DefaultFile)), "left by a crash")
	for range 2 {
		must(t, Uninstall(c, log))
		if left := append(names(t, c.BinDir), names(t, c.NetDir)...); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
}

// TestSkip leaves binaries to others under either of their names.
func TestSkip(t *testing.T) {
	c := host(t)
	c.Skip = []string{"portmap", "ocicat-bandwidth", "loopback"}
	if _, err := installer(t, c).pass(true); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"ocicat-cni"}, names(t, c.BinDir)); diff != "" {
		t.Errorf("binaries (-want +got):\n%s", diff)
	}
}

// TestPace: repairs that follow one another come ever later.
func TestPace(t *testing.T) {
	var p pace
	at := time.Unix(0, 0)
	var gaps []time.Duration
	for range 12 {
		gaps = append(gaps, p.after(true, at))
		at = at.Add(gaps[len(gaps)-1])
	}
	if gaps[0] != firstGap || gaps[1] != 2*firstGap || gaps[11] != lastGap || !slices.IsSorted(gaps) {
		t.Errorf("gaps %v", gaps)
	}
	if gap := p.after(false, at); gap != firstGap {
		t.Errorf("a pass without repair waits %s", gap)
	}
	if gap := p.after(true, at.Add(peace+time.Second)); gap != firstGap {
		t.Errorf("after peace %s", gap)
	}
}
