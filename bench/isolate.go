// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// build makes the programs as a release does, and the contenders below bench.
func build(ctx context.Context, bin string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", "grpcnotrace", "-ldflags", "-s -w", "-o", bin+"/",
		"./cmd/...", "./bench/netlinkfloor")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, out)
	}
	return nil
}

// process runs one suite in a process of its own and returns what it
// measured. Whatever an isolated suite starts or mounts ends with it.
func process(ctx context.Context, o options, dir string, s suite) (result, error) {
	var r result
	dir, err := os.MkdirTemp(dir, s.name)
	if err != nil {
		return r, err
	}
	args := []string{
		"-one", s.name, "-dir", dir, "-bin", o.bin, "-only", o.only,
		"-rounds", strconv.Itoa(o.rounds), "-batches", strconv.Itoa(o.batches), fmt.Sprintf("-quick=%t", o.quick),
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if s.isolated {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET | syscall.CLONE_NEWPID
		cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS // makes mounts private
	} else {
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it has a lab to remove
	}
	if err := cmd.Run(); err != nil {
		return r, err
	}
	data, err := os.ReadFile(resultOf(dir, s.name))
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(data, &r)
}

// uplink are the commands that make the node's uplink.
var uplink = []string{
	"ip link add ens160 type veth peer name wire",
	"ip addr add 192.168.0.11/24 dev ens160",
	"ip link set ens160 up",
	"ip link set wire up",
	"ip route add default via 192.168.0.2",
}

// prepareNode makes a node of the namespaces: a /proc of its own, empty run
// and state directories, and an uplink.
func prepareNode(ctx context.Context) error {
	for _, m := range []struct{ fs, at string }{{"proc", "/proc"}, {"tmpfs", "/run"}, {"tmpfs", "/var/lib"}} {
		if err := unix.Mount(m.fs, m.at, m.fs, 0, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.fs, m.at, err)
		}
	}
	for _, command := range append([]string{"ip link set lo up"}, uplink...) {
		if err := runCommand(ctx, strings.Fields(command)...); err != nil {
			return err
		}
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
}

// newNetNS makes a network namespace, which lasts until the file is closed.
func newNetNS() (*os.File, error) {
	type result struct {
		ns  *os.File
		err error
	}
	made := make(chan result)
	go func() {
		// Never unlocked: the thread ends with the goroutine, so no other one
		// can run in the new namespace.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err != nil {
			made <- result{nil, fmt.Errorf("unshare: %w", err)}
			return
		}
		ns, err := os.Open("/proc/thread-self/ns/net")
		made <- result{ns, err}
	}()
	r := <-made
	return r.ns, r.err
}

// pathOf is where other processes find an open file of this one.
func pathOf(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }
