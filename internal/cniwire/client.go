// SPDX-License-Identifier: Apache-2.0

package cniwire

import (
	"cmp"
	"errors"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// MaxSocketPath is the longest path of a unix socket, in bytes (sun_path less
// its NUL).
const MaxSocketPath = 107

// Client asks one agent. It keeps no connection: every call makes its own.
type Client struct {
	// Path is the agent's socket.
	Path string
	// Timeout bounds a whole call. An agent that does not answer by then
	// counts as hung and drops the request itself.
	Timeout time.Duration
}

// Add attaches. Errors are the agent's own, or Unavailable when it did not
// answer.
func (c Client) Add(req AddRequest) (AddResult, error) {
	a, err := c.ask(Request{Add: &req})
	if err != nil {
		return AddResult{}, err
	}
	if a.Add == nil {
		return AddResult{}, fault.New(fault.Internal, "answer of the agent: holds no result")
	}
	return *a.Add, nil
}

// Del detaches; errors as for Add.
func (c Client) Del(req DelRequest) error {
	_, err := c.ask(Request{Del: &req})
	return err
}

// Check asks whether the attachment still is as Add made it; errors as for
// Add.
func (c Client) Check(req CheckRequest) error {
	_, err := c.ask(Request{Check: &req})
	return err
}

// GC detaches what the request does not list; errors as for Add.
func (c Client) GC(req GCRequest) error {
	_, err := c.ask(Request{GC: &req})
	return err
}

// Status asks whether an Add would succeed; errors as for Add.
func (c Client) Status(req StatusRequest) error {
	_, err := c.ask(Request{Status: &req})
	return err
}

func (c Client) ask(req Request) (Answer, error) {
	req.V = Version
	req.Deadline = Now() + c.Timeout.Nanoseconds()
	frame, err := req.Encode()
	if err != nil {
		return Answer{}, err
	}
	conn, err := dial(c.Path, req.Deadline)
	if err != nil {
		return Answer{}, c.explain(err)
	}
	defer conn.close()
	var netns *os.File
	if place, _ := req.NetNS(); place != nil {
		netns = *place
	}
	// A server that refuses a request may answer and close before it has read
	// it: the answer says more than the failed send.
	sendErr := conn.send(frame, netns)
	if sendErr != nil && !errors.Is(sendErr, unix.EPIPE) {
		return Answer{}, c.explain(sendErr)
	}
	frame, err = conn.receive()
	if err != nil {
		return Answer{}, c.explain(cmp.Or(sendErr, err))
	}
	a, err := DecodeAnswer(frame)
	if err == nil && a.Error != nil {
		err = a.Error.Err()
	}
	return a, err
}

// explain turns a socket's error into one for a person.
func (c Client) explain(err error) error {
	switch {
	case fault.KindOf(err) != fault.Internal:
		return err
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINPROGRESS):
		return fault.Hint(fault.New(fault.Unavailable, "agent does not answer: no answer on %s within %s", c.Path, c.Timeout),
			"The request is dropped and may be tried again. See the agent's log; restart ocicatd if it hangs.")
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED):
		return fault.Hint(fault.New(fault.Unavailable, "agent not running on this node: connect %s: %w", c.Path, err),
			"Start ocicatd on this node; the runtime tries again by itself.")
	case errors.Is(err, errClosed) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET):
		return fault.Hint(fault.New(fault.Unavailable, "agent went away before it answered on %s", c.Path),
			"The agent restarted or refused this process; see its log. The runtime tries again by itself.")
	}
	return fault.Hint(fault.New(fault.Unavailable, "ask the agent on %s: %w", c.Path, err),
		"Check that the configuration's \"socket\" is the agent's CNI socket.")
}

// errClosed says that the agent closed the connection without an answer.
var errClosed = errors.New("connection closed")

// conn is a blocking unix stream socket whose every call ends at deadline.
// Package net would double the plugin's start-up time.
type conn struct {
	fd       int
	deadline int64
}

func dial(path string, deadline int64) (*conn, error) {
	if len(path) > MaxSocketPath {
		return nil, fault.New(fault.Invalid, "socket path %q has %d bytes, at most %d are possible", Short(path), len(path), MaxSocketPath)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	c := &conn{fd, deadline}
	err = c.bounded(unix.SO_SNDTIMEO, func() error { return unix.Connect(fd, &unix.SockaddrUnix{Name: path}) })
	if err != nil && !errors.Is(err, unix.EISCONN) {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *conn) close() {
	// Nothing depends on it: the process is about to end.
	_ = unix.Close(c.fd)
}

// send writes frame, with netns attached to its first byte unless nil.
func (c *conn) send(frame []byte, netns *os.File) error {
	var rights []byte
	if netns != nil {
		rights = unix.UnixRights(int(netns.Fd()))
	}
	for len(frame) > 0 {
		err := c.bounded(unix.SO_SNDTIMEO, func() error {
			n, err := unix.SendmsgN(c.fd, frame, rights, nil, unix.MSG_NOSIGNAL)
			if n > 0 {
				frame, rights = frame[n:], nil
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	runtime.KeepAlive(netns)
	return nil
}

// receive reads one frame.
func (c *conn) receive() ([]byte, error) {
	buf := make([]byte, 0, 4096)
	for {
		need, err := Need(buf)
		if err != nil {
			return nil, fault.New(fault.Internal, "answer of the agent: %v", err)
		}
		if len(buf) >= need {
			return buf[:need], nil
		}
		if cap(buf) < need {
			buf = append(make([]byte, 0, need), buf...)
		}
		err = c.bounded(unix.SO_RCVTIMEO, func() error {
			n, err := unix.Read(c.fd, buf[len(buf):cap(buf)])
			if err == nil && n == 0 {
				return errClosed
			}
			buf = buf[:len(buf)+max(n, 0)]
			return err
		})
		if err != nil {
			return nil, err
		}
	}
}

// bounded runs call with the socket's time limit (SO_SNDTIMEO or SO_RCVTIMEO)
// set to what is left, again when a signal interrupted it. EAGAIN says that
// the time is over.
func (c *conn) bounded(limit int, call func() error) error {
	for {
		left := c.deadline - Now()
		if left <= 0 {
			return unix.EAGAIN
		}
		tv := unix.NsecToTimeval(max(left, int64(time.Microsecond)))
		if err := unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, limit, &tv); err != nil {
			return err
		}
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
