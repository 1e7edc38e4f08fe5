// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// call is one execution of a plugin.
type call struct {
	wall time.Duration // exec to exit
	cpu  time.Duration // of the plugin and what it executed
}

// series is all calls of one kind.
type series struct {
	calls []call
	busy  time.Duration // sum of the batches' wall time
}

// row is everything measured of one contender.
type row struct {
	contender contender
	add, del  series        // one at a time
	many      map[int]pair  // in batches, by the number of calls at once
	daemonCPU time.Duration // of the daemon, for the sequential pairs with all that followed their answers
	pluginRSS int64         // bytes, most of three calls
	daemonRSS int64         // bytes, most ever
}

// pair is the ADDs and the DELs of batches.
type pair struct{ add, del *series }

// pod is one container to be: its namespace and identity.
type pod struct {
	ns *os.File
	id string
}

// sequential measures pairs of ADD and DEL, contenders taking turns, another
// one first in each round.
func sequential(ctx context.Context, rows []row, rounds int) error {
	for round := range rounds {
		for i := range rows {
			r := &rows[(i+round)%len(rows)]
			before := cpuTime(r.contender.daemon())
			if err := r.batch(ctx, &r.add, &r.del, 1); err != nil {
				return err
			}
			r.daemonCPU += cpuTime(r.contender.daemon()) - before
		}
	}
	return nil
}

// concurrent measures batches of n ADDs, then n DELs, at once.
func concurrent(ctx context.Context, rows []row, batches, n int) error {
	for batch := range batches {
		for i := range rows {
			r := &rows[(i+batch)%len(rows)]
			if r.many == nil {
				r.many = map[int]pair{}
			}
			if _, ok := r.many[n]; !ok {
				r.many[n] = pair{&series{}, &series{}}
			}
			if err := r.batch(ctx, r.many[n].add, r.many[n].del, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// batch attaches n pods at once, then detaches them at once, and waits until
// the node is as before. Namespaces are the runtime's matter: they are made
// before and closed after, unmeasured.
func (r *row) batch(ctx context.Context, add, del *series, n int) error {
	pods, err := newPods(n)
	if err != nil {
		return err
	}
	if err := r.all(ctx, add, "ADD", pods); err != nil {
		return err
	}
	if err := r.all(ctx, del, "DEL", pods); err != nil {
		return err
	}
	if err := settle(ctx); err != nil {
		return fmt.Errorf("%s: %w", r.contender.name(), err)
	}
	for _, p := range pods {
		p.ns.Close()
	}
	return nil
}

// all executes verb for all pods at once.
func (r *row) all(ctx context.Context, s *series, verb string, pods []pod) error {
	calls, errs := make([]call, len(pods)), make([]error, len(pods))
	begin := time.Now()
	var running sync.WaitGroup
	for i, p := range pods {
		running.Go(func() { calls[i], errs[i] = execute(ctx, r.contender, verb, p) })
	}
	running.Wait()
	s.busy += time.Since(begin)
	s.calls = append(s.calls, calls...)
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func execute(ctx context.Context, c contender, verb string, p pod) (call, error) {
	cmd := command(ctx, c, verb, p)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	begin := time.Now()
	err := cmd.Run()
	wall := time.Since(begin)
	if err != nil {
		return call{}, fmt.Errorf("%s %s: %w: %s", c.name(), verb, err, out.String())
	}
	return call{wall, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}, nil
}

// command is how a runtime calls a plugin.
func command(ctx context.Context, c contender, verb string, p pod) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.program())
	cmd.Env = []string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + p.id, "CNI_NETNS=" + pathOf(p.ns), "CNI_IFNAME=eth0",
		"CNI_PATH=/usr/lib/cni", "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=" + p.id,
	}
	cmd.Stdin = strings.NewReader(c.conf())
	return cmd
}

func newPods(n int) ([]pod, error) {
	var pods []pod
	for range n {
		ns, err := newNetNS()
		if err != nil {
			return nil, err
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(ns.Fd()), &st); err != nil {
			return nil, err
		}
		pods = append(pods, pod{ns, fmt.Sprintf("pod%d-%d", time.Now().UnixNano(), st.Ino)})
	}
	return pods, nil
}

// warmUp does one unmeasured pair: programs come into the page cache, a node
// claims its first block. A contender that just started may refuse at first,
// as it may refuse a runtime, which tries again.
func (r *row) warmUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return poll(ctx, func() error {
		var unmeasured series
		return r.batch(ctx, &unmeasured, &unmeasured, 1)
	})
}

// settle waits until only the node's own three links are left: some
// contenders destroy theirs behind the answer.
func settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return poll(ctx, func() error {
		links, err := net.Interfaces()
		if err == nil && len(links) > 3 {
			err = fmt.Errorf("%d links are left, first %s", len(links)-3, links[3].Name)
		}
		return err
	})
}

// cpuTime is the CPU time a process used, by its own clock
// (clock_getcpuclockid(3)); 0 for process 0.
func cpuTime(pid int) time.Duration {
	if pid == 0 {
		return 0
	}
	const sched = 2
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|sched), &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
