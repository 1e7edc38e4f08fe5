// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// netnsDir is where iproute2 keeps named network namespaces.
const netnsDir = "/run/netns"

// nsfsMagic is the type of the file system namespaces are files of.
const nsfsMagic = 0x6e736673

// netnsPath is the path of a named network namespace.
func netnsPath(name string) string { return filepath.Join(netnsDir, name) }

// space is a set of namespaces, each the path of its file; an empty path
// means the caller's own.
type space struct {
	net, mnt, uts string
}

// run calls f on a thread of its own inside s and waits for it. Processes
// that f starts are born in s; goroutines that f starts are not in it. The
// thread ends with f, because it cannot be trusted to come home.
func (s space) run(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		if err := s.enter(); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// enter moves the calling thread. The mount namespace comes last: the paths
// of the others are paths of the caller's.
func (s space) enter() error {
	files := make([]*os.File, 0, 3)
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	kinds := []int{unix.CLONE_NEWUTS, unix.CLONE_NEWNET, unix.CLONE_NEWNS}
	var flags []int
	for i, path := range []string{s.uts, s.net, s.mnt} {
		if path == "" {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("open namespace: %w", err)
		}
		files, flags = append(files, f), append(flags, kinds[i])
	}
	cwd, cwdErr := os.Getwd()
	if s.mnt != "" {
		if err := unix.Unshare(unix.CLONE_FS); err != nil { // setns(2): a thread that shares its root may not change mounts
			return fmt.Errorf("unshare file system attributes: %w", err)
		}
	}
	for i, f := range files {
		if err := unix.Setns(int(f.Fd()), flags[i]); err != nil {
			return fmt.Errorf("enter namespace %s: %w", f.Name(), err)
		}
	}
	if s.mnt != "" && cwdErr == nil {
		_ = unix.Chdir(cwd) // the directory may not exist inside: then it is the root
	}
	return nil
}

// isNamespace says whether a namespace is mounted at path.
func isNamespace(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == nsfsMagic
}

// makeNetns makes a named network namespace as "ip netns add" does, with lo
// up.
func makeNetns(name string) error {
	if err := shareNetnsDir(); err != nil {
		return err
	}
	path := netnsPath(name)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("make network namespace %s: %w", name, err)
	}
	_ = file.Close()
	err = space{}.run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		if err := loopbackUp(); err != nil {
			return fmt.Errorf("set lo up: %w", err)
		}
		return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
	})
	if err != nil {
		return errors.Join(fault.New(fault.Internal, "make network namespace %s: %w", name, err), os.Remove(path))
	}
	return nil
}

// shareNetnsDir makes /run/netns a shared mount, as iproute2 does: mounts
// made in it later appear in the nodes' mount namespaces, and vanish there.
func shareNetnsDir() error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return fault.New(fault.Internal, "make %s: %w", netnsDir, err)
	}
	err := unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // not a mount point yet
		err = unix.Mount(netnsDir, netnsDir, "none", unix.MS_BIND|unix.MS_REC, "")
		if err == nil {
			err = unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, "")
		}
	}
	if err != nil {
		return fault.New(fault.Internal, "share %s: %w", netnsDir, err)
	}
	return nil
}

// removeNetns removes a named network namespace; a missing one is no error.
// The namespace itself ends with its last process.
func removeNetns(name string) error { return removePin(netnsPath(name)) }

// removePin takes down whatever is mounted on a file and removes the file; a
// missing one is no error.
func removePin(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return fault.New(fault.Internal, "unmount %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fault.New(fault.Internal, "remove %s: %w", path, err)
	}
	return nil
}

// netnsNames are the named network namespaces that carry the lab's name.
func (l *Lab) netnsNames() ([]string, error) {
	entries, err := os.ReadDir(netnsDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fault.New(fault.Internal, "list network namespaces: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), l.name+".") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// setSysctl writes a setting, by its path below /proc/sys, of the namespaces
// of the calling thread.
func setSysctl(path, value string) error {
	if err := os.WriteFile("/proc/sys/"+path, []byte(value), 0o644); err != nil {
		return fault.New(fault.Internal, "set sysctl %s: %w", path, err)
	}
	return nil
}
