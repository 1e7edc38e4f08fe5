// SPDX-License-Identifier: Apache-2.0

package cniwire

import (
	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// CheckNetNS says why the open file fd is not a pod's network namespace: it
// is none, or it is the calling thread's own. Both are Invalid; being unable to tell
// is Internal. The text continues a sentence that starts with the file's name.
func CheckNetNS(fd int) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return fault.New(fault.Internal, "cannot be looked at: %w", err)
	}
	if fs.Type != unix.NSFS_MAGIC {
		return fault.New(fault.Invalid, "is not a namespace")
	}
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil {
		return fault.New(fault.Invalid, "is not a namespace: %w", err)
	}
	if kind != unix.CLONE_NEWNET {
		return fault.New(fault.Invalid, "is a namespace, but not one of networks")
	}
	return checkForeign(fd)
}

func checkForeign(fd int) error {
	// Not /proc/self: that is the first thread, which may be parked in some
	// pod's namespace.
	const self = "/proc/thread-self/ns/net"
	var theirs, own unix.Stat_t
	if err := unix.Fstat(fd, &theirs); err != nil {
		return fault.New(fault.Internal, "cannot be looked at: %w", err)
	}
	if err := unix.Stat(self, &own); err != nil {
		return fault.New(fault.Internal, "cannot be compared with %s: %w", self, err)
	}
	if theirs.Dev == own.Dev && theirs.Ino == own.Ino {
		return fault.New(fault.Invalid, "is the host's own network namespace")
	}
	return nil
}

// Now is the clock of Request.Deadline: CLOCK_MONOTONIC in nanoseconds, the
// same for every process outside time namespaces.
func Now() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0 // not possible for this clock; 0 makes a deadline pass at once
	}
	return ts.Nano()
}
