// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/ocicat-net/ocicat/api/v1"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/store"
)

// lists counts how often claims are listed.
type lists struct {
	store.Store
	claims atomic.Int64
}

func (l *lists) List(ctx context.Context, kind store.Kind, prefix string) ([]store.Entry, store.Revision, error) {
	if kind == store.Affinity {
		l.claims.Add(1)
	}
	return l.Store.List(ctx, kind, prefix)
}

// TestOtherNodesCostNothing: in a cluster of a thousand nodes somebody's Node
// changes all the time. An agent follows it, and does not look at its own
// blocks for that.
func TestOtherNodesCostNothing(t *testing.T) {
	n := newNode(t)
	l := &lists{Store: n.cfg.Store}
	n.cfg.Store = l
	n.start()
	nstest.Eventually(t, 10*time.Second, func() bool { return len(n.agent.Report().Status.Blocks) > 0 }, "a block is held")
	before := l.claims.Load()
	const changes = 30
	for i := range changes {
		peer := fmt.Sprintf("192.168.0.%d", 50+i)
		node := fmt.Sprintf(`{"apiVersion":"projectcalico.org/v3","kind":"Node","metadata":{"name":"other"},"spec":{"bgp":{"ipv4Address":"%s/24"}}}`, peer)
		if _, err := l.Put(t.Context(), store.Key{Kind: store.Node, Name: "other"}, []byte(node), store.AnyRevision); err != nil {
			t.Fatal(err)
		}
		nstest.Eventually(t, 5*time.Second, func() bool {
			return slices.ContainsFunc(n.agent.Report().Status.Sessions, func(s v1.Session) bool { return s.Peer == peer })
		}, "a session with ", peer)
	}
	if n := l.claims.Load() - before; n > 3 { // a look of its own time may fall into it
		t.Errorf("%d looks at the own blocks for %d changes of another node", n, changes)
	}
}
