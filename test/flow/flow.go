// SPDX-License-Identifier: Apache-2.0

// Package flow meters what pods and kernels notice of a fault: packets that are
// lost from a steady flow between two namespaces, the longest silence in it,
// and the events about a route in a kernel.
package flow

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

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/netns"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// The rates of Start, in packets a second.
const (
	fullRate    = 10_000
	boundedRate = 2_000 // in CI
)

// port is where every flow goes to.
const port = 9999

// Flow is a stream of numbered UDP packets from one namespace to another.
type Flow struct {
	rate     int64 // packets a second
	stop     context.CancelFunc
	sender   chan struct{} // closed when nothing is sent any more
	receiver chan struct{} // closed when nothing is received any more
	sent     atomic.Int64
	received atomic.Int64
	longest  atomic.Int64 // nanoseconds
}

// Rate is how many packets a flow of Start has in a second: 10,000, in CI
// 2,000.
func Rate() int { return chaos.Scale(boundedRate, fullRate) }

// Start begins to send from one namespace to addr, which is in another, at
// Rate packets a second, until End or the end of the test.
func Start(t testing.TB, from, to *os.File, addr netip.Addr) *Flow {
	t.Helper()
	return StartAt(t, from, to, addr, Rate())
}

// StartAt is Start with rate packets a second.
func StartAt(t testing.TB, from, to *os.File, addr netip.Addr, rate int) *Flow {
	t.Helper()
	in, out, err := open(from, to, netip.AddrPortFrom(addr, port))
	if err != nil {
		t.Fatalf("open flow to %v: %v", addr, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	f := &Flow{rate: int64(rate), stop: cancel, sender: make(chan struct{}), receiver: make(chan struct{})}
	go f.receive(in)
	go f.send(ctx, out, in)
	t.Cleanup(func() { f.End() })
	return f
}

// open makes the sockets of both ends.
func open(from, to *os.File, at netip.AddrPort) (in, out *net.UDPConn, err error) {
	err = netns.Do(to, func() (err error) {
		in, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	err = netns.Do(from, func() (err error) {
		out, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(at))
		return err
	})
	if err != nil {
		return nil, nil, errors.Join(err, in.Close())
	}
	return in, out, errors.Join(buffer(in, unix.SO_RCVBUFFORCE, 64<<20), buffer(out, unix.SO_SNDBUFFORCE, 4<<20))
}

// buffer sets a socket's buffer beyond what the machine allows to everybody:
// a receiver that does not get the processor for a second must not look like a
// network that loses packets.
func buffer(c *net.UDPConn, option, size int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, size) })
	return errors.Join(err, inner)
}

// send keeps to the rate over any time, also if it is held up for a moment. A
// packet that the own kernel refuses counts as sent: it is lost.
func (f *Flow) send(ctx context.Context, out, in *net.UDPConn) {
	defer close(f.sender)
	defer in.Close()
	defer out.Close()
	begin := time.Now()
	packet := make([]byte, 64)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		for due := int64(time.Since(begin).Seconds() * float64(f.rate)); f.sent.Load() < due; {
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
func (f *Flow) drain() {
	quiet := time.NewTicker(200 * time.Millisecond)
	defer quiet.Stop()
	for last := int64(-1); f.received.Load() != last; <-quiet.C {
		last = f.received.Load()
	}
}

func (f *Flow) receive(in *net.UDPConn) {
	defer close(f.receiver)
	buf := make([]byte, 2048)
	last := time.Now()
	for {
		if _, err := in.Read(buf); err != nil {
			return
		}
		now := time.Now()
		if gap := int64(now.Sub(last)); gap > f.longest.Load() {
			f.longest.Store(gap)
		}
		last = now
		f.received.Add(1)
	}
}

// AwaitSent waits until more packets were sent since now.
func (f *Flow) AwaitSent(t testing.TB, more int) {
	t.Helper()
	target := f.sent.Load() + int64(more)
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

// Await lets the flow go on for d.
func (f *Flow) Await(t testing.TB, d time.Duration) {
	t.Helper()
	f.AwaitSent(t, int(d.Seconds()*float64(f.rate)))
}

// AwaitReceived waits until more packets arrived since now, for at most d; it
// says whether they did.
func (f *Flow) AwaitReceived(t testing.TB, more int, d time.Duration) bool {
	t.Helper()
	target := f.received.Load() + int64(more)
	limit := time.After(d)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for f.received.Load() < target {
		select {
		case <-limit:
			return false
		case <-t.Context().Done():
			t.Fatal("test ended")
		case <-tick.C:
		}
	}
	return true
}

// Longest is the longest time between two packets' arrivals so far, and before
// the first one's.
func (f *Flow) Longest() time.Duration { return time.Duration(f.longest.Load()) }

// LongestMS is Longest in milliseconds.
func (f *Flow) LongestMS() int64 { return f.Longest().Milliseconds() }

// End stops the flow and returns how many packets were sent and lost. It may
// be called again.
func (f *Flow) End() (sent, lost int64) {
	f.stop()
	<-f.sender
	<-f.receiver
	return f.sent.Load(), f.sent.Load() - f.received.Load()
}
