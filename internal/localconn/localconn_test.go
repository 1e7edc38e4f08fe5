// SPDX-License-Identifier: Apache-2.0

package localconn_test

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/localconn"
)

// TestGone: connections from an address that is gone end, others go on.
func TestGone(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			if _, err := listener.Accept(); err != nil {
				return
			}
		}
	}()
	var conns localconn.Conns
	dial := func(local string) net.Conn {
		d := &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(local), 0))}
		conn, err := conns.Dial(t.Context(), d, "tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	going, staying, closed := dial("127.0.0.2"), dial("127.0.0.3"), dial("127.0.0.2")
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := going.Read(make([]byte, 1)) // as who waits for an answer does
		ended <- err
	}()
	conns.Gone(netip.MustParseAddr("127.0.0.2"))
	select {
	case err := <-ended:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("the read of an address that is gone ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the connection from the address that is gone is open")
	}
	if _, err := staying.Write([]byte("x")); err != nil {
		t.Errorf("another connection: %v", err)
	}
}
