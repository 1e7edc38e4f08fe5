// SPDX-License-Identifier: Apache-2.0

package away

import (
	"context"
	"net/netip"
	"sync/atomic"

	"github.com/ocicat-net/ocicat/internal/kernel"
)

// watchRoutes counts the events about a prefix in a node's main table.
func (w *world) watchRoutes(node string, prefix netip.Prefix) *atomic.Int64 {
	w.t.Helper()
	handle, err := kernel.OpenAt(w.Netns(node))
	if err != nil {
		w.t.Fatal(err)
	}
	var events atomic.Int64
	started, done := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(w.t.Context())
	first := true
	go func() {
		defer close(done)
		err := handle.Monitor(ctx, func(ev kernel.Event) {
			switch {
			case first:
				first = false
				close(started)
			case ev.Overflow:
				w.t.Error("the monitor lost events")
			case ev.Route != nil && ev.Route.Dst == prefix:
				events.Add(1)
			}
		})
		if err != nil {
			w.t.Error(err)
		}
	}()
	<-started
	w.t.Cleanup(func() { cancel(); <-done; handle.Close() })
	return &events
}
