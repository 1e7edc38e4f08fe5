// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
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

// Listen watches taps of places of this machine; see Site.
func (k *Kernels) Listen(ctx context.Context, tag Tag, taps []Tap, ready func(), each func(Capture)) error {
	var (
		listening sync.WaitGroup
		one       sync.Mutex
	)
	ctx, cancel := context.WithCancel(ctx)
	defer listening.Wait()
	defer cancel()
	for _, tap := range taps {
		place := k.places[tap.At]
		if place == nil {
			continue
		}
		fd, err := openTap(tap, place.ns, tag)
		if fault.Is(err, fault.NotFound) {
			continue // no such interface: its frames will be missing, which is the finding
		}
		if err != nil {
			return err
		}
		listening.Go(func() {
			defer unix.Close(fd)
			listen(ctx, fd, tap, tag, func(c Capture) {
				one.Lock()
				defer one.Unlock()
				each(c)
			})
		})
	}
	ready()
	<-ctx.Done()
	return nil
}

// pollInterval bounds how long a listener sleeps before it looks at ctx.
const pollInterval = 20 // milliseconds

func listen(ctx context.Context, fd int, tap Tap, tag Tag, each func(Capture)) {
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
		if frame, ok := parse(buf[:n], tap, tag); ok {
			each(Capture{Frame: frame, Time: time.Now(), Raw: append([]byte(nil), buf[:n]...)})
		}
	}
}

// parse reads an Ethernet frame that carries this probe.
func parse(b []byte, tap Tap, tag Tag) (trace.Frame, bool) {
	const ethernet, ip, icmp = 14, 20, 8
	if len(b) < ethernet+ip+icmp+len(tag) || b[12] != 0x08 || b[13] != 0 || b[14] != 0x45 || b[23] != unix.IPPROTO_ICMP {
		return trace.Frame{}, false
	}
	if kind := b[34]; kind != echoRequest && kind != echoReply {
		return trace.Frame{}, false
	}
	if Tag(b[ethernet+ip+icmp:]) != tag {
		return trace.Frame{}, false
	}
	return trace.Frame{
		At: tap.At, Dev: tap.Dev,
		DstMAC: host.MAC(b[0:6]), SrcMAC: host.MAC(b[6:12]),
		Src: netip.AddrFrom4([4]byte(b[26:30])), Dst: netip.AddrFrom4([4]byte(b[30:34])),
		TTL: int(b[22]), Length: len(b), Reply: b[34] == echoReply,
	}, true
}

// openTap opens a packet socket on the tap's interface that passes only ICMP
// packets with the beginning of the probe's tag.
func openTap(tap Tap, ns *os.File, tag Tag) (int, error) {
	fd := -1
	err := netns.Do(ns, func() error {
		index, err := interfaceIndex(tap.Dev)
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return fault.New(fault.Internal, "open packet socket: %w", err)
		}
		if err := attachFilter(fd, tag); err != nil {
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
