// SPDX-License-Identifier: Apache-2.0

package tombstone

import (
	"context"
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// Watch calls changed once at once and then whenever tombstones came to dir,
// several that come together perhaps once, until ctx ends; then it returns
// nil. It makes dir if need be, also when somebody removes it.
func Watch(ctx context.Context, dir string, changed func()) error {
	for ctx.Err() == nil {
		if err := watchOnce(ctx, dir, changed); err != nil {
			return fault.New(fault.Internal, "watch tombstones in %s: %w", dir, err)
		}
	}
	return nil
}

// watchOnce watches until ctx ends or dir is removed.
func watchOnce(ctx context.Context, dir string, changed func()) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
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
	// IN_ATTRIB is a repeated DEL renewing its tombstone's time.
	const interest = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_ATTRIB | unix.IN_ONLYDIR
	if _, err := unix.InotifyAddWatch(fd, dir, interest); err != nil {
		return err
	}
	// What came before the watch stood makes no event.
	changed()
	buf := make([]byte, 64<<10)
	for {
		n, err := events.Read(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if ignored(buf[:n]) {
			return nil
		}
		changed()
	}
}

// ignored reports that the watch is over: its directory was removed. An event
// is 16 bytes, mask at 4 and length of the name at 12, and the name
// (inotify(7)).
func ignored(events []byte) bool {
	const header = unix.SizeofInotifyEvent
	for len(events) >= header {
		if binary.NativeEndian.Uint32(events[4:])&unix.IN_IGNORED != 0 {
			return true
		}
		name := int(binary.NativeEndian.Uint32(events[12:]))
		events = events[min(header+name, len(events)):]
	}
	return false
}
