// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// insideVar tells the program that it runs in its namespaces; its value is
// the run's directory on the disk.
const insideVar = "OCICAT_BENCH_DIR"

// build makes the programs as a release does, and the contenders below bench.
func build(ctx context.Context, bin string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", "grpcnotrace", "-ldflags", "-s -w", "-o", bin+"/",
		"./cmd/ocicat-cni", "./cmd/ocicatd", "./cmd/ocicat-etcd", "./bench/...")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, out)
	}
	return nil
}

// inside runs this program again in new network, mount and PID namespaces:
// whatever it starts or mounts there ends with it.
func inside(ctx context.Context, o options, dir string) error {
	args := append(os.Args[1:len(os.Args):len(os.Args)], "-bin", o.bin)
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), insideVar+"="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   syscall.CLONE_NEWNET | syscall.CLONE_NEWPID,
		Unshareflags: syscall.CLONE_NEWNS, // makes mounts private
		Pdeathsig:    syscall.SIGKILL,
	}
	return cmd.Run()
}

// prepareNode makes a node of the namespaces: a /proc of its own, empty run
// and state directories, and an uplink.
func prepareNode(ctx context.Context) error {
	for _, m := range []struct{ fs, at string }{{"proc", "/proc"}, {"tmpfs", "/run"}, {"tmpfs", "/var/lib"}} {
		if err := unix.Mount(m.fs, m.at, m.fs, 0, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.fs, m.at, err)
		}
	}
	for _, command := range []string{
		"ip link set lo up",
		"ip link add ens160 type veth peer name wire",
		"ip addr add 192.168.0.11/24 dev ens160",
		"ip link set ens160 up",
		"ip link set wire up",
		"ip route add default via 192.168.0.2",
	} {
		words := strings.Fields(command)
		if out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", command, err, out)
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
