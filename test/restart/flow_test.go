// SPDX-License-Identifier: Apache-2.0

package restart

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/kernel"
	"github.com/ocicat-net/ocicat/internal/netns"
)

// perSecond is the rate of the flow, in packets.
const perSecond = 10_000

// flow is a stream of numbered packets from one namespace to another.
type flow struct {
	stop     context.CancelFunc
	finished chan struct{}
	sent     atomic.Int64
	received atomic.Int64
}

// startFlow starts sending from one namespace to an address in another.
func startFlow(t *testing.T, from, to *os.File, addr netip.Addr) *flow {
	t.Helper()
	at := netip.AddrPortFrom(addr, 9999)
	var in, out *net.UDPConn
	err := netns.Do(to, func() (err error) {
		in, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
		return err
	})
	if err == nil {
		err = netns.Do(from, func() (err error) {
			out, err = net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(at))
			return err
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(in.SetReadBuffer(16<<20), out.SetWriteBuffer(4<<20)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	f := &flow{stop: cancel, finished: make(chan struct{})}
	go f.receive(in)
	go f.send(ctx, out, in)
	t.Cleanup(func() { cancel(); <-f.finished })
	return f
}

// send keeps to the rate over any time, also if it is held up for a moment. A
// packet that the own kernel refuses counts as sent: it is lost.
func (f *flow) send(ctx context.Context, out, in *net.UDPConn) {
	defer close(f.finished)
	defer in.Close()
	defer out.Close()
	begin := time.Now()
	packet := make([]byte, 64)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		for due := int64(time.Since(begin).Seconds() * perSecond); f.sent.Load() < due; {
			binary.BigEndian.PutUint64(packet, uint64(f.sent.Add(1)))
			_, _ = out.Write(packet)
		}
		select {
		case <-ctx.Done():
			f.drain()
			return
		case <-tick.C:
		}
	}
}

// drain waits until nothing more arrives.
func (f *flow) drain() {
	quiet := time.NewTicker(200 * time.Millisecond)
	defer quiet.Stop()
	for last := int64(-1); f.received.Load() != last; <-quiet.C {
		last = f.received.Load()
	}
}

func (f *flow) receive(in *net.UDPConn) {
	buf := make([]byte, 2048)
	for {
		if _, err := in.Read(buf); err != nil {
			return
		}
		f.received.Add(1)
	}
}

// awaitSent waits until so many packets were sent since now.
func (f *flow) awaitSent(t *testing.T, more int64) {
	t.Helper()
	target := f.sent.Load() + more
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for f.sent.Load() < target {
		select {
		case <-t.Context().Done():
			t.Fatal("test ended")
		case <-tick.C:
		}
	}
}

// end stops the flow and returns how many packets were sent and lost.
func (f *flow) end() (sent, lost int64) {
	f.stop()
	<-f.finished
	return f.sent.Load(), f.sent.Load() - f.received.Load()
}

// watchRoutes counts the events about a prefix in a namespace.
func watchRoutes(t *testing.T, ns *os.File, prefix netip.Prefix) *atomic.Int64 {
	t.Helper()
	handle, err := kernel.OpenAt(ns)
	if err != nil {
		t.Fatal(err)
	}
	var events atomic.Int64
	started, done := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
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
			case ev.Route != nil && ev.Route.Dst == prefix:
				events.Add(1)
			}
		})
		if err != nil {
			t.Error(err)
		}
	}()
	<-started
	t.Cleanup(func() { cancel(); <-done; handle.Close() })
	return &events
}
