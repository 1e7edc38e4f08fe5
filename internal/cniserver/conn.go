// SPDX-License-Identifier: Apache-2.0

package cniserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
)

// Reasons why nobody waits for an answer any more.
var (
	errGone = errors.New("plugin is gone")
	errLate = fmt.Errorf("%w: its deadline passed", errGone)
)

// read takes one request and the descriptor that came with it, if any, off a
// connection of a root process.
func read(conn *net.UnixConn) (cniwire.Request, *os.File, error) {
	if err := checkPeer(conn); err != nil {
		return cniwire.Request{}, nil, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(readTimeout)); err != nil {
		return cniwire.Request{}, nil, fmt.Errorf("%w: %w", errGone, err)
	}
	frame, files, err := readFrame(conn)
	if len(files) > 1 || err != nil && len(files) > 0 {
		for _, f := range files {
			f.Close()
		}
		files = nil
		if err == nil {
			err = fault.New(fault.Invalid, "request carries more than one file descriptor")
		}
	}
	if err != nil {
		return cniwire.Request{}, nil, err
	}
	var netns *os.File
	if len(files) == 1 {
		netns = files[0]
	}
	req, err := cniwire.DecodeRequest(frame)
	if err == nil {
		err = conn.SetReadDeadline(time.Time{})
	}
	return req, netns, err
}

// checkPeer refuses every process that does not run as root: the socket's
// mode already does, unless somebody opened it up.
func checkPeer(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("%w: %w", errGone, err)
	}
	var cred *unix.Ucred
	ctlErr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(ctlErr, err); err != nil {
		return fault.New(fault.Internal, "read the plugin's credentials: %w", err)
	}
	if cred.Uid != 0 {
		return fault.Hint(fault.New(fault.Invalid, "process %d of user %d may not use this socket", cred.Pid, cred.Uid),
			"The CNI plugin must run as root.")
	}
	return nil
}

// readFrame reads exactly one frame; files are all descriptors that came, the
// caller's to close also after an error.
func readFrame(conn *net.UnixConn) (frame []byte, files []*os.File, err error) {
	buf := make([]byte, 0, 4096)
	oob := make([]byte, unix.CmsgSpace(4))
	for {
		need, err := cniwire.Need(buf)
		if err != nil {
			return nil, files, err
		}
		if len(buf) >= need {
			break
		}
		if cap(buf) < need {
			buf = append(make([]byte, 0, need), buf...)
		}
		n, oobn, flags, _, err := conn.ReadMsgUnix(buf[len(buf):cap(buf)], oob)
		files = append(files, takeFiles(oob[:oobn])...)
		if err == nil && n == 0 {
			err = errors.New("closed before its request was whole")
		}
		if err != nil {
			return nil, files, fmt.Errorf("%w: %w", errGone, err)
		}
		if flags&unix.MSG_CTRUNC != 0 || len(files) > 1 {
			return nil, files, fault.New(fault.Invalid, "request carries more than one file descriptor")
		}
		buf = buf[:len(buf)+n]
	}
	return buf, files, nil
}

// takeFiles makes files of the descriptors in a control message. What is no
// SCM_RIGHTS carries none.
func takeFiles(oob []byte) []*os.File {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var files []*os.File
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "netns"))
		}
	}
	return files
}

// watch ends the request when its connection does. A plugin sends nothing
// after its request: a byte more is as good as a close.
func watch(conn *net.UnixConn, gone context.CancelCauseFunc) {
	_, err := conn.Read(make([]byte, 1))
	if err == nil {
		err = errors.New("it sent more than its request")
	}
	gone(fmt.Errorf("%w: %w", errGone, err))
}

func write(conn *net.UnixConn, answer cniwire.Answer) error {
	frame, err := answer.Encode()
	if err != nil {
		return err
	}
	if err := conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err = conn.Write(frame)
	return err
}

// crashed turns a panic of the handler into the request's answer.
func (s *Server) crashed(req cniwire.Request, p any) error {
	s.log.Error("request crashed", "verb", req.Verb(), "id", req.ID(), "panic", p, "stack", string(debug.Stack()))
	return fault.Hint(fault.New(fault.Internal, "the agent crashed serving %s of %s: %v", req.Verb(), req.ID(), p),
		"This is a defect of Ocicat: its log has the stack.")
}
