// SPDX-License-Identifier: Apache-2.0

// Package netns enters network namespaces for a moment. It owns no namespace
// and knows nothing of what is done inside.
package netns

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// Open opens the network namespace at path, as /run/netns/x or
// /proc/1/ns/net. Anything else at that path is Invalid.
func Open(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		kind := fault.Invalid
		if os.IsNotExist(err) {
			kind = fault.NotFound
		}
		return nil, fault.New(kind, "open network namespace: %w", err)
	}
	if kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		_ = f.Close()
		return nil, fault.New(fault.Invalid, "open network namespace %s: it is not a network namespace", path)
	}
	return f, nil
}

// Do runs fn on a thread that is in namespace ns. Sockets that fn opens and
// files below /proc/sys/net that it touches are the namespace's; they stay so
// after Do returned. fn must not start goroutines that expect the namespace.
func Do(ns *os.File, fn func() error) error {
	done := make(chan error, 1)
	go func() { done <- do(ns, fn) }()
	return <-done
}

// do is Do on a goroutine of its own: if its thread cannot be brought home it
// stays locked and ends with the goroutine, so that no other one can ever run
// in the wrong namespace.
func do(ns *os.File, fn func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fault.New(fault.Internal, "open own network namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fault.New(fault.Internal, "enter network namespace %s: %w", ns.Name(), err)
	}
	err = fn()
	if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return err
}
