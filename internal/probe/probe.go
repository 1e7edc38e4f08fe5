// SPDX-License-Identifier: Apache-2.0

// Package probe proves a path: it sends one tagged ICMP echo request from a
// pod's namespace and captures it, and its reply, on every interface given.
// What the frames mean is package trace's business.
package probe

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/netns"
	"github.com/ocicat-net/ocicat/internal/trace"
)

// Tap is one interface to listen on.
type Tap struct {
	At    trace.Place
	Dev   string
	Netns *os.File // namespace of At
}

// Sender is where the probe starts.
type Sender struct {
	At    trace.Place
	Netns *os.File // namespace of At
	Addr  netip.Addr
}

// Capture is one captured frame with the time it was read.
type Capture struct {
	trace.Frame
	Time time.Time
	Raw  []byte
}

// Result is what one probe showed.
type Result struct {
	Captures []Capture     // as they were read: in order for each tap, not among taps
	RTT      time.Duration // from sending to the reply at the sender; 0 without a reply
	ReplyTTL int           // TTL of the reply at the sender; 0 without a reply
}

// Frames are the captured frames.
func (r Result) Frames() []trace.Frame {
	frames := make([]trace.Frame, len(r.Captures))
	for i, c := range r.Captures {
		frames[i] = c.Frame
	}
	return frames
}

// settle is how long after the reply stray frames are still waited for: a
// frame on the far side may be read after the reply on the near one.
const settle = 20 * time.Millisecond

// Run sends one probe and listens on taps until that many frames were seen or
// ctx ends. An unanswered probe is a Result without a reply, not an error.
func Run(ctx context.Context, from Sender, to netip.Addr, taps []Tap, frames int) (Result, error) {
	tag, err := newTag()
	if err != nil {
		return Result{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &collector{tag: tag, to: to, want: frames, enough: make(chan struct{})}
	var listening sync.WaitGroup
	defer listening.Wait()
	defer cancel()
	for _, tap := range taps {
		fd, err := openTap(tap, tag.id)
		if fault.Is(err, fault.NotFound) {
			continue // no such interface: its frames will be missing, which is the finding
		}
		if err != nil {
			return Result{}, err
		}
		listening.Go(func() {
			defer unix.Close(fd)
			c.listen(ctx, fd, tap)
		})
	}
	sent := time.Now()
	if err := send(from, to, tag); err != nil {
		return Result{}, err
	}
	select {
	case <-ctx.Done():
	case <-c.enough:
		linger := time.NewTimer(settle)
		defer linger.Stop()
		<-linger.C
	}
	cancel()
	listening.Wait()
	return c.result(from, sent), nil
}

// probeTag recognises one probe's packets.
type probeTag struct {
	id    uint16
	nonce [16]byte
}

func newTag() (probeTag, error) {
	var t probeTag
	if _, err := rand.Read(t.nonce[:]); err != nil {
		return t, fault.New(fault.Internal, "make a tag for the probe: %w", err)
	}
	t.id = binary.BigEndian.Uint16(t.nonce[:2])
	return t, nil
}

// collector gathers the frames of one probe from all taps.
type collector struct {
	tag    probeTag
	to     netip.Addr
	want   int // frames expected
	mu     sync.Mutex
	frames []Capture
	enough chan struct{}
}

// pollInterval bounds how long a listener sleeps before it looks at ctx.
const pollInterval = 20 // milliseconds

func (c *collector) listen(ctx context.Context, fd int, tap Tap) {
	buf := make([]byte, 2048)
	for ctx.Err() == nil {
		polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(polled, pollInterval); n == 0 || (err != nil && errors.Is(err, unix.EINTR)) {
			continue
		}
		n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return // the interface is gone: its frames are missing, which is the finding
		}
		if frame, ok := c.parse(buf[:n], tap); ok {
			c.add(Capture{Frame: frame, Time: time.Now(), Raw: append([]byte(nil), buf[:n]...)})
		}
	}
}

func (c *collector) add(frame Capture) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frames = append(c.frames, frame)
	if len(c.frames) == c.want {
		close(c.enough)
	}
}

// parse reads an Ethernet frame that carries this probe.
func (c *collector) parse(b []byte, tap Tap) (trace.Frame, bool) {
	const ethernet, ip, icmp = 14, 20, 8
	if len(b) < ethernet+ip+icmp+len(c.tag.nonce) || b[12] != 0x08 || b[13] != 0 || b[14] != 0x45 || b[23] != unix.IPPROTO_ICMP {
		return trace.Frame{}, false
	}
	if kind := b[34]; (kind != echoRequest && kind != echoReply) || binary.BigEndian.Uint16(b[38:]) != c.tag.id {
		return trace.Frame{}, false
	}
	if [16]byte(b[ethernet+ip+icmp:]) != c.tag.nonce {
		return trace.Frame{}, false
	}
	return trace.Frame{
		At: tap.At, Dev: tap.Dev,
		DstMAC: host.MAC(b[0:6]), SrcMAC: host.MAC(b[6:12]),
		Src: netip.AddrFrom4([4]byte(b[26:30])), Dst: netip.AddrFrom4([4]byte(b[30:34])),
		TTL: int(b[22]), Length: len(b), Reply: b[34] == echoReply,
	}, true
}

// result reads the reply where it arrived.
func (c *collector) result(from Sender, sent time.Time) Result {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := Result{Captures: c.frames}
	for _, frame := range c.frames {
		if frame.Reply && frame.At == from.At {
			r.RTT, r.ReplyTTL = frame.Time.Sub(sent), frame.TTL
		}
	}
	return r
}

// openTap opens a packet socket on the tap's interface that passes only ICMP
// packets with the probe's identifier.
func openTap(tap Tap, id uint16) (int, error) {
	fd := -1
	err := netns.Do(tap.Netns, func() error {
		index, err := interfaceIndex(tap.Dev)
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return fault.New(fault.Internal, "open packet socket: %w", err)
		}
		if err := attachFilter(fd, id); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: index})
	})
	if err != nil {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		return -1, fault.New(fault.KindOf(err), "listen on %s %s: %w", tap.At, tap.Dev, err)
	}
	return fd, nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }
