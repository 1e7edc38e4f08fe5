// SPDX-License-Identifier: Apache-2.0

package kernel_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/kernel"
	"github.com/ocicat-net/ocicat/internal/nstest"
)

// numbered is the i-th of many endpoints.
func numbered(i int) cluster.Endpoint {
	ep := article()
	ep.ID.ContainerID = fmt.Sprintf("c%d", i)
	ep.HostIf = fmt.Sprintf("cali%d", i)
	ep.Addr = netip.AddrFrom4([4]byte{172, 16 + byte(i>>16), byte(i >> 8), byte(i)})
	return ep
}

// BenchmarkAttach attaches endpoints one after the other, each to the same
// pod's namespace under another name; what is made is destroyed unmeasured.
func BenchmarkAttach(b *testing.B) {
	n := newNode(b)
	pods := make([]*nstest.NS, 64)
	for i := range pods {
		pods[i] = nstest.New(b)
	}
	for i := 0; b.Loop(); i++ {
		if i%len(pods) == 0 && i > 0 {
			b.StopTimer()
			detachAll(b, n, i-len(pods), i)
			b.StartTimer()
		}
		mustAttach(b, n, attachment(numbered(i), pods[i%len(pods)]))
	}
}

// detachAll detaches the endpoints from to below to, and destroys them.
func detachAll(b *testing.B, n node, from, to int) {
	b.Helper()
	for i := from; i < to; i++ {
		if err := n.kernel.Detach(b.Context(), attachment(numbered(i), n.NS).Want); err != nil {
			b.Fatal(err)
		}
	}
	if err := n.kernel.DestroyDetached(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkAttachBy32 attaches with 32 callers, each with its own pod.
func BenchmarkAttachBy32(b *testing.B) {
	const callers = 32
	n := newNode(b)
	pods := make([]*nstest.NS, callers)
	for i := range pods {
		pods[i] = nstest.New(b)
	}
	made := 0
	for b.Loop() {
		var running sync.WaitGroup
		for i, pod := range pods {
			running.Go(func() {
				if err := n.kernel.Attach(context.Background(), attachment(numbered(made+i), pod)); err != nil {
					b.Error(err)
				}
			})
		}
		running.Wait()
		b.StopTimer()
		detachAll(b, n, made, made+callers)
		made += callers
		b.StartTimer()
	}
	b.ReportMetric(float64(made)/b.Elapsed().Seconds(), "attach/s")
}

// BenchmarkDetach is what a DEL waits for; destroying is not.
func BenchmarkDetach(b *testing.B) {
	n := newNode(b)
	pods := make([]*nstest.NS, 64)
	for i := range pods {
		pods[i] = nstest.New(b)
	}
	for i := 0; b.Loop(); i++ {
		if i%len(pods) == 0 {
			b.StopTimer()
			detachAll(b, n, i, i) // destroys the last ones
			for j, pod := range pods {
				mustAttach(b, n, attachment(numbered(i+j), pod))
			}
			b.StartTimer()
		}
		if err := n.kernel.Detach(b.Context(), attachment(numbered(i), n.NS).Want); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDestroyDetached destroys 64 detached links at once.
func BenchmarkDestroyDetached(b *testing.B) {
	n := newNode(b)
	for b.Loop() {
		b.StopTimer()
		for i := range 64 {
			a := attachment(numbered(i), nstest.New(b))
			mustAttach(b, n, a)
			if err := n.kernel.Detach(b.Context(), a.Want); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		if err := n.kernel.DestroyDetached(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func manyRoutes(count int) []host.Route {
	routes := make([]host.Route, count)
	for i := range routes {
		routes[i] = blockRoute(fmt.Sprintf("10.%d.%d.%d/26", i/1024, i/4%256, i%4*64))
	}
	return routes
}

// BenchmarkApplyRoutes sets and deletes routes beside "ip -batch" doing the
// same; both include deleting.
func BenchmarkApplyRoutes(b *testing.B) {
	for _, count := range []int{1000, 10_000} {
		routes := manyRoutes(count)
		b.Run(fmt.Sprintf("%d", count), func(b *testing.B) {
			n := masterNode(b)
			for b.Loop() {
				if err := n.kernel.ApplyRoutes(b.Context(), routes, nil); err != nil {
					b.Fatal(err)
				}
				if err := n.kernel.ApplyRoutes(b.Context(), nil, routes); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(2*count)*float64(b.N)/b.Elapsed().Seconds(), "routes/s")
		})
		b.Run(fmt.Sprintf("%d-ip-batch", count), func(b *testing.B) {
			n := masterNode(b)
			var script strings.Builder
			for _, verb := range []string{"replace", "del"} {
				for _, r := range routes {
					fmt.Fprintf(&script, "route %s %s\n", verb, r)
				}
			}
			for b.Loop() {
				cmd := n.Command("ip", "-batch", "-")
				cmd.Stdin = strings.NewReader(script.String())
				if out, err := cmd.CombinedOutput(); err != nil {
					b.Fatalf("%v\n%s", err, out)
				}
			}
			b.ReportMetric(float64(2*count)*float64(b.N)/b.Elapsed().Seconds(), "routes/s")
		})
	}
}

// BenchmarkPass is a pass of the agent over a node where all is right: observe
// and diff, with so many pods and as many routes to other nodes.
func BenchmarkPass(b *testing.B) {
	for _, pods := range []int{30, 250} {
		b.Run(fmt.Sprintf("%d", pods), func(b *testing.B) {
			n := masterNode(b)
			var eps []cluster.Endpoint
			for i := range pods {
				ep := numbered(i)
				eps = append(eps, ep)
				mustAttach(b, n, attachment(ep, nstest.New(b)))
			}
			if err := n.kernel.ApplyRoutes(b.Context(), manyRoutes(pods), nil); err != nil {
				b.Fatal(err)
			}
			want := wanted(snapshot(eps...))
			for _, r := range manyRoutes(pods) {
				want.Routes[r.Key()] = r
			}
			if err := n.kernel.Apply(b.Context(), kernel.Diff(want, observe(b, n), always())); err != nil {
				b.Fatal(err)
			}
			var changes atomic.Int64
			for b.Loop() {
				changes.Add(int64(kernel.Diff(want, observe(b, n), always()).Len()))
			}
			if changes.Load() != 0 {
				b.Errorf("%d changes", changes.Load())
			}
		})
	}
}
