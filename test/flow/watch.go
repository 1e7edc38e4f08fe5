// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"context"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"

	"github.com/ocicat-net/ocicat/internal/kernel"
)

// WatchRoutes counts the kernel's events about routes to prefix in a
// namespace, or about all routes for the zero Prefix, until the test ends. It
// returns when it sees events.
func WatchRoutes(t testing.TB, ns *os.File, prefix netip.Prefix) *atomic.Int64 {
	t.Helper()
	handle, err := kernel.OpenAt(ns)
	if err != nil {
		t.Fatal(err)
	}
	var events atomic.Int64
	started, done := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	first := true
	go func() {
		defer close(done)
		err := handle.Monitor(ctx, func(ev kernel.Event) {
			switch {
			case first:
				first = false
				close(started)
			case ev.Overflow:
				t.Error("the monitor lost events")
			case ev.Route != nil && (!prefix.IsValid() || ev.Route.Dst == prefix):
				events.Add(1)
			}
		})
		if err != nil {
			t.Errorf("watch routes: %v", err)
		}
	}()
	select {
	case <-started:
	case <-done:
	}
	t.Cleanup(func() { cancel(); <-done; handle.Close() })
	return &events
}
