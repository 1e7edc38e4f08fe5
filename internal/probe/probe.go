// SPDX-License-Identifier: Apache-2.0

// Package probe proves a path: it sends one tagged ICMP echo request from a
// pod's namespace and captures it, and its reply, on every interface given.
// What the frames mean is package trace's business.
package probe

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"sync"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/trace"
)

// Tap is one interface to listen on.
type Tap struct {
	At  trace.Place `json:"at"`
	Dev string      `json:"dev"`
}

// Sender is where the probe starts.
type Sender struct {
	At   trace.Place `json:"at"`
	Addr netip.Addr  `json:"addr"`
}

// Site is where kernels can be asked, watched and made to send: this machine,
// or an agent's. Places it does not know have nothing.
type Site interface {
	trace.Oracle
	// Listen hands each frame of the probe that is seen on taps to each, one at
	// a time, until ctx ends. ready is called once all taps are open; one whose
	// interface does not exist stays silent.
	Listen(ctx context.Context, tag Tag, taps []Tap, ready func(), each func(Capture)) error
	// Send sends the probe and returns when that was, by the clock that also
	// stamps the captures of the same node. NotFound if there is nowhere to send
	// from.
	Send(ctx context.Context, from Sender, to netip.Addr, tag Tag) (time.Time, error)
}

// Capture is one captured frame with the time it was read.
type Capture struct {
	trace.Frame
	Time time.Time `json:"time"`
	Raw  []byte    `json:"raw"`
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
func Run(ctx context.Context, site Site, from Sender, to netip.Addr, taps []Tap, frames int) (Result, error) {
	tag, err := newTag()
	if err != nil {
		return Result{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &collector{want: frames, enough: make(chan struct{})}
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- site.Listen(ctx, tag, taps, func() { close(ready) }, c.add) }()
	select {
	case <-ready:
	case err := <-ended:
		if err == nil {
			err = fault.New(fault.Unavailable, "listen for the probe: %w", ctx.Err())
		}
		return Result{}, err
	}
	sent, err := site.Send(ctx, from, to, tag)
	if err != nil {
		cancel()
		<-ended
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
	if err := <-ended; err != nil {
		return Result{}, err
	}
	return c.result(from, sent), nil
}

// Tag recognises one probe's packets: the ICMP data begins with it, and its
// first two bytes are the identifier.
type Tag [16]byte

func newTag() (Tag, error) {
	var t Tag
	if _, err := rand.Read(t[:]); err != nil {
		return t, fault.New(fault.Internal, "make a tag for the probe: %w", err)
	}
	return t, nil
}

func (t Tag) id() uint16 { return binary.BigEndian.Uint16(t[:]) }

// MarshalText is the tag in hex.
func (t Tag) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, t[:]), nil }

// UnmarshalText reads what MarshalText wrote.
func (t *Tag) UnmarshalText(text []byte) error {
	raw, err := hex.DecodeString(string(text))
	if err != nil || len(raw) != len(t) {
		return fault.New(fault.Invalid, "tag: want %d hex digits", 2*len(t))
	}
	*t = Tag(raw)
	return nil
}

// collector gathers the frames of one probe from all taps.
type collector struct {
	want   int // frames expected
	mu     sync.Mutex
	frames []Capture
	enough chan struct{}
}

func (c *collector) add(frame Capture) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frames = append(c.frames, frame)
	if len(c.frames) == c.want {
		close(c.enough)
	}
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
