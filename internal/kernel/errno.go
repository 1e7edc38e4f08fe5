// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/reconcile"
)

// kindOf says what sort of failure the kernel's error number is. What waits
// for another thing of the network (a device up, a next hop reachable) is
// Unavailable, since trying again can help.
func kindOf(errno syscall.Errno) fault.Kind {
	switch errno {
	case unix.ENOENT, unix.ENODEV, unix.ESRCH, unix.EADDRNOTAVAIL:
		return fault.NotFound
	case unix.EEXIST, unix.ENOTUNIQ:
		return fault.Conflict
	case unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.ENOSYS:
		return fault.Unsupported
	case unix.ENOMEM, unix.ENOBUFS, unix.EMFILE, unix.ENFILE, unix.ENOSPC:
		return fault.Exhausted
	case unix.EINTR, unix.EAGAIN, unix.EBUSY, unix.ENETDOWN, unix.ENETUNREACH, unix.EHOSTUNREACH:
		return fault.Unavailable
	}
	return fault.Internal
}

// refusal is the error for a message the kernel refused; note is the kernel's
// own explanation (extended acknowledgement) and may be empty.
func refusal(what string, errno syscall.Errno, note string) error {
	var err error
	if note == "" {
		err = fault.New(kindOf(errno), "%s: %w", what, errno)
	} else {
		err = fault.New(kindOf(errno), "%s: %w (%s)", what, errno, note)
	}
	if errno == unix.EPERM || errno == unix.EACCES {
		return fault.Hint(err, "The agent needs CAP_NET_ADMIN and CAP_SYS_ADMIN: run it as root.")
	}
	return err
}

// wrap classifies the error of a system call.
func wrap(what string, err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return fault.New(kindOf(errno), "%s: %w", what, err)
	}
	return fault.New(fault.Internal, "%s: %w", what, err)
}

// isErrno reports whether err stems from one of errnos.
func isErrno(err error, errnos ...syscall.Errno) bool {
	var got syscall.Errno
	if !errors.As(err, &got) {
		return false
	}
	for _, e := range errnos {
		if got == e {
			return true
		}
	}
	return false
}

// keyed gives err the key its status is kept under; nil stays nil.
func keyed(key string, err error) error {
	if err == nil {
		return nil
	}
	return &reconcile.KeyError{Key: key, Err: err}
}
