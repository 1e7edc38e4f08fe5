// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"syscall"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// Streams are what a command in a lab reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// ExecPod runs a command in a pod's network namespace and returns its exit
// code; one killed by a signal counts 128 and the signal's number, as in a
// shell. The error is about starting it only. The pod is named as for
// State.Pod.
func (l *Lab) ExecPod(ctx context.Context, pod string, argv []string, std Streams) (int, error) {
	s, err := l.enterable("lab exec")
	if err != nil {
		return 0, err
	}
	p, err := s.Pod(pod)
	if err != nil {
		return 0, err
	}
	if !isNamespace(netnsPath(p.Netns)) {
		return 0, l.notUp("pod " + p.String())
	}
	return runIn(ctx, space{net: netnsPath(p.Netns)}, argv, std)
}

// ExecNode is ExecPod inside a node: its network, mounts and host name.
func (l *Lab) ExecNode(ctx context.Context, node string, argv []string, std Streams) (int, error) {
	s, err := l.enterable("lab node")
	if err != nil {
		return 0, err
	}
	n, err := s.Node(node)
	if err != nil {
		return 0, err
	}
	in := l.space(n.Name)
	if !isNamespace(in.net) || !isNamespace(in.mnt) {
		return 0, l.notUp("node " + n.Name)
	}
	return runIn(ctx, in, argv, std)
}

func (l *Lab) enterable(what string) (*State, error) {
	if err := requireRoot(what); err != nil {
		return nil, err
	}
	return l.State()
}

func (l *Lab) notUp(what string) error {
	return fault.Hint(fault.New(fault.Unavailable, "%s: its namespace is gone", what), "Complete the lab: sudo ocicat lab up%s", l.nameFlag())
}

// runIn runs a command in s. Signals of the terminal reach it directly; when
// ctx ends it is asked to end, and killed after the grace period.
func runIn(ctx context.Context, s space, argv []string, std Streams) (int, error) {
	if len(argv) == 0 {
		return 0, fault.New(fault.Invalid, "no command given")
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = std.In, std.Out, std.Err
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = grace
	if err := s.run(cmd.Start); err != nil {
		kind := fault.Internal
		if errors.Is(err, exec.ErrNotFound) {
			kind = fault.NotFound
		}
		return 0, fault.New(kind, "run %s: %w", argv[0], err)
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		if err != nil {
			err = fmt.Errorf("run %s: %w", argv[0], err)
		}
		return 0, err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return exit.ExitCode(), nil
}
