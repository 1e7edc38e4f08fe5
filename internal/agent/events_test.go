// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/agent"
	"github.com/ocicat-net/ocicat/internal/kernel"
	"github.com/ocicat-net/ocicat/internal/nstest"
)

// tellingEvents collects the events that would start a pass, until a marker
// that the test makes.
type tellingEvents struct {
	n      *node
	events chan kernel.Event
}

const marker = "marker"

func (n *node) listen() *tellingEvents {
	n.t.Helper()
	k, err := kernel.Open()
	if err != nil {
		n.t.Fatal(err)
	}
	l := &tellingEvents{n: n, events: make(chan kernel.Event, 10_000)}
	ctx, cancel := context.WithCancel(n.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- k.Monitor(ctx, func(ev kernel.Event) { l.events <- ev }) }()
	n.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			n.t.Error(err)
		}
		_ = k.Close()
	})
	if first := <-l.events; !first.Overflow {
		n.t.Fatalf("first event is %+v, want an overflow", first)
	}
	return l
}

// sofar are the telling events up to now.
func (l *tellingEvents) sofar() []string {
	t := l.n.t
	t.Helper()
	ip(t, "link add "+marker+" type bridge")
	defer ip(t, "link del "+marker)
	var telling []string
	for {
		select {
		case ev := <-l.events:
			if ev.Link != nil && ev.Link.Name == marker {
				if !ev.Deleted {
					return telling
				}
				continue // of the last time
			}
			if ev.Device != marker && agent.Telling(l.n.agent, ev) {
				telling = append(telling, describe(ev))
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the marker was not reported")
		}
	}
}

func describe(ev kernel.Event) string {
	switch {
	case ev.Route != nil:
		return fmt.Sprintf("route %s deleted=%t", ev.Route.Dst, ev.Deleted)
	case ev.Neigh != nil:
		return fmt.Sprintf("neighbour %s deleted=%t", ev.Neigh.IP, ev.Deleted)
	case ev.Link != nil:
		return fmt.Sprintf("link %s up=%t deleted=%t", ev.Link.Name, ev.Link.Up, ev.Deleted)
	}
	return fmt.Sprintf("device %s %s", ev.Device, ev.Addr)
}

// quiet waits until nothing of a DEL is left to do.
func (n *node) quiet() {
	n.t.Helper()
	nstest.Eventually(n.t, 5*time.Second, func() bool {
		return len(n.handles()) == 0 && !strings.Contains(ip(n.t, "link show"), "gone")
	}, "DEL finished")
}

// The kernel reports our own work to us as it does everybody's: a pass over
// the whole node for each ADD and DEL would cost more than they do.
func TestOwnWorkStartsNoPass(t *testing.T) {
	n := newNode(t)
	n.start()
	first := n.pod("first", "c0") // it claims the block, which does start one
	n.add(first)
	n.del(first)
	n.quiet()
	told := n.listen()
	for i := range 5 {
		p := n.pod(fmt.Sprint("pod", i), fmt.Sprint("c", i+1))
		n.add(p)
		if got := told.sofar(); got != nil {
			t.Errorf("after ADD, a pass is started by %q", got)
		}
		n.del(p)
		n.quiet()
		if got := told.sofar(); got != nil {
			t.Errorf("after DEL, a pass is started by %q", got)
		}
	}
}

func TestForeignWorkStartsAPass(t *testing.T) {
	n := newNode(t)
	n.start()
	hostEnd := n.add(n.pod("web", "c1")).HostIf
	told := n.listen()
	for _, c := range []struct {
		do   string
		want string
	}{
		{"link set " + hostEnd + " mtu 1400", "link " + hostEnd + " up=true deleted=false"},
		{"addr add 192.168.0.99/24 dev ens160", "device ens160 192.168.0.99/24"},
		{"link set " + hostEnd + " down", "link " + hostEnd + " up=false deleted=false"},
		{"link del " + hostEnd, "link " + hostEnd + " up=false deleted=true"},
	} {
		ip(t, c.do)
		if got := told.sofar(); !slices.Contains(got, c.want) {
			t.Errorf("after %q, a pass is started by %q, want %q among them", c.do, got, c.want)
		}
	}
}
