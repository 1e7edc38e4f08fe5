// SPDX-License-Identifier: Apache-2.0

// Package seat lets one process at a time work on a network namespace as its
// agent: an agent while it runs, or who removes what an agent left.
package seat

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// name is an abstract socket: it belongs to the network namespace, which is
// what two agents must not share, whatever directories they were given. The
// kernel takes it back from a process that ends in any way.
const name = "@ocicatd"

// Seat is the place of a network namespace's agent.
type Seat struct{ socket *net.UnixListener } // nil where it could not be had

// Take makes this process the only one in the seat of the calling thread's
// network namespace until it leaves it. Another one is Conflict, named by its
// process id. A process that is not root's cannot keep the agent out with that
// name.
func Take(log *slog.Logger) (*Seat, error) {
	addr := &net.UnixAddr{Name: name, Net: "unix"}
	socket, err := net.ListenUnix("unix", addr)
	if err == nil {
		return &Seat{socket}, nil
	}
	if !errors.Is(err, unix.EADDRINUSE) {
		return nil, fault.New(fault.Internal, "claim the network namespace: %w", err)
	}
	holder, err := holderOf(addr)
	if err == nil && holder.Uid != 0 {
		log.Warn("a process that is not root's has the agent's name: nothing keeps a second agent out", "process", holder.Pid, "user", holder.Uid)
		return &Seat{}, nil
	}
	who := "unknown"
	if err == nil && holder.Pid > 0 {
		who = fmt.Sprint(holder.Pid)
	}
	return nil, fault.Hint(fault.New(fault.Conflict, "another ocicatd on this node, process %s, has its network namespace", who), "Stop the other one first.")
}

// holderOf is who listens at addr.
func holderOf(addr *net.UnixAddr) (*unix.Ucred, error) {
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

// Leave lets another one in.
func (s *Seat) Leave() {
	if s.socket != nil {
		_ = s.socket.Close() // a socket in memory
	}
}
