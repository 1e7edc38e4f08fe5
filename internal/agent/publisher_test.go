// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/store"
)

// moody is a datastore that takes no NodeStatus for a while once it is told to,
// from the first that comes.
type moody struct {
	store.Store
	mu      sync.Mutex
	refuses bool
	since   time.Time
}

const mood = 2 * time.Second

func (m *moody) Put(ctx context.Context, key store.Key, value []byte, prev store.Revision) (store.Revision, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if key.Kind == store.NodeStatus && m.refuses {
		if m.since.IsZero() {
			m.since = time.Now()
		}
		if time.Since(m.since) < mood {
			return 0, fault.New(fault.Unavailable, "put %s: no answer in time", key)
		}
	}
	return m.Store.Put(ctx, key, value, prev)
}

// TestStatusIsWrittenAgain: a status the datastore did not take is written
// soon, although nothing else happens that would have it written.
func TestStatusIsWrittenAgain(t *testing.T) {
	n := newNode(t)
	m := &moody{Store: n.cfg.Store}
	n.cfg.Store = m
	n.start()
	says := func(text string) bool {
		e, err := m.Get(t.Context(), store.Key{Kind: store.NodeStatus, Name: "k8s-master-1"})
		return err == nil && strings.Contains(string(e.Value), text)
	}
	nstest.Eventually(t, 10*time.Second, func() bool { return says(`"BlocksHeld"`) }, "the status says that blocks are held")
	m.mu.Lock()
	m.refuses = true
	m.mu.Unlock()
	pool := `{"apiVersion":"projectcalico.org/v3","kind":"IPPool","metadata":{"name":"wrong"},"spec":{"cidr":"10.0.0.0/16","nodeSelector":"has(("}}`
	if _, err := m.Put(t.Context(), store.Key{Kind: store.IPPool, Name: "wrong"}, []byte(pool), 0); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	nstest.Eventually(t, 15*time.Second, func() bool { return says(`"OC2007"`) }, "the status says what is wrong with the pool")
	if took := time.Since(begin); took < mood {
		t.Errorf("written after %v: nothing was refused", took)
	}
}
