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

// weigh measures memory in pairs of its own: being traced costs time.
func (r *row) weigh(ctx context.Context) error {
	for range 3 {
		pods, err := newPods(1)
		if err != nil {
			return err
		}
		for _, verb := range []string{"ADD", "DEL"} {
			rss, err := peak(command(ctx, r.contender, verb, pods[0]))
			if err != nil {
				return fmt.Errorf("%s %s, traced: %w", r.contender.name(), verb, err)
			}
			r.pluginRSS = max(r.pluginRSS, rss)
		}
		if err := settle(ctx); err != nil {
			return err
		}
		pods[0].ns.Close()
	}
	if pid := r.contender.daemon(); pid != 0 {
		rss, err := highWater(pid)
		if err != nil {
			return err
		}
		r.daemonRSS = rss
	}
	return nil
}

// peak runs cmd and returns its greatest resident size, read while it exits:
// the figure that wait4 returns starts with its parent's.
func peak(cmd *exec.Cmd) (int64, error) {
	type result struct {
		rss int64
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // a tracer is a thread
		defer runtime.UnlockOSThread()
		rss, err := traced(cmd)
		done <- result{rss, err}
	}()
	r := <-done
	return r.rss, r.err
}

func traced(cmd *exec.Cmd) (int64, error) {
	stdin, err := os.CreateTemp("", "conf")
	if err != nil {
		return 0, err
	}
	defer os.Remove(stdin.Name())
	if _, err := stdin.ReadFrom(cmd.Stdin); err != nil {
		return 0, err
	}
	if _, err := stdin.Seek(0, 0); err != nil {
		return 0, err
	}
	cmd.Stdin = stdin // a copying goroutine would outlive our waiting
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	return watchExit(cmd.Process.Pid)
}

// watchExit lets a process that stopped at its exec run and returns its peak.
func watchExit(pid int) (int64, error) {
	var rss int64
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
		return 0, err
	}
	if err := unix.PtraceSetOptions(pid, unix.PTRACE_O_TRACEEXIT|unix.PTRACE_O_EXITKILL); err != nil {
		return 0, err
	}
	signal := 0
	for {
		if err := unix.PtraceCont(pid, signal); err != nil {
			return 0, err
		}
		if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
			return 0, err
		}
		signal = 0
		switch {
		case status.Exited():
			if status.ExitStatus() != 0 {
				return 0, fmt.Errorf("exit status %d", status.ExitStatus())
			}
			return rss, nil
		case status.TrapCause() == unix.PTRACE_EVENT_EXIT:
			var err error
			if rss, err = highWater(pid); err != nil {
				return 0, err
			}
		case status.Stopped() && status.StopSignal() != unix.SIGTRAP:
			signal = int(status.StopSignal())
		}
	}
}

// highWater is a process's greatest resident size so far, in bytes.
func highWater(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("process %d tells no VmHWM", pid)
}
