// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// Nodes mount directories of their own on directories of the machine, which
// must exist and are made where they do not. They may go only when no node of
// any lab is left: removing a directory takes away what other mount
// namespaces have mounted on it. So labs, wherever their files are, meet in
// one directory.
const sharedDir = DefaultRoot + "/.shared"

// labsDir has a file for each lab of the machine, named by its directory;
// madeFile has the directories made for mounting, one a line in the order
// they were made.
const (
	labsDir  = sharedDir + "/labs"
	madeFile = sharedDir + "/made"
)

// lockShared makes this process the only one in the shared directory; the
// returned function ends that.
func lockShared(ctx context.Context) (func(), error) {
	unlock, err := lockFile(ctx, sharedDir+"/lock")
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", sharedDir, err)
	}
	return unlock, nil
}

// entry is the lab's file in labsDir.
func (l *Lab) entry() string { return filepath.Join(labsDir, url.PathEscape(l.dir())) }

// register notes that the lab exists, and makes the mount points its nodes
// need.
func (l *Lab) register(ctx context.Context) error {
	unlock, err := lockShared(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := errors.Join(os.MkdirAll(labsDir, 0o700), os.MkdirAll(l.dir(), 0o755), os.WriteFile(l.entry(), nil, 0o600)); err != nil {
		return fault.New(fault.Internal, "register lab %s: %w", l.name, err)
	}
	for _, p := range private {
		if err := makeMountPoint(p.inside); err != nil {
			return err
		}
	}
	return nil
}

// makeMountPoint makes a directory of the machine that nodes mount their own
// on, and remembers each directory it had to make.
func makeMountPoint(dir string) error {
	var missing []string
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(d); err == nil {
			break
		}
		missing = append(missing, d)
	}
	for _, d := range slices.Backward(missing) {
		if err := appendLine(madeFile, d); err != nil {
			return fault.New(fault.Internal, "remember mount point: %w", err)
		}
		if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return fault.New(fault.Internal, "make mount point: %w", err)
		}
	}
	return nil
}

func appendLine(path, line string) error {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString(line + "\n")
	return errors.Join(err, file.Close())
}

// unregister notes that the lab is gone. After the last one the mount points
// go, where they are empty, and the shared directory.
func (l *Lab) unregister(ctx context.Context) error {
	unlock, err := lockShared(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.Remove(l.entry()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fault.New(fault.Internal, "unregister lab %s: %w", l.name, err)
	}
	others, err := registered()
	if err != nil || others > 0 {
		return err
	}
	text, err := os.ReadFile(madeFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fault.New(fault.Internal, "read mount points made: %w", err)
	}
	for _, dir := range slices.Backward(strings.Fields(string(text))) {
		if filepath.IsAbs(dir) {
			_ = unix.Rmdir(dir) // fails where somebody uses it by now: then it is theirs
		}
	}
	if err := os.RemoveAll(sharedDir); err != nil {
		return fault.New(fault.Internal, "remove %s: %w", sharedDir, err)
	}
	_ = os.Remove(DefaultRoot) // fails while there are labs in it
	return nil
}

// registered counts the labs of the machine. One whose directory is gone was
// not removed by Down; it counts no more.
func registered() (int, error) {
	entries, err := os.ReadDir(labsDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, fault.New(fault.Internal, "list labs: %w", err)
	}
	n := 0
	for _, e := range entries {
		dir, err := url.PathUnescape(e.Name())
		if err != nil {
			continue
		}
		if _, err := os.Stat(dir); err == nil {
			n++
		}
	}
	return n, nil
}
