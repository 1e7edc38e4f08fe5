// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/api/meta"
	v1 "github.com/ocicat-net/ocicat/api/v1"
	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/resource"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// A container that is attached again after its DEL, as tools do that name it
// after its namespace, waits for the DEL to be finished; every DEL gives its
// address back.
func TestSameContainerAgain(t *testing.T) {
	n := newNode(t)
	n.start()
	p := n.pod("web-0", "c1")
	for range 5 {
		n.add(p)
		n.del(p)
	}
	nstest.Eventually(t, 5*time.Second, func() bool { return len(n.handles()) == 0 }, "handles gone")
	if links := ip(t, "link show"); strings.Contains(links, "cali") {
		t.Errorf("links:\n%s", links)
	}
}

// A container has one interface: a second one is refused before it could
// share the first one's address; after the DEL it may have another.
func TestSecondInterface(t *testing.T) {
	n := newNode(t)
	n.start()
	first := n.pod("web-0", "c1")
	result := n.add(first)
	second := *first
	second.req.IfName = "net1"
	if _, err := n.agent.Add(t.Context(), second.req); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "eth0") {
		t.Errorf("second interface: %v", err)
	}
	first.ns.Run("busybox", "ping", "-c", "1", "-W", "2", "192.168.0.11")
	n.del(first)
	if again := n.add(&second); again.Addresses[0] == result.Addresses[0] {
		t.Errorf("address %s has just been given back", again.Addresses[0])
	}
	nstest.Eventually(t, 5*time.Second, func() bool { return len(n.handles()) == 1 }, "one handle")
	n.del(&second)
	nstest.Eventually(t, 5*time.Second, func() bool { return len(n.handles()) == 0 }, "handles gone")
}

// An ADD whose caller goes away at any moment either answers or leaves
// nothing behind.
func TestCallerGone(t *testing.T) {
	chaos.Begin(t, "A23", "the plugin is killed while the agent attaches", "undone: 0 left").
		Measuredf("0 left")
	n := newNode(t)
	n.start()
	answered := 0
	for i := range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*300*time.Microsecond)
		p := n.pod(fmt.Sprint("web-", i), fmt.Sprint("c", i))
		if _, err := n.agent.Add(ctx, p.req); err == nil {
			answered++
		}
		cancel()
	}
	t.Logf("%d of 20 answered", answered)
	if answered == 20 {
		t.Error("no ADD was cut off: the test sees nothing")
	}
	nstest.Eventually(t, 5*time.Second, func() bool { return len(n.handles()) == answered }, "only the answered ones keep an address")
	if got := len(n.agent.Endpoints()); got != answered {
		t.Errorf("%d endpoints of %d answered ADDs", got, answered)
	}
	if got := strings.Count(ip(t, "-o link show"), ": cali"); got != answered {
		t.Errorf("%d links of %d answered ADDs", got, answered)
	}
}

// The DEL of an old container and the ADD of its pod's next one, at the same
// time, leave the new one whole.
func TestReplacedWhileDeleted(t *testing.T) {
	n := newNode(t)
	n.start()
	before := n.pod("web-0", "c0")
	n.add(before)
	for i := 1; i <= 20; i++ {
		next := n.pod("web-0", fmt.Sprint("c", i))
		var both sync.WaitGroup
		both.Go(func() { n.del(before) })
		both.Go(func() {
			if _, err := n.agent.Add(t.Context(), next.req); err != nil {
				t.Errorf("ADD of %s: %v", next.req.ContainerID, err)
			}
		})
		both.Wait()
		if err := n.agent.Del(t.Context(), cniwire.DelRequest{ID: before.req.ID}); err != nil {
			t.Error(err)
		}
		next.ns.Run("busybox", "ping", "-c", "1", "-W", "2", "192.168.0.11")
		before = next
	}
	nstest.Eventually(t, 5*time.Second, func() bool { return len(n.handles()) == 1 }, "one address left")
}

// The cluster's reserveSize takes effect at once, both ways.
func TestReserveSizeFollowsTheCluster(t *testing.T) {
	n := newNode(t)
	n.start()
	held := func() int { return n.agent.Report().Status.Counts.ReserveHeld }
	nstest.Eventually(t, 5*time.Second, func() bool { return held() == 16 }, "the default held")
	for _, size := range []int{3, 0, 8} {
		config := &v1.OcicatConfiguration{Type: meta.Type{APIVersion: v1.APIVersion, Kind: v1.KindOcicatConfiguration}, Metadata: meta.Object{Name: "default"}}
		config.Spec.ReserveSize = &size
		value, err := resource.Encode(config, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.cfg.Store.Put(t.Context(), resource.Key(config), value, store.AnyRevision); err != nil {
			t.Fatal(err)
		}
		nstest.Eventually(t, 5*time.Second, func() bool { return held() == size }, "held: ", size)
		p := n.pod("web", fmt.Sprint("c", size))
		n.add(p)
		n.del(p)
	}
}
