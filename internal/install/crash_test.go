// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// crashAt tells a child process of a test to install and to die before the
// given step; its Config comes as JSON.
const (
	crashAt   = "OCICAT_TEST_CRASH_AT"
	crashConf = "OCICAT_TEST_CRASH_CONFIG"
)

func TestMain(m *testing.M) {
	if text := os.Getenv(crashAt); text != "" {
		os.Exit(crash(text))
	}
	os.Exit(m.Run())
}

// crash installs and dies as by SIGKILL before a step: nothing of ours runs
// any more. It returns 0 when there are fewer steps.
func crash(text string) int {
	at, err := strconv.Atoi(text)
	var c Config
	if err != nil || json.Unmarshal([]byte(os.Getenv(crashConf)), &c) != nil {
		return 2
	}
	i, err := New(Options{Config: c, Ready: serves, Changed: func() {}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return 2
	}
	step := 0
	i.steps = func(string) {
		if step == at {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {} // until it arrives
		}
		step++
	}
	if _, err := i.pass(true); err != nil {
		return 2
	}
	return 0
}

// TestCrashAtEachStep kills an installer before each of its steps, with and
// without an older installation in place. Whoever looks then finds each file
// old or new and whole, a configuration only beside all of its plugins, and
// the next installer finishes and leaves nothing of the crash.
func TestCrashAtEachStep(t *testing.T) {
	for _, before := range []string{"nothing", "an older version"} {
		crashes := 0
		for step := 0; ; step++ {
			c := host(t)
			older := installed(t, c, before)
			conf, err := json.Marshal(c)
			must(t, err)
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), crashAt+"="+strconv.Itoa(step), crashConf+"="+string(conf))
			died := cmd.Run() != nil
			if code := cmd.ProcessState.ExitCode(); code > 0 {
				t.Fatalf("step %d: exit code %d", step, code)
			}
			whole(t, c, older)
			if !died {
				break
			}
			crashes++
			if _, err := installer(t, c).pass(true); err != nil {
				t.Fatal(err)
			}
			whole(t, c, shared(c, older))
			if len(names(t, c.BinDir)) != 4 || len(names(t, c.NetDir)) != 1 {
				t.Errorf("step %d: left behind: %v %v", step, names(t, c.BinDir), names(t, c.NetDir))
			}
		}
		if crashes < 5*8 { // five files, eight steps at least
			t.Errorf("%s: %d crashes: the steps are not all seen", before, crashes)
		}
		t.Logf("%s: %d crashes", before, crashes)
	}
}

// installed puts an older version in place and returns its contents by path.
func installed(t *testing.T, c Config, before string) map[string]string {
	t.Helper()
	old := map[string]string{}
	if before == "nothing" {
		return old
	}
	older := host(t)
	for _, name := range names(t, older.Source) {
		write(t, filepath.Join(older.Source, name), "older "+name)
	}
	older.BinDir, older.NetDir, older.Conflist.MTU = c.BinDir, c.NetDir, 1400
	if _, err := installer(t, older).pass(true); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{c.BinDir, c.NetDir} {
		for _, name := range names(t, dir) {
			old[filepath.Join(dir, name)] = content(t, filepath.Join(dir, name))
		}
	}
	return old
}

// shared are the older files that stay: those that may be others'.
func shared(c Config, old map[string]string) map[string]string {
	path := filepath.Join(c.BinDir, "loopback")
	return map[string]string{path: old[path]}
}

// whole checks what a runtime finds: files that are old or new.
func whole(t *testing.T, c Config, old map[string]string) {
	t.Helper()
	want := map[string]string{filepath.Join(c.NetDir, DefaultFile): c.Conflist.render()}
	for _, b := range c.binaries() {
		want[filepath.Join(c.BinDir, b.name)] = content(t, filepath.Join(c.Source, b.source))
	}
	found := 0
	for path, text := range want {
		raw, err := os.ReadFile(path)
		if os.IsNotExist(err) && old[path] == "" {
			continue
		}
		must(t, err)
		found++
		if string(raw) != text && string(raw) != old[path] {
			t.Errorf("%s is neither old nor new: %d bytes", path, len(raw))
		}
	}
	if len(configurations(c.NetDir)) > 0 && found != len(want) {
		t.Errorf("a configuration with %d of %d files", found, len(want))
	}
}

// TestNoHalfFile watches the directories as runtimes do, by the kernel's
// notifications and by reading in a loop, while two installers take turns at
// putting in their versions. The twin writes files in place: the watcher must
// see halves of those.
func TestNoHalfFile(t *testing.T) {
	c := host(t)
	other := host(t)
	for _, name := range names(t, other.Source) {
		write(t, filepath.Join(other.Source, name), strings.Repeat("other "+name+"\n", 60_000))
	}
	other.BinDir, other.NetDir, other.Conflist.MTU = c.BinDir, c.NetDir, 1400
	good := map[string]bool{c.Conflist.render(): true, other.Conflist.render(): true}
	for _, one := range []Config{c, other} {
		for _, name := range names(t, one.Source) {
			good[content(t, filepath.Join(one.Source, name))] = true
		}
	}
	install := func(one Config) {
		if _, err := installer(t, one).pass(true); err != nil {
			t.Error(err)
		}
	}
	install(c)
	const rounds = 40
	halves, reads := watching(t, c, good, func() {
		for range rounds {
			install(other)
			install(c)
		}
	})
	t.Logf("%d files read in %d installations, %d halves", reads, 2*rounds, halves)
	if halves > 0 || reads < rounds {
		t.Errorf("%d halves in %d reads", halves, reads)
	}
	halves, reads = watching(t, c, good, func() {
		for range rounds {
			for name, text := range map[string]string{pluginName: "ocicat-cni", portmapName: "portmap"} {
				write(t, filepath.Join(c.BinDir, name), content(t, filepath.Join(other.Source, text)))
				write(t, filepath.Join(c.BinDir, name), content(t, filepath.Join(c.Source, text)))
			}
		}
	})
	if halves == 0 {
		t.Errorf("twin: files written in place, and no half in %d reads: the watcher sees nothing", reads)
	}
	t.Logf("twin: %d halves in %d reads", halves, reads)
}

// watching counts, while work runs, how many of the files that runtimes would
// read at some moment were read, and how many of them were none of the good
// ones.
func watching(t *testing.T, c Config, good map[string]bool, work func()) (halves, reads int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var bad, all atomic.Int64
	look := func(path string) {
		raw, err := os.ReadFile(path)
		if err != nil {
			return // it goes and comes while it is replaced by others
		}
		all.Add(1)
		if !good[string(raw)] {
			bad.Add(1)
		}
	}
	var watchers sync.WaitGroup
	for _, dir := range []string{c.BinDir, c.NetDir} {
		events := notifications(t, dir)
		context.AfterFunc(ctx, func() { events.Close() })
		watchers.Go(func() {
			buf := make([]byte, 64<<10)
			for {
				n, err := events.Read(buf)
				if err != nil {
					return
				}
				for _, name := range eventNames(buf[:n]) {
					if !strings.HasPrefix(name, ".") {
						look(filepath.Join(dir, name))
					}
				}
			}
		})
	}
	watchers.Go(func() {
		for ctx.Err() == nil {
			for _, name := range configurations(c.NetDir) {
				look(filepath.Join(c.NetDir, name))
			}
			for _, b := range c.binaries() {
				look(filepath.Join(c.BinDir, b.name))
			}
		}
	})
	work()
	cancel()
	watchers.Wait()
	return bad.Load(), all.Load()
}

func notifications(t *testing.T, dir string) *os.File {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	must(t, err)
	_, err = unix.InotifyAddWatch(fd, dir, unix.IN_ALL_EVENTS&^(unix.IN_ACCESS|unix.IN_OPEN|unix.IN_CLOSE_NOWRITE))
	must(t, err)
	return os.NewFile(uintptr(fd), "inotify")
}

// eventNames are the names in a buffer of events (inotify(7)).
func eventNames(events []byte) []string {
	var found []string
	for len(events) >= unix.SizeofInotifyEvent {
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
		if name := strings.TrimRight(string(events[unix.SizeofInotifyEvent:end]), "\x00"); name != "" {
			found = append(found, name)
		}
		events = events[end:]
	}
	return found
}
