// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDataInFlightIsLimited: the kernel gives up a connection whose data stays
// unacknowledged, without gRPC's help.
func TestDataInFlightIsLimited(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	made, err := dialer().DialContext(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer made.Close()
	raw, err := made.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var ms int
	var inner error
	if err := raw.Control(func(fd uintptr) { ms, inner = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) }); err != nil || inner != nil {
		t.Fatal(err, inner)
	}
	if want := int(pingTimeout.Milliseconds()); ms != want {
		t.Errorf("limit of data in flight %d ms, want %d", ms, want)
	}
}
