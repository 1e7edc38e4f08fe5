// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"encoding/binary"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// Sizes of one exchange. The kernel answers a message it refuses at once, and
// the answers to a whole send must fit the receive buffer.
const (
	maxSend       = 64 << 10 // bytes
	maxMessages   = 1024     // messages, at about 832 bytes of buffer per refusal
	receiveBuffer = 4 << 20  // bytes
	readSize      = 64 << 10 // bytes, more than the kernel puts into one read
)

// maxDumps bounds how often a dump that was interrupted by changes is
// repeated. Under the heaviest churn of addresses nearly every dump is.
const maxDumps = 20

// socket is one netlink socket for requests. It is used by one goroutine at a
// time.
type socket struct {
	fd  int
	seq uint32
	buf []byte
}

// reply is one message the kernel sent back that is no acknowledgement.
type reply struct {
	typ     uint16
	payload []byte // behind the netlink header; valid during the call it is handed to
}

// openSocket opens a netlink socket in the calling thread's namespace.
func openSocket(protocol int) (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, wrap("open netlink socket", err)
	}
	s := &socket{fd: fd, buf: make([]byte, readSize)}
	if err := s.configure(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *socket) configure() error {
	if err := unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return wrap("bind netlink socket", err)
	}
	for _, opt := range []int{unix.NETLINK_CAP_ACK, unix.NETLINK_EXT_ACK, unix.NETLINK_GET_STRICT_CHK} {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, opt, 1); err != nil {
			return wrap(fmt.Sprintf("set netlink option %d", opt), err)
		}
	}
	if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer); err != nil {
		return wrap("set netlink receive buffer", err)
	}
	// The kernel answers while it is asked; a read that waits is a defect
	// and must not hang the agent.
	guard := unix.Timeval{Sec: 10}
	return wrapNil("set netlink timeout", unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &guard))
}

func wrapNil(what string, err error) error {
	if err == nil {
		return nil
	}
	return wrap(what, err)
}

func (s *socket) close() { _ = unix.Close(s.fd) }

// send makes the kernel do all messages of b, in order and whatever happens to
// each, in as few sends as fit. errs has one error per message, nil where it
// was done; answer, if not nil, is called with what get requests bring. The
// last error is not nil only if the socket itself failed and is of no more
// use.
func (s *socket) send(ctx context.Context, b *batch, answer func(reply)) (errs []error, err error) {
	b.close()
	errs = make([]error, len(b.msgs))
	for from := 0; from < len(b.msgs); {
		if err := ctx.Err(); err != nil {
			fillErrors(errs[from:], fault.New(fault.Unavailable, "netlink: %w", err))
			return errs, nil
		}
		to := b.chunk(from)
		if err := s.sendChunk(b, from, to, errs, answer); err != nil {
			fillErrors(errs[from:], err)
			return errs, err
		}
		from = to
	}
	return errs, nil
}

// fillErrors sets err where no error is known yet.
func fillErrors(errs []error, err error) {
	for i := range errs {
		if errs[i] == nil {
			errs[i] = err
		}
	}
}

// chunk returns the end of the messages from on that are sent together.
func (b *batch) chunk(from int) int {
	to := from + 1
	for to < len(b.msgs) && to-from < maxMessages && b.msgs[to].end-b.msgs[from].start <= maxSend {
		to++
	}
	return to
}

// sendChunk sends messages [from, to) in one send. Only the last asks for an
// acknowledgement: the kernel works in order and reports refusals unasked.
func (s *socket) sendChunk(b *batch, from, to int, errs []error, answer func(reply)) error {
	first := s.seq + 1
	for i := from; i < to; i++ {
		s.seq++
		header := b.buf[b.msgs[i].start:]
		binary.NativeEndian.PutUint32(header[8:], s.seq)
		if i == to-1 {
			flags := binary.NativeEndian.Uint16(header[6:])
			binary.NativeEndian.PutUint16(header[6:], flags|unix.NLM_F_ACK)
		}
	}
	data := b.buf[b.msgs[from].start:b.msgs[to-1].end]
	if err := unix.Sendto(s.fd, data, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return wrap("send netlink messages", err)
	}
	for done := false; !done; {
		err := s.read(func(m netlinkMessage) {
			if m.seq < first || m.seq > s.seq {
				return
			}
			if m.typ != unix.NLMSG_ERROR {
				if answer != nil {
					answer(reply{m.typ, m.payload})
				}
				return
			}
			i := from + int(m.seq-first)
			if errno, note := m.errno(); errno != 0 {
				errs[i] = refusal(b.msgs[i].String(), errno, note)
			}
			done = done || m.seq == s.seq
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// netlinkMessage is one received message.
type netlinkMessage struct {
	typ, flags uint16
	seq        uint32
	payload    []byte
}

// errno is the error number and explanation in a message of type NLMSG_ERROR
// or NLMSG_DONE.
func (m netlinkMessage) errno() (syscall.Errno, string) {
	errno := syscall.Errno(-int32(number(m.payload)))
	if m.flags&unix.NLM_F_ACK_TLVS == 0 {
		return errno, ""
	}
	skip := 4
	if m.typ == unix.NLMSG_ERROR {
		skip += unix.SizeofNlMsghdr // the refused message's header; its body is left out (CAP_ACK)
	}
	if len(m.payload) < skip {
		return errno, ""
	}
	return errno, text(find(m.payload[skip:], unix.NLMSGERR_ATTR_MSG))
}

// read receives once and hands each message to f.
func (s *socket) read(f func(netlinkMessage)) error {
	for {
		n, _, err := unix.Recvfrom(s.fd, s.buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return wrap("receive netlink messages", err)
		}
		return split(s.buf[:n], f)
	}
}

// split hands each message in b to f.
func split(b []byte, f func(netlinkMessage)) error {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return fault.New(fault.Internal, "receive netlink messages: message of %d bytes in %d", size, len(b))
		}
		f(netlinkMessage{
			typ:     binary.NativeEndian.Uint16(b[4:]),
			flags:   binary.NativeEndian.Uint16(b[6:]),
			seq:     binary.NativeEndian.Uint32(b[8:]),
			payload: b[unix.SizeofNlMsghdr:size],
		})
		b = b[min(align(size), len(b)):]
	}
	return nil
}

// dump asks for everything the single message of b describes. begin is called
// before each try and each with every object: a dump during which something
// changed may be inconsistent and is repeated, a bounded number of times.
func (s *socket) dump(ctx context.Context, b *batch, begin func(), each func(reply)) error {
	b.close()
	what := b.msgs[0].what
	for range maxDumps {
		if err := ctx.Err(); err != nil {
			return fault.New(fault.Unavailable, "%s: %w", what, err)
		}
		begin()
		whole, err := s.dumpOnce(b, each)
		if err != nil {
			return err
		}
		if whole {
			return nil
		}
	}
	return fault.New(fault.Unavailable, "%s: interrupted by changes %d times", what, maxDumps)
}

// dumpOnce reports whether the dump was consistent.
func (s *socket) dumpOnce(b *batch, each func(reply)) (whole bool, err error) {
	s.seq++
	header := b.buf
	flags := binary.NativeEndian.Uint16(header[6:])
	binary.NativeEndian.PutUint16(header[6:], flags|unix.NLM_F_DUMP)
	binary.NativeEndian.PutUint32(header[8:], s.seq)
	if err := unix.Sendto(s.fd, b.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return false, wrap(b.msgs[0].what, err)
	}
	whole = true
	var refused error
	for done := false; !done; {
		err := s.read(func(m netlinkMessage) {
			if m.seq != s.seq {
				return
			}
			if m.flags&unix.NLM_F_DUMP_INTR != 0 {
				whole = false
			}
			if m.typ != unix.NLMSG_DONE && m.typ != unix.NLMSG_ERROR {
				each(reply{m.typ, m.payload})
				return
			}
			done = true
			switch errno, note := m.errno(); errno {
			case 0:
			case unix.EINTR:
				whole = false
			default:
				refused = refusal(b.msgs[0].what, errno, note)
			}
		})
		if err != nil {
			return false, err
		}
	}
	return whole, refused
}
