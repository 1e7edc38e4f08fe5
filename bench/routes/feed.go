// SPDX-License-Identifier: Apache-2.0

package routes

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/kernel"
	"github.com/ocicat-net/ocicat/internal/netns"
)

// as is the AS of the lab's nodes.
const as = 64512

// fed tells whoever speaks BGP on the node the prefixes in one session and
// waits until all are in its kernel; then it ends the session and waits until
// they are gone.
func (b *bench) fed(ctx context.Context, prefixes []netip.Prefix) (took time.Duration, err error) {
	base, err := b.count()
	if err != nil {
		return 0, err
	}
	session, err := b.dial(ctx)
	if err != nil {
		return 0, err
	}
	defer session.Close()
	updates, err := announce(prefixes)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if _, err := updates.WriteTo(session); err != nil {
		return 0, err
	}
	if err := b.await(ctx, base+len(prefixes)); err != nil {
		return 0, err
	}
	took = time.Since(began)
	_ = session.Close()
	return took, b.await(ctx, base)
}

// displace makes the node forget what the peer's agent announced before the
// feeder took its place: a session without graceful restart.
func (b *bench) displace(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	session, err := b.dial(ctx)
	if err != nil {
		return err
	}
	defer session.Close()
	for {
		left, err := b.kernel.Routes(ctx, kernel.Filter{Proto: host.ProtoBird, Dev: device})
		if err != nil || len(left) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the node keeps routes of an earlier session: %v", left)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// announce is all prefixes as UPDATEs, and End-of-RIB.
func announce(prefixes []netip.Prefix) (net.Buffers, error) {
	attrs, err := message.AppendAttrs(nil, &message.Attrs{
		NextHop: netip.MustParseAddr(peerAddr), LocalPref: 100, HasLocalPref: true,
	}, message.Options{AS4: true, Internal: true})
	if err != nil {
		return nil, err
	}
	return append(message.PackAnnounced(string(attrs), prefixes), message.PackEndOfRIB()), nil
}

// dial opens a session as the peer. The node may not listen yet, or have
// another connection of the peer to forget.
func (b *bench) dial(ctx context.Context) (net.Conn, error) {
	for {
		c, err := b.handshake(ctx)
		if err == nil {
			return c, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("open session: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (b *bench) handshake(ctx context.Context) (c net.Conn, err error) {
	err = netns.Do(b.there, func() (err error) {
		d := net.Dialer{Timeout: time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(peerAddr), 0))}
		c, err = d.DialContext(ctx, "tcp4", net.JoinHostPort(nodeAddr, "179"))
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := greet(c); err != nil {
		_ = c.Close()
		return nil, err
	}
	go func() { _, _ = io.Copy(io.Discard, c) }() // until it is closed
	return c, nil
}

// greet says OPEN and KEEPALIVE and waits for the node's. The hold time of 0
// asks for no further keepalives.
func greet(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	for _, m := range []message.Message{
		&message.Open{AS: as, RouterID: netip.MustParseAddr(peerAddr), Capabilities: message.Capabilities{
			Families: []message.Family{message.IPv4Unicast}, AS4: true,
		}},
		&message.Keepalive{},
	} {
		wire, err := message.Append(nil, m, message.Options{})
		if err != nil {
			return err
		}
		if _, err := c.Write(wire); err != nil {
			return err
		}
	}
	for _, want := range []message.Type{message.TypeOpen, message.TypeKeepalive} {
		header := make([]byte, message.HeaderLen)
		if _, err := io.ReadFull(c, header); err != nil {
			return err
		}
		typ, length, err := message.ReadHeader(header)
		if err != nil || typ != want {
			return fmt.Errorf("node says %v, want %v: %w", typ, want, err)
		}
		if _, err := io.CopyN(io.Discard, c, int64(length-message.HeaderLen)); err != nil {
			return err
		}
	}
	return c.SetDeadline(time.Time{})
}

// await waits until the node's kernel has count prefixes.
func (b *bench) await(ctx context.Context, count int) error {
	for {
		n, err := b.count()
		if err != nil || n == count {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d prefixes in the kernel, want %d", n, count)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// count is how many prefixes the kernel's main table holds: the kernel's own
// count, because a dump of all would be work for it.
func (b *bench) count() (n int, err error) {
	err = netns.Do(b.here, func() error {
		f, err := os.Open("/proc/thread-self/net/fib_triestat")
		if err != nil {
			return err
		}
		defer f.Close()
		main := false
		for lines := bufio.NewScanner(f); lines.Scan(); {
			line := strings.TrimSpace(lines.Text())
			if strings.HasSuffix(line, ":") {
				main = line == "Main:"
			}
			if text, found := strings.CutPrefix(line, "Prefixes:"); found && main {
				n, err = strconv.Atoi(strings.TrimSpace(text))
				return err
			}
		}
		return fmt.Errorf("read %s: no count of prefixes", f.Name())
	})
	return n, err
}

// birdConf is a BIRD that puts what it learns into the kernel.
const birdConf = `router id ` + nodeAddr + `;
protocol device { scan time 10; }
protocol kernel { ipv4 { import none; export where source = RTS_BGP; }; }
protocol bgp feeder {
	local ` + nodeAddr + ` as 64512;
	neighbor ` + peerAddr + ` as 64512;
	direct;
	passive;
	error wait time 1, 1;
	graceful restart off;
	ipv4 { import all; export none; };
}
`

// startBIRD runs BIRD on the node until stop is called.
func (b *bench) startBIRD(ctx context.Context) (stop func(), err error) {
	conf := filepath.Join(b.dir, "bird.conf")
	if err := os.WriteFile(conf, []byte(birdConf), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "bird", "-f", "-c", conf, "-s", filepath.Join(b.dir, "bird.ctl"), "-P", filepath.Join(b.dir, "bird.pid"))
	if err := netns.Do(b.here, cmd.Start); err != nil {
		return nil, fmt.Errorf("start bird: %w", err)
	}
	return func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }, nil
}
