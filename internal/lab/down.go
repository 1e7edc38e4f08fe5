// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"os"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// Down removes all there is of the lab: its processes, namespaces, mounts and
// files. It needs no record of the lab and goes by names alone, so it also
// removes what a crash left. It says what it removed; a lab of which there is
// nothing is NotFound.
func (l *Lab) Down(ctx context.Context) (Removed, error) {
	var r Removed
	err := l.locked(ctx, "lab down", func() error {
		var err error
		r, err = l.remove(ctx)
		return err
	})
	return r, err
}

// Removed counts what Down removed.
type Removed struct {
	Processes  int
	Namespaces int
	Files      bool // the lab's directory
}

func (l *Lab) remove(ctx context.Context) (Removed, error) {
	var r Removed
	if err := l.killProcesses(ctx, &r); err != nil {
		return r, err
	}
	names, err := l.netnsNames()
	if err != nil {
		return r, err
	}
	for _, name := range names {
		if err := removeNetns(name); err != nil {
			return r, err
		}
		r.Namespaces++
	}
	if err := l.removePins(); err != nil {
		return r, err
	}
	_, err = os.Stat(l.dir())
	r.Files = err == nil
	if err := os.RemoveAll(l.dir()); err != nil {
		return r, fault.New(fault.Internal, "remove files of lab %s: %w", l.name, err)
	}
	if err := l.unregister(ctx); err != nil {
		return r, err
	}
	if err := os.Remove(l.lockPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return r, fault.New(fault.Internal, "remove lock of lab %s: %w", l.name, err)
	}
	_ = os.Remove(l.root) // fails while other labs exist
	if r == (Removed{}) {
		return r, fault.Hint(fault.New(fault.NotFound, "lab %s: there is nothing of it", l.name), "List labs: sudo ocicat lab list")
	}
	return r, nil
}

// killProcesses kills until there is nobody: a process may start another one
// between being listed and being killed.
func (l *Lab) killProcesses(ctx context.Context, r *Removed) error {
	for {
		list, err := l.processes()
		if err != nil || len(list) == 0 {
			return err
		}
		if err := killAll(ctx, list); err != nil {
			return err
		}
		r.Processes += len(list)
	}
}
