// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"
)

// watch calls hint when something in dir may have changed, until ctx ends. A
// directory that is taken away is looked for again; until then, and where the
// kernel reports nothing, the resync finds out.
func watch(ctx context.Context, dir string, log *slog.Logger, hint func()) {
	for warned := false; ctx.Err() == nil; sleep(ctx, retry) {
		err := watchOnce(ctx, dir, hint)
		if err != nil && ctx.Err() == nil && !warned {
			log.Warn("changes are seen once a minute only", "directory", dir, "error", err)
			warned = true
		}
		hint()
	}
}

// watchOnce watches until ctx ends or dir is another directory than it was.
func watchOnce(ctx context.Context, dir string, hint func()) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return err
	}
	events := os.NewFile(uintptr(fd), "inotify")
	stop := context.AfterFunc(ctx, func() { events.Close() })
	defer func() {
		if stop() {
			events.Close()
		}
	}()
	const interest = unix.IN_CLOSE_WRITE | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_ATTRIB |
		unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
	if _, err := unix.InotifyAddWatch(fd, dir, interest); err != nil {
		return err
	}
	before, err := os.Stat(dir)
	if err != nil {
		return err
	}
	hint() // what came before the watch stood makes no event
	buf := make([]byte, 16<<10)
	for {
		if _, err := events.Read(buf); err != nil {
			return err
		}
		now, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if !os.SameFile(before, now) {
			return nil
		}
		hint()
	}
}
