// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Where a node's container runtime looks for plugins.
const (
	// ConfDir is the directory of configurations.
	ConfDir = "/etc/cni/net.d"
	// BinDir is the directory of plugins.
	BinDir = "/opt/cni/bin"
)

// written are the events of a file that others can open while it is made.
const written = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_CLOSE_WRITE

// Watch sees what a container runtime could see of a node's CNI directories,
// at every change: files written in place, configurations that cannot be read
// and configurations before the plugins they name.
type Watch struct {
	root   string
	fd     int
	dirs   map[int32]string
	done   chan struct{}
	mu     sync.Mutex
	faults []string
	seen   []string
}

// WatchCNI begins to watch a node, until the end of the test.
func (c *Cluster) WatchCNI(node string) *Watch {
	c.t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		c.t.Fatal(err)
	}
	w := &Watch{root: c.Root(node, "/"), fd: fd, dirs: map[int32]string{}, done: make(chan struct{})}
	for _, dir := range []string{ConfDir, BinDir} {
		wd, err := unix.InotifyAddWatch(fd, filepath.Join(w.root, dir), written|unix.IN_MOVED_TO|unix.IN_DELETE)
		if err != nil {
			c.t.Fatalf("watch %s of %s: %v", dir, node, err)
		}
		w.dirs[int32(wd)] = dir
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.follow()
	}()
	c.t.Cleanup(func() { close(w.done); <-ended; _ = unix.Close(fd) })
	return w
}

// Seen are the events so far, "moved /opt/cni/bin/ocicat-cni".
func (w *Watch) Seen() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seen)
}

// Faults are what a runtime should not have seen.
func (w *Watch) Faults() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.faults)
}

func (w *Watch) follow() {
	buf := make([]byte, 64<<10)
	poll := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}
	for {
		select {
		case <-w.done:
			return
		default:
		}
		if n, _ := unix.Poll(poll, int((100 * time.Millisecond).Milliseconds())); n <= 0 {
			continue
		}
		n, err := unix.Read(w.fd, buf)
		if err != nil {
			continue
		}
		w.take(buf[:n])
	}
}

// take reads the events of one read of the kernel's queue.
func (w *Watch) take(buf []byte) {
	for len(buf) >= unix.SizeofInotifyEvent {
		wd, mask := int32(binary.NativeEndian.Uint32(buf)), binary.NativeEndian.Uint32(buf[4:])
		size := int(binary.NativeEndian.Uint32(buf[12:]))
		name := string(bytes.TrimRight(buf[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+size], "\x00"))
		w.event(filepath.Join(w.dirs[wd], name), mask)
		buf = buf[unix.SizeofInotifyEvent+size:]
	}
}

func (w *Watch) event(path string, mask uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if mask&unix.IN_Q_OVERFLOW != 0 {
		w.faults = append(w.faults, "events were lost")
	}
	if strings.HasPrefix(filepath.Base(path), ".") { // nothing a runtime looks at
		return
	}
	switch {
	case mask&unix.IN_MOVED_TO != 0:
		w.seen = append(w.seen, "moved "+path)
		if filepath.Dir(path) == ConfDir {
			w.check(path)
		}
	case mask&unix.IN_DELETE != 0:
		w.seen = append(w.seen, "removed "+path)
	case mask&written != 0:
		w.seen = append(w.seen, "written "+path)
		w.faults = append(w.faults, "written in place: "+path)
	}
}

// check reads a configuration as the runtime does.
func (w *Watch) check(path string) {
	text, err := os.ReadFile(filepath.Join(w.root, path))
	var list struct {
		Plugins []struct{ Type string }
	}
	if err == nil {
		err = json.Unmarshal(text, &list)
	}
	if err != nil || len(list.Plugins) == 0 {
		w.faults = append(w.faults, fmt.Sprintf("%s: %d plugins, %v", path, len(list.Plugins), err))
	}
	for _, p := range append(list.Plugins, struct{ Type string }{"loopback"}) {
		info, err := os.Stat(filepath.Join(w.root, BinDir, p.Type))
		if err != nil || info.Mode()&0o111 == 0 || info.Size() == 0 {
			w.faults = append(w.faults, fmt.Sprintf("%s names %s, which is not there: %v", path, p.Type, err))
		}
	}
}
