// SPDX-License-Identifier: Apache-2.0

package cniserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
)

// newSuffix marks a socket that is not at its place yet.
const newSuffix = ".new"

// door is a listening socket and the lock that says whose it is.
type door struct {
	path     string
	lock     *os.File
	listener *net.UnixListener
}

// open makes the socket. It appears at path in one step, mode 0600 and
// already listening, and replaces a dead one; a living agent's is Conflict.
func open(path string) (*door, error) {
	if len(path)+len(newSuffix) > cniwire.MaxSocketPath {
		return nil, fault.Hint(fault.New(fault.Invalid, "open CNI socket %s: path has %d bytes, at most %d are possible",
			path, len(path), cniwire.MaxSocketPath-len(newSuffix)), "Choose a shorter run directory.")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fault.New(fault.Internal, "open CNI socket: %w", err)
	}
	lock, err := takeLock(path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("open CNI socket %s: %w", path, err)
	}
	listener, err := listen(path)
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("open CNI socket: %w", err)
	}
	return &door{path, lock, listener}, nil
}

// close removes the socket while the lock still says that it is ours.
func (d *door) close() {
	d.listener.Close()
	// What remains is a dead socket, which the next agent replaces.
	_ = os.Remove(d.path)
	d.lock.Close()
}

func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fault.Hint(fault.New(fault.Conflict, "another ocicatd on this node holds %s", path),
				"Stop the other one first: lslocks shows its process id.")
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

func listen(path string) (*net.UnixListener, error) {
	fresh := path + newSuffix
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	config := net.ListenConfig{Control: private}
	l, err := config.Listen(context.Background(), "unix", fresh)
	if errors.Is(err, unix.ENOSPC) && os.Remove(path) == nil { // what the last agent left makes room
		l, err = config.Listen(context.Background(), "unix", fresh)
	}
	if err != nil {
		return nil, err
	}
	listener := l.(*net.UnixListener)
	listener.SetUnlinkOnClose(false)
	if err := os.Rename(fresh, path); err != nil {
		listener.Close()
		return nil, errors.Join(err, os.Remove(fresh))
	}
	return listener, nil
}

// private gives a socket mode 0600 before it is bound: bind takes the mode of
// the socket's inode, so that its file never has another one.
func private(_, _ string, raw syscall.RawConn) error {
	var err error
	ctlErr := raw.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) })
	return errors.Join(ctlErr, err)
}
