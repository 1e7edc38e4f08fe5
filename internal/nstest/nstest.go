// SPDX-License-Identifier: Apache-2.0

// Package nstest gives tests real network namespaces: made by the test, wired
// with veth pairs and bridges, and gone with it even if it is killed, because
// nothing but open files of the test's process keeps them. It is imported by
// tests only and knows nothing of Ocicat.
package nstest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// NS is one network namespace of a test. Its methods may be called from
// several goroutines, but those that can fail end the calling test and so
// belong on the test's own goroutine.
type NS struct {
	t    testing.TB
	file *os.File
}

// RequireRoot skips the test for the one accepted reason, "needs root", if it
// runs as anybody else.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// New makes a network namespace in which only lo exists and is up. It is gone
// when the test ends, with every device and process in it.
func New(t testing.TB) *NS {
	t.Helper()
	RequireRoot(t)
	type result struct {
		file *os.File
		err  error
	}
	made := make(chan result)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and with it
		// the only thread that changed its namespace.
		runtime.LockOSThread()
		file, err := newNamespace()
		made <- result{file, err}
	}()
	r := <-made
	if r.err != nil {
		t.Fatalf("make network namespace: %v", r.err)
	}
	t.Cleanup(func() { _ = r.file.Close() })
	return &NS{t: t, file: r.file}
}

// newNamespace moves the calling thread into a new network namespace and
// returns it open.
func newNamespace() (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("unshare: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return nil, fmt.Errorf("set lo up: %w", err)
	}
	return os.Open("/proc/thread-self/ns/net")
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

// File is the open namespace; it belongs to the NS, which closes it.
func (n *NS) File() *os.File { return n.file }

// FD is the open namespace's file descriptor; it belongs to the NS.
func (n *NS) FD() int { return int(n.file.Fd()) }

// Path is a path at which any process of this machine can open the namespace,
// as CNI_NETNS wants it, for as long as the test runs.
func (n *NS) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.FD()) }

// Do runs f on the calling goroutine with its thread inside the namespace.
// What f opens stays there; goroutines f starts do not run there. If the
// thread cannot be brought home it is given up together with the test.
func (n *NS) Do(f func()) {
	n.t.Helper()
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		n.t.Fatalf("open own network namespace: %v", err)
	}
	defer home.Close()
	if err := unix.Setns(n.FD(), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		n.t.Fatalf("enter network namespace: %v", err)
	}
	defer func() {
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			n.t.Errorf("leave network namespace: %v", err)
			runtime.Goexit() // still locked: the thread dies with this goroutine
		}
		runtime.UnlockOSThread()
	}()
	f()
}

// Command is a command that will run inside the namespace. It is killed when
// the test's own part ends, before its cleanups run.
func (n *NS) Command(name string, args ...string) *exec.Cmd {
	inside := append([]string{"--net=" + n.Path(), "--", name}, args...)
	return exec.CommandContext(n.t.Context(), "nsenter", inside...)
}

// Run runs a command inside the namespace and returns its standard output
// without trailing space on any line, as tests compare it. A command that
// fails ends the test with what it said.
func (n *NS) Run(name string, args ...string) string {
	n.t.Helper()
	cmd := n.Command(name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		n.t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	lines := strings.Split(strings.TrimRight(stdout.String(), "\n"), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " ")
	}
	return strings.Join(lines, "\n")
}

// IP runs iproute2's ip inside the namespace with args split at spaces, like
// IP("route show"), and returns what Run returns.
func (n *NS) IP(args string) string {
	n.t.Helper()
	return n.Run("ip", strings.Fields(args)...)
}

// Sysctl is the value of a setting of the namespace, by its path below
// /proc/sys, as "net/ipv4/ip_forward".
func (n *NS) Sysctl(path string) string {
	n.t.Helper()
	var value []byte
	var err error
	n.Do(func() { value, err = os.ReadFile("/proc/sys/" + path) })
	if err != nil {
		n.t.Fatalf("read sysctl: %v", err)
	}
	return strings.TrimSpace(string(value))
}

// SetSysctl changes a setting of the namespace, by its path below /proc/sys.
func (n *NS) SetSysctl(path, value string) {
	n.t.Helper()
	var err error
	n.Do(func() { err = os.WriteFile("/proc/sys/"+path, []byte(value), 0o644) })
	if err != nil {
		n.t.Fatalf("set sysctl: %v", err)
	}
}
