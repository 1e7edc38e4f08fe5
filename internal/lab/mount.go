// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// bootID is the file a kernel tells its boot by.
const bootID = "/proc/sys/kernel/random/boot_id"

// private are the directories every node has to itself: where they appear in
// the node, and what they are called in the node's directory.
var private = []struct{ inside, outside string }{
	{"/run/ocicat", "run"},
	{"/var/lib/ocicat", "var"},
	{"/var/lib/cni", "cni"},
	{"/etc/cni/net.d", "net.d"},
}

// pins is the directory that keeps the nodes' mount and UTS namespaces alive:
// one file each, with the namespace mounted on it.
func (l *Lab) pins() string { return l.dir("ns") }

// space is the whole of a node: all its namespaces.
func (l *Lab) space(node string) space {
	return space{
		net: netnsPath(l.nodeNetns(node)),
		mnt: filepath.Join(l.pins(), node+".mnt"),
		uts: filepath.Join(l.pins(), node+".uts"),
	}
}

// preparePins makes the pins' directory a private mount: the kernel mounts a
// mount namespace on nothing that could propagate into it.
func (l *Lab) preparePins() error {
	if err := os.MkdirAll(l.pins(), 0o700); err != nil {
		return fault.New(fault.Internal, "make %s: %w", l.pins(), err)
	}
	err := unix.Mount("", l.pins(), "none", unix.MS_PRIVATE, "")
	if errors.Is(err, unix.EINVAL) { // not a mount point yet
		if err = unix.Mount(l.pins(), l.pins(), "none", unix.MS_BIND, ""); err == nil {
			err = unix.Mount("", l.pins(), "none", unix.MS_PRIVATE, "")
		}
	}
	if err != nil {
		return fault.New(fault.Internal, "make %s a private mount: %w", l.pins(), err)
	}
	return nil
}

// makeMounts gives a node its mount and UTS namespaces, with its own
// directories and boot id in place, and pins both.
func (l *Lab) makeMounts(node string) error {
	if err := l.makeNodeFiles(node); err != nil {
		return err
	}
	inside := func(tid string) error {
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWUTS); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		// What the machine mounts or unmounts later shall be seen in the
		// node, as a container sees it; never the other way round.
		if err := unix.Mount("", "/", "none", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("stop propagation: %w", err)
		}
		if err := l.furnish(node); err != nil {
			return err
		}
		s := l.space(node)
		// From the machine's mount namespace: a namespace cannot hold itself.
		return space{}.run(func() error {
			return errors.Join(pin(tid+"/ns/mnt", s.mnt), pin(tid+"/ns/uts", s.uts))
		})
	}
	err := space{net: netnsPath(l.nodeNetns(node))}.run(func() error {
		return inside(fmt.Sprintf("/proc/%d/task/%d", os.Getpid(), unix.Gettid()))
	})
	if err != nil {
		return fault.New(fault.Internal, "make mount namespace of %s: %w", node, err)
	}
	return nil
}

// makeNodeFiles makes a node's directories and a boot id for this boot of it.
// What a reboot clears is cleared.
func (l *Lab) makeNodeFiles(node string) error {
	if err := os.RemoveAll(l.dir("nodes", node, "run")); err != nil {
		return fault.New(fault.Internal, "clear run directory of %s: %w", node, err)
	}
	for _, p := range private {
		if err := os.MkdirAll(l.dir("nodes", node, p.outside), 0o700); err != nil {
			return fault.New(fault.Internal, "make directory of %s: %w", node, err)
		}
	}
	if err := os.MkdirAll(l.dir("nodes", node, "log"), 0o700); err != nil {
		return fault.New(fault.Internal, "make directory of %s: %w", node, err)
	}
	if err := os.WriteFile(l.dir("nodes", node, "boot_id"), []byte(newUUID()+"\n"), 0o444); err != nil {
		return fault.New(fault.Internal, "write boot id of %s: %w", node, err)
	}
	return nil
}

// newUUID is a random UUID of version 4 (RFC 9562), as the kernel prints boot ids.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// furnish mounts what makes the calling thread's mount namespace the node's.
func (l *Lab) furnish(node string) error {
	if err := unix.Sethostname([]byte(node)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	for _, p := range private {
		if err := unix.Mount(l.dir("nodes", node, p.outside), p.inside, "none", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", p.inside, err)
		}
	}
	if err := unix.Mount(l.dir("nodes", node, "boot_id"), bootID, "none", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount boot id: %w", err)
	}
	// /sys/class/net shows the network namespace it was mounted in.
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	// The pins of other nodes are none of this node's business, and would be
	// kept alive by it.
	if err := unix.Unmount(l.pins(), unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", l.pins(), err)
	}
	return nil
}

func pin(namespace, path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o400)
	if err != nil {
		return err
	}
	_ = file.Close()
	if err := unix.Mount(namespace, path, "none", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin %s: %w", namespace, err)
	}
	return nil
}

// removePins takes down every mount below the lab's directory, deepest first;
// several can lie on one another.
func (l *Lab) removePins() error {
	mounts, err := mountsBelow(l.dir())
	for err == nil && len(mounts) > 0 {
		for _, m := range slices.Backward(mounts) {
			if err := unix.Unmount(m, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
				return fault.New(fault.Internal, "unmount %s: %w", m, err)
			}
		}
		before := len(mounts)
		if mounts, err = mountsBelow(l.dir()); len(mounts) >= before {
			return fault.New(fault.Internal, "unmount %s: it stays mounted", mounts[0])
		}
	}
	return err
}

// mountsBelow lists the mount points at and below dir in the order they were
// mounted.
func mountsBelow(dir string) ([]string, error) {
	file, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, fault.New(fault.Internal, "list mounts: %w", err)
	}
	defer file.Close()
	var mounts []string
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) > 4 && (fields[4] == dir || strings.HasPrefix(fields[4], dir+"/")) {
			mounts = append(mounts, fields[4])
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fault.New(fault.Internal, "list mounts: %w", err)
	}
	return mounts, nil
}
