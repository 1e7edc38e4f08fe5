// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/kernel"
)

const (
	nodePods   = 110  // Kubernetes' limit
	nodeRoutes = 1000 // of all peers together
	flood      = 10_000
)

// bird is the protocol number of the agent's routes.
const bird = 12

// measuredNode is an agent with pods and peers.
type measuredNode struct {
	*ocicat
	o      options
	kernel *kernel.Handle
	peers  *exec.Cmd
}

// node is the suite of one agent with 110 pods, 50 peers and 1,000 routes.
func node(ctx context.Context, o options) (result, error) {
	if err := prepareNode(ctx); err != nil {
		return result{}, err
	}
	n := &measuredNode{ocicat: newOcicat(o.bin, o.dir), o: o}
	n.pool = "172.16.0.0/12"
	defer n.stop()
	if err := n.raise(ctx); err != nil {
		return result{}, err
	}
	defer n.kernel.Close()
	var r result
	for _, measure := range []func(context.Context) ([]figure, error){n.memory, n.idle, n.starts, n.repairs, n.repairFlood} {
		begin := time.Now()
		figures, err := measure(ctx)
		fmt.Fprintf(os.Stderr, "bench: node: %.1f s, %v\n", time.Since(begin).Seconds(), figures)
		if err != nil {
			return r, err
		}
		r.Figures = append(r.Figures, figures...)
	}
	return r, nil
}

// raise starts everything and waits until it stands.
func (n *measuredNode) raise(ctx context.Context) (err error) {
	if n.kernel, err = kernel.Open(); err != nil {
		return err
	}
	if err := n.start(ctx); err != nil {
		return err
	}
	apply := exec.CommandContext(ctx, filepath.Join(n.bin, "ocicat"), "apply", "-f", "-")
	apply.Env = append(os.Environ(), "DATASTORE_TYPE=etcdv3", "ETCD_ENDPOINTS="+etcdURL)
	apply.Stdin = strings.NewReader(peerNodes())
	if out, err := apply.CombinedOutput(); err != nil {
		return fmt.Errorf("apply the peers' nodes: %w: %s", err, out)
	}
	if n.peers, err = startPeers(ctx, n.o, nodeRoutes/peerCount); err != nil {
		return err
	}
	r := row{contender: n}
	for range nodePods / 10 {
		pods, err := newPods(10)
		if err != nil {
			return err
		}
		var unmeasured series
		if err := r.all(ctx, &unmeasured, "ADD", pods); err != nil {
			return err
		}
	}
	return n.awaitRoutes(ctx, nodeRoutes)
}

// awaitRoutes waits until the kernel has so many routes through peers.
func (n *measuredNode) awaitRoutes(ctx context.Context, want int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return poll(ctx, func() error {
		routes, err := n.learned(ctx)
		if err == nil && len(routes) < want {
			err = fmt.Errorf("%d of %d routes", len(routes), want)
		}
		return err
	})
}

// learned are the routes through peers.
func (n *measuredNode) learned(ctx context.Context) ([]host.Route, error) {
	all, err := n.kernel.Routes(ctx, kernel.Filter{Proto: bird})
	var learned []host.Route
	for _, r := range all {
		if r.Via.IsValid() {
			learned = append(learned, r)
		}
	}
	return learned, err
}

// memory is what the agent takes after all has come to rest.
func (n *measuredNode) memory(ctx context.Context) ([]figure, error) {
	if err := pass(ctx, 10*time.Second); err != nil {
		return nil, err
	}
	const mb = 1e6
	rss, err := statusBytes(n.daemon(), "VmRSS")
	if err != nil {
		return nil, err
	}
	anon, err := statusBytes(n.daemon(), "RssAnon")
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("agent, %d pods, %d peers, %d routes: ", nodePods, peerCount, nodeRoutes)
	return []figure{
		atMost(what+"RSS", float64(rss)/mb, 40, "MB"),
		atMost(what+"anonymous memory", float64(anon)/mb, 20, "MB"),
	}, nil
}

// idle is the agent's CPU with nothing to do but keepalives and heartbeats.
func (n *measuredNode) idle(ctx context.Context) ([]figure, error) {
	over := time.Minute
	if n.o.quick {
		over = 10 * time.Second
	}
	before := cpuTime(n.daemon())
	if err := pass(ctx, over); err != nil {
		return nil, err
	}
	used := cpuTime(n.daemon()) - before
	return []figure{atMost("agent idle, the same: CPU", 100*used.Seconds()/over.Seconds(), 0.2, "% of a core")}, nil
}

// starts kills the agent and starts it anew: how long until everything is
// verified, and what was written meanwhile.
func (n *measuredNode) starts(ctx context.Context) ([]figure, error) {
	var times samples
	events := 0
	for range 5 {
		watch, err := watchRoutes(ctx, n.kernel)
		if err != nil {
			return nil, err
		}
		if err := n.agent.Process.Kill(); err != nil {
			return nil, err
		}
		_ = n.agent.Wait()
		begin := time.Now()
		if err := n.startAgent(); err != nil {
			return nil, err
		}
		err = n.await(ctx, n.agent, func() error { return admin.Dial("/run/ocicat/admin.sock").Ready(ctx) })
		if err != nil {
			return nil, err
		}
		times = append(times, time.Since(begin))
		if err := n.awaitSessions(ctx); err != nil {
			return nil, err
		}
		events += watch.end()
	}
	return []figure{
		atMost(fmt.Sprintf("agent start until %d routes and %d pods are verified, median of %d", nodeRoutes, nodePods, len(times)), times.percentile(50), 300, "ms"),
		atMost("the same starts: route events in the kernel", float64(events), 0, ""),
	}, nil
}

// awaitSessions waits until all peers are Established again.
func (n *measuredNode) awaitSessions(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return poll(ctx, func() error {
		sessions, err := admin.Dial("/run/ocicat/admin.sock").Sessions(ctx)
		if err != nil {
			return err
		}
		up := 0
		for _, s := range sessions {
			if s.State == "Established" {
				up++
			}
		}
		if up < peerCount {
			return fmt.Errorf("%d of %d sessions", up, peerCount)
		}
		return nil
	})
}

// repairs deletes one route, and 64 at once, again and again.
func (n *measuredNode) repairs(ctx context.Context) ([]figure, error) {
	rounds := 200
	if n.o.quick {
		rounds = 20
	}
	one, err := n.repair(ctx, 1, rounds)
	if err != nil {
		return nil, err
	}
	many, err := n.repair(ctx, 64, rounds/4)
	if err != nil {
		return nil, err
	}
	return []figure{
		informs("repair of a deleted route, median", one.percentile(50), "ms"),
		atMost("repair of a deleted route, p99", one.percentile(99), 20, "ms"),
		atMost("repair after 64 routes were deleted, p99", many.percentile(99), 100, "ms"),
	}, nil
}

// repairFlood gives the peers 10,000 blocks and deletes all routes to them.
func (n *measuredNode) repairFlood(ctx context.Context) ([]figure, error) {
	err := endPeers(ctx, n.peers)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	if n.peers, err = startPeers(ctx, n.o, flood/peerCount); err != nil {
		return nil, err
	}
	if err := n.awaitRoutes(ctx, flood); err != nil {
		return nil, err
	}
	learned := time.Since(begin)
	rounds := 10
	if n.o.quick {
		rounds = 2
	}
	all, err := n.repair(ctx, flood, rounds)
	if err != nil {
		return nil, err
	}
	return []figure{
		informs(fmt.Sprintf("%d peers up, %d routes of theirs learned and in the kernel", peerCount, flood), inMS(learned), "ms"),
		atMost(fmt.Sprintf("repair after %d routes were deleted, p99", flood), all.percentile(99), 300, "ms"),
	}, nil
}

// repair deletes count routes in one batch and waits until they are back. The
// time counts from the end of the deletion.
func (n *measuredNode) repair(ctx context.Context, count, rounds int) (samples, error) {
	var times samples
	for range rounds {
		// Deletions come one by one, not as an echo of the last repair.
		if err := pass(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
		routes, err := n.learned(ctx)
		if err != nil {
			return nil, err
		}
		if len(routes) < count {
			return nil, fmt.Errorf("%d of %d routes to delete", len(routes), count)
		}
		watch, err := watchRoutes(ctx, n.kernel)
		if err != nil {
			return nil, err
		}
		if err := n.kernel.ApplyRoutes(ctx, nil, routes[:count]); err != nil {
			return nil, err
		}
		begin := time.Now()
		err = watch.awaitAdded(ctx, count)
		times = append(times, time.Since(begin))
		watch.end()
		if err != nil {
			return nil, err
		}
	}
	return times, nil
}

func (n *measuredNode) stop() {
	if n.peers != nil {
		_ = n.peers.Process.Kill()
		_ = n.peers.Wait()
	}
	n.ocicat.stop()
}

// pass waits for a time to pass.
func pass(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// statusBytes is a field of /proc/PID/status given in kB.
func statusBytes(pid int, field string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(text) {
		var kib int64
		if n, _ := fmt.Sscanf(string(line), field+": %d kB", &kib); n == 1 {
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("process %d tells no %s", pid, field)
}
