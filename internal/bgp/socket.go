// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

const (
	// dialTimeout covers a SYN and two of its repetitions (after 1 s and 3 s).
	dialTimeout = 5 * time.Second

	// maxPassword is the kernel's limit for a TCP MD5 key in bytes
	// (TCP_MD5SIG_MAXKEYLEN).
	maxPassword = 80

	// tosControl is class selector 6, for routing protocols (RFC 4271
	// appendix E says "precedence").
	tosControl = 0xc0
)

// checkPassword refuses keys that the kernel would.
func checkPassword(password string) error {
	if len(password) > maxPassword {
		return fault.Hint(
			fault.New(fault.Invalid, "MD5 password has %d bytes, the kernel takes %d", len(password), maxPassword),
			"Shorten the password on both ends.")
	}
	return nil
}

// setMD5 makes the socket fd sign and check segments to and from addr with
// password (RFC 2385); "" takes the key away.
func setMD5(fd int, addr netip.Addr, password string) error {
	if err := checkPassword(password); err != nil {
		return err
	}
	sig := unix.TCPMD5Sig{Keylen: uint16(len(password))}
	copy(sig.Key[:], password)
	sig.Addr.Family = unix.AF_INET
	ip := addr.As4()
	copy(sig.Addr.Data[2:], ip[:]) // sockaddr_in: two bytes of port come first
	err := unix.SetsockoptTCPMD5Sig(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG, &sig)
	if password == "" && errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set TCP MD5 key for %v: %w", addr, err)
	}
	return nil
}

// setPriority marks the socket's packets as routing protocol. A network may
// ignore that, so may we if it fails.
func setPriority(fd int) { _ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, tosControl) }

// onSocket is a net.ListenConfig or net.Dialer Control that runs set on the
// new socket.
func onSocket(set func(fd int) error) func(_, _ string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error { return control(c, set) }
}

func control(c syscall.RawConn, set func(fd int) error) error {
	var inner error
	if err := c.Control(func(fd uintptr) { inner = set(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// dial connects to the peer from its local address.
func dial(ctx context.Context, p speaker.Peer) (*net.TCPConn, error) {
	d := net.Dialer{
		Timeout:   dialTimeout,
		KeepAlive: -1, // BGP has its own
		Control: onSocket(func(fd int) error {
			setPriority(fd)
			if p.Password == "" {
				return nil
			}
			return setMD5(fd, p.Addr, p.Password)
		}),
	}
	if p.LocalAddr.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(p.LocalAddr, 0))
	}
	c, err := d.DialContext(ctx, "tcp4", target(p).String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// target is where the peer listens.
func target(p speaker.Peer) netip.AddrPort {
	port := p.Port
	if port == 0 {
		port = speaker.DefaultPort
	}
	return netip.AddrPortFrom(p.Addr, port)
}

// dialTrouble puts a failed dial into words: a reason that is the same for the
// same cause, and what else to look at.
func dialTrouble(p speaker.Peer, err error) (reason, hint string) {
	at := target(p)
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return fmt.Sprintf("connection refused by %v", at), ""
	case errors.Is(err, unix.EHOSTUNREACH):
		return fmt.Sprintf("no route to host %v", p.Addr), ""
	case errors.Is(err, unix.ENETUNREACH):
		return fmt.Sprintf("no route to the network of %v", p.Addr), ""
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Sprintf("local address %v is not on this host", p.LocalAddr), ""
	case isTimeout(err) && p.Password != "":
		return fmt.Sprintf("SYN to %v timed out", at), "as with an MD5 password that differs, or that only one end has"
	case isTimeout(err):
		return fmt.Sprintf("SYN to %v timed out", at), ""
	}
	return fmt.Sprintf("connect to %v: %v", at, rootCause(err)), ""
}

func isTimeout(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, unix.ETIMEDOUT)
}

// lossTrouble puts the end of a connection into words.
func lossTrouble(err error) string {
	switch {
	case errors.Is(err, unix.ECONNRESET):
		return "peer reset the TCP connection"
	case errors.Is(err, unix.EPIPE):
		return "peer closed the TCP connection"
	case isTimeout(err):
		return "peer took no data for the hold time"
	case errors.Is(err, errPeerClosed):
		return err.Error()
	}
	return "TCP connection lost: " + rootCause(err).Error()
}

// rootCause is err without the addresses package net wraps around it.
func rootCause(err error) error {
	for {
		var op *net.OpError
		var sys *os.SyscallError
		switch {
		case errors.As(err, &op):
			err = op.Err
		case errors.As(err, &sys):
			err = sys.Err
		default:
			return err
		}
	}
}
