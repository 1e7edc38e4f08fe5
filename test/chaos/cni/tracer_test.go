// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tracee is a process whose system calls are counted over all its threads, and
// which is killed before one of them: the call it stands at does not happen,
// those before it have. (strace's own fault injection counts each thread for
// itself.)
type tracee struct {
	pid int
	// counts says which calls count; nil for all.
	counts func(pid int, nr uint64, args []byte) bool
	at     int64 // the call to be killed before; 0 for none

	count  atomic.Int64
	latest atomic.Int64 // when a call was counted, in nanoseconds since 1970
	hit    atomic.Bool  // it was killed at its call
	what   string       // the call it was killed before; read it after done
	done   chan struct{}
	once   sync.Once
}

// trace options: a stop at a system call can be told from a signal, and new
// threads are traced, too.
const traceOptions = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE

// attach counts a running process's calls from here on. It leads a process
// group, as a lab's daemons do.
func attach(t *testing.T, pid int, at int, counts func(int, uint64, []byte) bool) *tracee {
	t.Helper()
	p := &tracee{pid: pid, at: int64(at), counts: counts, done: make(chan struct{})}
	return p.run(t, p.seize)
}

// start starts a program traced from its first call.
func start(t *testing.T, argv, env []string, files []*os.File, at int) *tracee {
	t.Helper()
	p := &tracee{at: int64(at), done: make(chan struct{})}
	return p.run(t, func() error { return p.exec(argv, env, files) })
}

// run begins tracing and leaves a goroutine with it: all of it must come from
// one thread.
func (p *tracee) run(t *testing.T, begin func() error) *tracee {
	t.Helper()
	begun := make(chan error)
	go func() {
		runtime.LockOSThread() // and never given back: it ends with the goroutine
		err := begin()
		begun <- err
		if err == nil {
			p.loop()
			close(p.done)
		}
	}()
	if err := <-begun; err != nil {
		t.Fatalf("trace: %v", err)
	}
	t.Cleanup(func() { p.kill(t) })
	return p
}

func (p *tracee) exec(argv, env []string, files []*os.File) error {
	proc, err := os.StartProcess(argv[0], argv, &os.ProcAttr{Env: env, Files: files, Sys: &unix.SysProcAttr{Ptrace: true, Setpgid: true}})
	if err != nil {
		return err
	}
	p.pid = proc.Pid
	if err := proc.Release(); err != nil { // the loop reaps it
		return err
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(p.pid, &status, unix.WALL, nil); err != nil {
		return err
	}
	if err := unix.PtraceSetOptions(p.pid, traceOptions|unix.PTRACE_O_EXITKILL); err != nil {
		return err
	}
	return unix.PtraceSyscall(p.pid, 0)
}

// seize traces all threads of the process, also those made meanwhile.
func (p *tracee) seize() error {
	known := map[int]bool{}
	for again := true; again; {
		again = false
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.pid))
		if err != nil {
			return err
		}
		for _, task := range tasks {
			tid, err := strconv.Atoi(task.Name())
			if err != nil || known[tid] {
				continue
			}
			known[tid], again = true, true
			err = ptrace(unix.PTRACE_SEIZE, tid, traceOptions)
			if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ESRCH) { // traced by its creator's option, or over
				continue
			}
			if err != nil {
				return fmt.Errorf("seize thread %d: %w", tid, err)
			}
			if err := ptrace(unix.PTRACE_INTERRUPT, tid, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("stop thread %d: %w", tid, err)
			}
		}
	}
	return nil
}

// loop goes from stop to stop until no thread is left. It waits for the
// process's group alone: the thread we are on may have other children.
func (p *tracee) loop() {
	for {
		var status unix.WaitStatus
		tid, err := unix.Wait4(-p.pid, &status, unix.WALL|unix.WNOTHREAD, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil { // no thread left
			return
		}
		if !status.Stopped() {
			continue
		}
		signal := int(status.StopSignal())
		switch {
		case signal == int(unix.SIGTRAP)|0x80:
			p.call(tid)
			signal = 0
		case int(status)>>16 != 0, signal == int(unix.SIGSTOP), signal == int(unix.SIGTRAP):
			signal = 0 // an event of tracing
		}
		_ = unix.PtraceSyscall(tid, signal) // it may be dead already: the next wait says so
	}
}

// call counts a thread's system call, and kills the process before the one
// asked for.
func (p *tracee) call(tid int) {
	// struct ptrace_syscall_info of linux/ptrace.h: op, at 24 the number, then
	// six arguments.
	const getInfo, entry = 0x420e, 1
	var info [88]byte
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, getInfo, uintptr(tid), uintptr(len(info)), uintptr(unsafe.Pointer(&info)), 0, 0); errno != 0 || info[0] != entry {
		return
	}
	nr := binary.NativeEndian.Uint64(info[24:])
	if p.counts != nil && !p.counts(p.pid, nr, info[32:]) {
		return
	}
	p.latest.Store(time.Now().UnixNano())
	if p.count.Add(1) == p.at {
		p.what = fmt.Sprintf("%d (%s)", nr, callName(nr))
		p.hit.Store(true)
		_ = unix.Kill(p.pid, unix.SIGKILL)
	}
}

// kill kills the process, if it lives, and waits until it is gone.
func (p *tracee) kill(t *testing.T) {
	p.once.Do(func() {
		select {
		case <-p.done:
		default:
			_ = unix.Kill(p.pid, unix.SIGKILL)
		}
		p.wait(t)
	})
}

// wait waits until the process is gone.
func (p *tracee) wait(t *testing.T) {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		t.Fatalf("traced process %d does not end", p.pid)
	}
}

// ended says that the process is gone.
func (p *tracee) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// quiet says that no call was counted for d.
func (p *tracee) quiet(d time.Duration) bool {
	return time.Since(time.Unix(0, p.latest.Load())) > d
}

func ptrace(request, tid int, data uintptr) error {
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), 0, data, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// effects are the calls by which an agent changes anything outside itself.
var effects = map[uint64]string{
	unix.SYS_WRITE: "write", unix.SYS_WRITEV: "writev", unix.SYS_PWRITE64: "pwrite64",
	unix.SYS_SENDTO: "sendto", unix.SYS_SENDMSG: "sendmsg", unix.SYS_OPENAT: "openat", unix.SYS_CONNECT: "connect", unix.SYS_BIND: "bind",
	unix.SYS_RENAMEAT: "renameat", unix.SYS_RENAMEAT2: "renameat2", unix.SYS_UNLINKAT: "unlinkat", unix.SYS_MKDIRAT: "mkdirat",
	unix.SYS_FSYNC: "fsync", unix.SYS_FDATASYNC: "fdatasync", unix.SYS_FTRUNCATE: "ftruncate", unix.SYS_FALLOCATE: "fallocate", unix.SYS_FLOCK: "flock",
	unix.SYS_SETNS: "setns", unix.SYS_UNSHARE: "unshare", unix.SYS_MOUNT: "mount",
}

func callName(nr uint64) string { return effects[nr] }

// effect counts what changes anything outside the process: not the log, and
// not the Go runtime's own signals to itself.
func effect(pid int, nr uint64, args []byte) bool {
	name, ok := effects[nr]
	if !ok {
		return false
	}
	if name != "write" && name != "writev" {
		return true
	}
	fd := binary.NativeEndian.Uint64(args)
	target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd))
	return err != nil || fd > 2 && !slices.ContainsFunc([]string{"eventfd", ".log"}, func(s string) bool { return strings.Contains(target, s) })
}

// netlinkSend counts sends on netlink sockets alone.
func netlinkSend(pid int, nr uint64, args []byte) bool {
	if nr != unix.SYS_SENDTO && nr != unix.SYS_SENDMSG {
		return false
	}
	fd := binary.NativeEndian.Uint64(args)
	inode, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd))
	if err != nil {
		return false
	}
	number := strings.TrimSuffix(strings.TrimPrefix(inode, "socket:["), "]")
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/netlink", pid))
	return err == nil && slices.ContainsFunc(strings.Split(string(table), "\n"), func(line string) bool {
		f := strings.Fields(line)
		return len(f) > 0 && f[len(f)-1] == number
	})
}
