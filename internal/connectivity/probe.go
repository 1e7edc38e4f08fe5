// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// Limits of a probe.
const (
	tryTimeout   = 3 * time.Second // of a connection and its echo, or of one datagram
	udpTries     = 3               // nobody sends a lost datagram again
	maxEchoes    = 128             // connections at once
	echoIdle     = 30 * time.Second
	maxDatagram  = 64 << 10
	maxQuestion  = 4 << 10
	headerLength = 20 + 8 // of IPv4 and UDP
)

// Probe echoes what comes to EchoPort by TCP and UDP, and tries what it is
// asked to at ControlPort of the loopback address, until ctx ends.
func Probe(ctx context.Context) error {
	var config net.ListenConfig
	stream, err := config.Listen(ctx, "tcp4", fmt.Sprint(":", EchoPort))
	if err != nil {
		return fault.New(fault.Unavailable, "echo: %w", err)
	}
	defer stream.Close()
	datagrams, err := config.ListenPacket(ctx, "udp4", fmt.Sprint(":", EchoPort))
	if err != nil {
		return fault.New(fault.Unavailable, "echo: %w", err)
	}
	defer datagrams.Close()
	control, err := config.Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(ControlPort)))
	if err != nil {
		return fault.New(fault.Unavailable, "listen for questions: %w", err)
	}
	if err := neverFragment(datagrams.(*net.UDPConn)); err != nil {
		return fault.New(fault.Internal, "echo: %w", err)
	}
	server := &http.Server{Handler: questions(), ReadHeaderTimeout: tryTimeout, IdleTimeout: 10 * time.Minute}
	defer context.AfterFunc(ctx, func() { _ = errors.Join(server.Close(), stream.Close(), datagrams.Close()) })()
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { echoStreams(stream) })
	running.Go(func() { echoDatagrams(datagrams) })
	if err := server.Serve(control); !errors.Is(err, http.ErrServerClosed) {
		return fault.New(fault.Internal, "answer questions: %w", err)
	}
	return nil
}

// questions answers POST /v1/try, and GET /v1/self with Self.
func questions() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/self", func(w http.ResponseWriter, _ *http.Request) {
		api := net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
		_ = json.NewEncoder(w).Encode(Self{API: api}) // who hung up asks again
	})
	mux.HandleFunc("POST /v1/try", func(w http.ResponseWriter, r *http.Request) {
		var a Attempt
		if err := json.NewDecoder(io.LimitReader(r.Body, maxQuestion)).Decode(&a); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(Try(r.Context(), a)) // as above
	})
	return mux
}

// Self is what a probe knows of where it runs.
type Self struct {
	// API is where pods find the API server.
	API string `json:"api"`
}

// Try makes an attempt.
func Try(ctx context.Context, a Attempt) Answer {
	var answer Answer
	var err error
	begin := time.Now()
	switch a.Network {
	case "tcp":
		err = tryStream(ctx, a)
	case "udp":
		answer.MTU, err = tryDatagram(ctx, a)
	default:
		err = fault.New(fault.Invalid, "network %q: want tcp or udp", a.Network)
	}
	answer.Micros = time.Since(begin).Microseconds()
	if err != nil {
		answer.Error = err.Error()
	}
	return answer
}

func tryStream(ctx context.Context, a Attempt) error {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp4", a.Target)
	if err != nil {
		return brief(err)
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline) // of an open socket it cannot fail
	sent := pattern(a.Bytes)
	wrote := make(chan error, 1)
	go func() {
		_, err := conn.Write(sent)
		wrote <- err
	}()
	got := make([]byte, len(sent))
	n, err := io.ReadFull(conn, got)
	if err != nil {
		return fmt.Errorf("%d of %d bytes came back: %w", n, len(sent), brief(err))
	}
	if !bytes.Equal(sent, got) {
		return fault.New(fault.Internal, "what came back is not what was sent")
	}
	return <-wrote
}

// tryDatagram also returns the MTU of the device the datagram leaves by.
func tryDatagram(ctx context.Context, a Attempt) (mtu int, err error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "udp4", a.Target)
	if err != nil {
		return 0, brief(err)
	}
	defer conn.Close()
	if mtu, err = mtuOf(conn.LocalAddr()); err != nil {
		return 0, err
	}
	size := a.Bytes
	if a.Full {
		if err := neverFragment(conn.(*net.UDPConn)); err != nil {
			return mtu, err
		}
		size = mtu - headerLength
	}
	sent, got := pattern(size), make([]byte, maxDatagram)
	for range udpTries {
		if _, err = conn.Write(sent); err == nil {
			_ = conn.SetReadDeadline(time.Now().Add(tryTimeout / udpTries)) // as above
			var n int
			if n, err = conn.Read(got); err == nil && bytes.Equal(sent, got[:n]) {
				return mtu, nil
			}
		}
		if ctx.Err() != nil {
			break
		}
	}
	if err == nil {
		return mtu, fault.New(fault.Internal, "what came back is not what was sent")
	}
	what := fmt.Sprintf("a datagram of %d bytes", size)
	if a.Full {
		what = fmt.Sprintf("a packet of %d bytes, the MTU", mtu)
	}
	return mtu, fmt.Errorf("%s: %w", what, brief(err))
}

// neverFragment has packets sent whole or not at all (IP_PMTUDISC_PROBE: what
// the kernel learned of the path is not believed either).
func neverFragment(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("forbid fragments: %w", err)
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
	})
	if err := errors.Join(err, set); err != nil {
		return fmt.Errorf("forbid fragments: %w", err)
	}
	return nil
}

// mtuOf is the MTU of the device that has an address.
func mtuOf(local net.Addr) (int, error) {
	at, err := netip.ParseAddrPort(local.String())
	if err != nil {
		return 0, fault.New(fault.Internal, "own address %s: %w", local, err)
	}
	devices, err := net.Interfaces()
	if err != nil {
		return 0, fault.New(fault.Internal, "list devices: %w", err)
	}
	for _, device := range devices {
		addrs, err := device.Addrs()
		if err != nil {
			continue // it is gone
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == at.Addr() {
				return device.MTU, nil
			}
		}
	}
	return 0, fault.New(fault.NotFound, "no device has the address %s", at.Addr())
}

// brief is an error of the network without the addresses, which are known.
func brief(err error) error {
	var lookup *net.DNSError
	if errors.As(err, &lookup) {
		return fmt.Errorf("look up %s at %s: %s", lookup.Name, lookup.Server, lookup.Err)
	}
	var op *net.OpError
	switch {
	case errors.As(err, &op) && op.Timeout():
		return errors.New("no answer")
	case errors.As(err, &op):
		var number syscall.Errno
		if errors.As(op.Err, &number) {
			return number
		}
		return op.Err
	}
	return err
}

// pattern is n bytes of which no two parts are alike for long.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8)
	}
	return b
}

func echoStreams(l net.Listener) {
	slots := make(chan struct{}, maxEchoes)
	for {
		conn, err := l.Accept()
		if err != nil {
			return // it is closed
		}
		slots <- struct{}{}
		go func() {
			defer func() { _ = conn.Close(); <-slots }()
			_ = conn.SetDeadline(time.Now().Add(echoIdle)) // as above
			_, _ = io.Copy(conn, conn)                     // the other end sees what is missing
		}()
	}
}

func echoDatagrams(conn net.PacketConn) {
	b := make([]byte, maxDatagram)
	for {
		n, from, err := conn.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		at, ok := from.(*net.UDPAddr)
		if err != nil || !ok || at.Port == EchoPort { // two echoes would never end
			continue
		}
		_, _ = conn.WriteTo(b[:n], from) // the other end sees what is missing
	}
}
