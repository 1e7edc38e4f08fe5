// SPDX-License-Identifier: Apache-2.0

// Package routes measures how fast routes that a BGP peer announces get into
// the kernel: of our agent and of BIRD 2, told the same by the same peer on the
// same node, beside "ip -batch", which is told them by a file, and the netlink
// messages alone.
package routes

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/kernel"
	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/internal/netns"
)

// Contender is a way for routes to get into the kernel.
type Contender string

// The contenders, in their order.
const (
	Netlink Contender = "netlink alone"
	IPBatch Contender = "ip -batch"
	BIRD    Contender = "BIRD 2"
	Ocicat  Contender = "Ocicat"
)

// Result is what one contender took for one number of routes.
type Result struct {
	Contender Contender
	Routes    int
	// Took is from the first byte told until the last route is in the kernel:
	// the median of the rounds.
	Took time.Duration
	// Spread is between the slowest and the fastest round.
	Spread time.Duration
	// Memory is the most the agent had resident until then, in bytes; 0 for
	// the other contenders.
	Memory int64
}

// Rate is routes a second.
func (r Result) Rate() float64 { return float64(r.Routes) / r.Took.Seconds() }

// Sizes are the numbers of routes worth measuring.
func Sizes() []int { return []int{1_000, 10_000, 100_000} }

// The lab's two nodes: the one that is measured, and the one whose agent ends
// and whose place the feeder takes.
const (
	node     = "k8s-master-1"
	nodeAddr = "192.168.0.11"
	peerNode = "k8s-node-1"
	peerAddr = "192.168.0.12"
	device   = "ens160"
)

const (
	patience = 2 * time.Minute        // what one round may take
	rest     = 100 * time.Millisecond // before each: a burst comes to a node at rest
)

// Measure has each contender install each number of routes, rounds times. It
// makes a lab of two nodes below root, of the programs in bin, and removes it;
// it needs root, BIRD 2 and iproute2.
func Measure(ctx context.Context, bin, root string, rounds int, sizes ...int) (results []Result, err error) {
	topology, err := lab.Article(2)
	if err != nil {
		return nil, err
	}
	topology.Pool = netip.MustParsePrefix("10.0.0.0/8")
	l, err := lab.New(lab.Config{Name: fmt.Sprintf("routes%d", os.Getpid()), Root: root, BinDir: bin})
	if err != nil {
		return nil, err
	}
	defer func() {
		_, downErr := l.Down(context.WithoutCancel(ctx))
		err = errors.Join(err, downErr)
	}()
	if err := l.Up(ctx, topology, nil); err != nil {
		return nil, err
	}
	if err := l.KillAgent(ctx, peerNode); err != nil {
		return nil, err
	}
	b := &bench{lab: l, dir: root}
	if b.here, err = netns.Open("/run/netns/" + l.Name() + "." + node); err != nil {
		return nil, err
	}
	defer b.here.Close()
	if b.there, err = netns.Open("/run/netns/" + l.Name() + "." + peerNode); err != nil {
		return nil, err
	}
	defer b.there.Close()
	if b.kernel, err = kernel.OpenAt(b.here); err != nil {
		return nil, err
	}
	defer b.kernel.Close()
	return b.all(ctx, rounds, sizes)
}

// bench is a measurement under way.
type bench struct {
	lab    *lab.Lab
	dir    string
	here   *os.File // the measured node's network namespace
	there  *os.File // the feeder's
	kernel *kernel.Handle
}

// all measures the agent first, which then makes room for the others.
func (b *bench) all(ctx context.Context, rounds int, sizes []int) ([]Result, error) {
	var results []Result
	series := func(c Contender, round func(context.Context, []netip.Prefix) (time.Duration, error)) error {
		for _, size := range sizes {
			r, err := b.series(ctx, c, size, rounds, round)
			if err != nil {
				return fmt.Errorf("%s, %d routes: %w", c, size, err)
			}
			if c == Ocicat {
				if r.Memory, err = b.agentMemory(ctx); err != nil {
					return err
				}
			}
			results = append(results, r)
		}
		return nil
	}
	if err := b.displace(ctx); err != nil {
		return nil, err
	}
	if err := series(Ocicat, b.fed); err != nil {
		return nil, err
	}
	if err := b.lab.KillAgent(ctx, node); err != nil {
		return nil, err
	}
	for c, round := range map[Contender]func(context.Context, []netip.Prefix) (time.Duration, error){Netlink: b.netlink, IPBatch: b.ipBatch} {
		if err := series(c, round); err != nil {
			return nil, err
		}
	}
	stop, err := b.startBIRD(ctx)
	if err != nil {
		return nil, err
	}
	defer stop()
	if err := series(BIRD, b.fed); err != nil {
		return nil, err
	}
	order := []Contender{Netlink, IPBatch, BIRD, Ocicat}
	slices.SortStableFunc(results, func(x, y Result) int {
		return (x.Routes-y.Routes)*len(order) + slices.Index(order, x.Contender) - slices.Index(order, y.Contender)
	})
	return results, nil
}

// agentMemory is the most that the measured agent had resident so far.
func (b *bench) agentMemory(ctx context.Context) (bytes int64, err error) {
	status, err := b.lab.Status(ctx)
	if err != nil {
		return 0, err
	}
	for _, n := range status.Nodes {
		if n.Name != node {
			continue
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.Agent.PID))
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(text)) {
			if found, _ := fmt.Sscanf(line, "VmHWM: %d kB", &bytes); found == 1 {
				return bytes << 10, nil
			}
		}
	}
	return 0, fmt.Errorf("no memory of the agent of %s to be seen", node)
}

// series is the rounds of one contender with one number of routes.
func (b *bench) series(ctx context.Context, c Contender, size, rounds int, round func(context.Context, []netip.Prefix) (time.Duration, error)) (Result, error) {
	prefixes := make([]netip.Prefix, size)
	for i := range prefixes {
		at := 10<<24 | 1<<23 | i<<6 // one address of each block
		prefixes[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(at >> 24), byte(at >> 16), byte(at >> 8), byte(at)}), 32)
	}
	var times []time.Duration
	for range rounds {
		ctx, cancel := context.WithTimeout(ctx, patience)
		time.Sleep(rest)
		took, err := round(ctx, prefixes)
		cancel()
		if err != nil {
			return Result{}, err
		}
		times = append(times, took)
	}
	slices.Sort(times)
	return Result{Contender: c, Routes: size, Took: times[len(times)/2], Spread: times[len(times)-1] - times[0]}, nil
}

// routes are the prefixes as routes through the feeder.
func routes(prefixes []netip.Prefix) []host.Route {
	list := make([]host.Route, len(prefixes))
	for i, p := range prefixes {
		list[i] = host.Route{Dst: p, Via: netip.MustParseAddr(peerAddr), Dev: device, Proto: host.ProtoBird}
	}
	return list
}

func (b *bench) netlink(ctx context.Context, prefixes []netip.Prefix) (time.Duration, error) {
	list := routes(prefixes)
	began := time.Now()
	if err := b.kernel.ApplyRoutes(ctx, list, nil); err != nil {
		return 0, err
	}
	took := time.Since(began)
	return took, b.kernel.ApplyRoutes(ctx, nil, list)
}

func (b *bench) ipBatch(ctx context.Context, prefixes []netip.Prefix) (time.Duration, error) {
	var text strings.Builder
	for _, p := range prefixes {
		fmt.Fprintf(&text, "route add %v via %s dev %s proto bird\n", p, peerAddr, device)
	}
	file := filepath.Join(b.dir, "batch")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		return 0, err
	}
	var took time.Duration
	err := netns.Do(b.here, func() error {
		cmd := exec.CommandContext(ctx, "ip", "-batch", file)
		began := time.Now()
		out, err := cmd.CombinedOutput()
		took = time.Since(began)
		if err != nil {
			return fmt.Errorf("ip -batch: %w: %s", err, out)
		}
		return nil
	})
	return took, errors.Join(err, b.kernel.ApplyRoutes(ctx, nil, routes(prefixes)))
}
