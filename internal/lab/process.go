// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// Process names one process of a lab for good: a process id is used again by
// the kernel, together with the start time it is not.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot (proc(5), field 22 of stat)
}

// identify reads who process pid is now; ok is false when it does not exist
// or only waits to be reaped.
func identify(pid int) (p Process, ok bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, false
	}
	// The name in parentheses may hold anything; the fields after it count.
	_, rest, found := strings.Cut(string(text[bytes.LastIndexByte(text, ')')+1:]), " ")
	fields := strings.Fields(rest)
	if !found || len(fields) < 20 || fields[0] == "X" || fields[0] == "Z" && !threadsLeft(pid) {
		return Process{}, false
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	return Process{PID: pid, Start: start}, err == nil
}

// threadsLeft says whether a process whose first thread has ended has others:
// they end on their own time, and until then hold its files and locks.
func threadsLeft(pid int) bool {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return err == nil && len(threads) > 1
}

// Alive says whether the process still runs.
func (p Process) Alive() bool {
	now, ok := identify(p.PID)
	return ok && now == p
}

// signal sends sig to the process and nobody else; one that is gone, or never
// was, is no error.
func (p Process) signal(sig syscall.Signal) error {
	if p == (Process{}) {
		return nil
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fault.New(fault.Internal, "open process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	if !p.Alive() { // asked after the pidfd holds it: the id cannot change hands any more
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fault.New(fault.Internal, "signal process %d: %w", p.PID, err)
	}
	return nil
}

// wait waits until the process is gone.
func (p Process) wait(ctx context.Context) error {
	return await(ctx, func() (bool, error) { return !p.Alive(), nil })
}

// stop asks the process to end and kills it if it has not after grace.
func (p Process) stop(ctx context.Context, grace time.Duration) error {
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	patient, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if p.wait(patient) == nil {
		return nil
	}
	return p.kill(ctx)
}

// kill kills the process and waits until it is gone.
func (p Process) kill(ctx context.Context) error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	if err := p.wait(ctx); err != nil {
		return fault.New(fault.Internal, "wait for the end of process %d: %w", p.PID, err)
	}
	return nil
}

// await asks done more and more rarely until it says so, fails, or ctx ends.
func await(ctx context.Context, done func() (bool, error)) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// program is the path of one of Ocicat's programs: in the configured
// directory, or beside this one, or in $PATH.
func (l *Lab) program(name string) (string, error) {
	if l.binDir != "" {
		path, err := filepath.Abs(filepath.Join(l.binDir, name))
		if err == nil {
			_, err = os.Stat(path)
		}
		if err != nil {
			return "", missingProgram(name, err)
		}
		return path, nil
	}
	if self, err := os.Executable(); err == nil {
		path := filepath.Join(filepath.Dir(self), name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", missingProgram(name, err)
	}
	return filepath.Abs(path)
}

func missingProgram(name string, err error) error {
	return fault.Hint(fault.New(fault.NotFound, "find program %s: %w", name, err),
		"Build it with \"make build\", or name its directory with --bin-dir.")
}

// daemon is a program that shall outlive us.
type daemon struct {
	path string
	args []string
	env  []string // besides the lab's mark and PATH
	log  string   // file its output is appended to
	in   space
}

// start starts d in a session of its own: no terminal, no parent that
// matters.
func (l *Lab) start(d daemon) (Process, error) {
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return Process{}, fault.New(fault.Internal, "open log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(d.path, d.args...)
	cmd.Dir = "/"
	cmd.Env = append([]string{envMark + "=" + l.name, "PATH=" + os.Getenv("PATH")}, d.env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := d.in.run(cmd.Start); err != nil {
		return Process{}, fault.New(fault.Internal, "start %s: %w", d.path, err)
	}
	// Asked before it can be reaped, so even one that ended at once has a name.
	p, ok := identify(cmd.Process.Pid)
	go func() { _ = cmd.Wait() }() // as long as we live nobody else reaps it
	if !ok {
		return Process{}, fault.New(fault.Internal, "start %s: it ended at once; see %s", d.path, d.log)
	}
	return p, nil
}

// running finds a daemon of the lab that an earlier command started and did
// not live to record: by the lab's mark, its program and its network
// namespace.
func (l *Lab) running(program, netns string) (Process, bool) {
	want, ok := inodeOf(netns)
	if !ok {
		return Process{}, false
	}
	found, err := processesWhere(func(pid int) bool {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil || strings.TrimSpace(string(name)) != program || !l.marked(pid) {
			return false
		}
		inode, ok := inodeOf(fmt.Sprintf("/proc/%d/ns/net", pid))
		return ok && inode == want
	})
	if err != nil || len(found) == 0 {
		return Process{}, false
	}
	return found[0], true
}

// processes are all processes of the lab: those that carry its mark and those
// that live in one of its namespaces, but not ourselves.
func (l *Lab) processes() ([]Process, error) {
	spaces, err := l.inodes()
	if err != nil {
		return nil, err
	}
	return processesWhere(func(pid int) bool { return l.marked(pid) || livesIn(pid, spaces) })
}

// processesWhere are the processes of this machine, but us, that pick picks.
func processesWhere(pick func(pid int) bool) ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fault.New(fault.Internal, "list processes: %w", err)
	}
	var found []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if p, ok := identify(pid); ok && pick(pid) {
			found = append(found, p)
		}
	}
	return found, nil
}

// livesIn says whether process pid is in one of the namespaces.
func livesIn(pid int, inodes map[uint64]bool) bool {
	for _, kind := range []string{"net", "mnt"} {
		if inode, ok := inodeOf(fmt.Sprintf("/proc/%d/ns/%s", pid, kind)); ok && inodes[inode] {
			return true
		}
	}
	return false
}

// killAll kills processes, all at once, and waits until they are gone.
func killAll(ctx context.Context, list []Process) error {
	ctx, cancel := context.WithTimeout(ctx, partTimeout)
	defer cancel()
	var errs []error
	for _, p := range list {
		errs = append(errs, p.signal(syscall.SIGKILL))
	}
	for _, p := range list {
		errs = append(errs, p.kill(ctx))
	}
	return errors.Join(errs...)
}

// marked says whether process pid was started by the lab, directly or not.
func (l *Lab) marked(pid int) bool {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && slices.Contains(strings.Split(string(env), "\x00"), envMark+"="+l.name)
}

// inodes are the inodes of the lab's namespaces.
func (l *Lab) inodes() (map[uint64]bool, error) {
	names, err := l.netnsNames()
	if err != nil {
		return nil, err
	}
	paths, err := filepath.Glob(filepath.Join(l.pins(), "*.mnt"))
	if err != nil {
		return nil, fault.New(fault.Internal, "list mount namespaces: %w", err)
	}
	for _, name := range names {
		paths = append(paths, netnsPath(name))
	}
	inodes := map[uint64]bool{}
	for _, path := range paths {
		if inode, ok := inodeOf(path); ok && isNamespace(path) {
			inodes[inode] = true
		}
	}
	return inodes, nil
}

func inodeOf(path string) (uint64, bool) {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return 0, false
	}
	return st.Ino, true
}
