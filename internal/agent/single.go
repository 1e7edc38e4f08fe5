// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// seatName is an abstract socket: it belongs to the network namespace, which
// is what two agents must not share, whatever directories they were given. The
// kernel takes it back from a process that ends in any way.
const seatName = "@ocicatd"

// takeSeat makes this the only agent of its network namespace until what it
// returns is closed. Another one is Conflict, named by its process id. A
// process that is not root's cannot keep the agent out with that name.
func takeSeat(log *slog.Logger) (*net.UnixListener, error) {
	addr := &net.UnixAddr{Name: seatName, Net: "unix"}
	seat, err := net.ListenUnix("unix", addr)
	if err == nil {
		return seat, nil
	}
	if !errors.Is(err, unix.EADDRINUSE) {
		return nil, fault.New(fault.Internal, "claim the network namespace: %w", err)
	}
	holder, err := seatHolder(addr)
	if err == nil && holder.Uid != 0 {
		log.Warn("a process that is not root's has the agent's name: nothing keeps a second agent out", "process", holder.Pid, "user", holder.Uid)
		return nil, nil
	}
	who := "unknown"
	if err == nil && holder.Pid > 0 {
		who = fmt.Sprint(holder.Pid)
	}
	return nil, fault.Hint(fault.New(fault.Conflict, "another ocicatd on this node, process %s, has its network namespace", who), "Stop the other one first.")
}

// seatHolder is who listens at addr.
func seatHolder(addr *net.UnixAddr) (*unix.Ucred, error) {
	conn, err := net.DialTimeout("unix", addr.Name, time.Second)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	ctlErr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return cred, errors.Join(ctlErr, err)
}

// leaveSeat lets another agent in.
func leaveSeat(seat *net.UnixListener) {
	if seat != nil {
		_ = seat.Close() // a socket in memory
	}
}
