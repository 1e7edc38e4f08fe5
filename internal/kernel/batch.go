// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/host"
)

// batch is a list of netlink messages that are sent together. Each message
// keeps what it attempts, in the words an error about it starts with.
type batch struct {
	buf  []byte
	msgs []message
}

type message struct {
	start, end int // its bytes in batch.buf
	what       string
	route      host.RouteKey // what is done to a route; else zero
}

// String is what the message attempts. The key of a route is put into words
// only here: most of 100,000 messages are never spoken of.
func (m message) String() string {
	if m.route.Dst.IsValid() {
		return m.what + " " + RouteKey(m.route)
	}
	return m.what
}

// routeSize is about what the message of a route takes, in bytes.
const routeSize = 64

// roomyBatch is a batch with room for n messages of routes.
func roomyBatch(n int) batch {
	return batch{buf: make([]byte, 0, n*routeSize), msgs: make([]message, 0, n)}
}

// add starts a message of the given type; what follows until the next add
// belongs to it. The header is the family's fixed part, attributes follow.
func (b *batch) add(typ, flags uint16, what string, header []byte) {
	b.close()
	b.msgs = append(b.msgs, message{start: len(b.buf), what: what})
	b.buf = binary.NativeEndian.AppendUint32(b.buf, 0) // length, set by close
	b.buf = binary.NativeEndian.AppendUint16(b.buf, typ)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, flags|unix.NLM_F_REQUEST)
	b.buf = append(b.buf, 0, 0, 0, 0, 0, 0, 0, 0) // sequence, set when sent; port
	b.buf = append(b.buf, header...)
}

// close ends the last message.
func (b *batch) close() {
	if len(b.msgs) == 0 {
		return
	}
	last := &b.msgs[len(b.msgs)-1]
	last.end = len(b.buf)
	binary.NativeEndian.PutUint32(b.buf[last.start:], uint32(last.end-last.start))
}

// bytes adds an attribute of the current message.
func (b *batch) bytes(typ uint16, value []byte) {
	b.buf = binary.NativeEndian.AppendUint16(b.buf, uint16(unix.SizeofNlAttr+len(value)))
	b.buf = binary.NativeEndian.AppendUint16(b.buf, typ)
	b.buf = append(b.buf, value...)
	for len(b.buf)%unix.NLMSG_ALIGNTO != 0 {
		b.buf = append(b.buf, 0)
	}
}

func (b *batch) u32(typ uint16, value uint32) {
	var raw [4]byte
	binary.NativeEndian.PutUint32(raw[:], value)
	b.bytes(typ, raw[:])
}

// ip4 adds an IPv4 address.
func (b *batch) ip4(typ uint16, a netip.Addr) {
	raw := a.As4()
	b.bytes(typ, raw[:])
}

func (b *batch) u64(typ uint16, value uint64) {
	b.bytes(typ, binary.NativeEndian.AppendUint64(nil, value))
}

// str adds a string with the terminating zero the kernel expects of names.
func (b *batch) str(typ uint16, value string) { b.bytes(typ, append([]byte(value), 0)) }

// mac adds a hardware address unless it is zero.
func (b *batch) mac(typ uint16, m host.MAC) {
	if m != (host.MAC{}) {
		b.bytes(typ, m[:])
	}
}

// nest adds an attribute whose value is what fill adds.
func (b *batch) nest(typ uint16, fill func()) {
	start := len(b.buf)
	b.bytes(typ|unix.NLA_F_NESTED, nil)
	fill()
	binary.NativeEndian.PutUint16(b.buf[start:], uint16(len(b.buf)-start))
}

// raw adds bytes that are no attribute of their own, like the header inside
// VETH_INFO_PEER.
func (b *batch) raw(value []byte) { b.buf = append(b.buf, value...) }

// ifinfo is struct ifinfomsg: a link by index, and flags of it to change.
func ifinfo(index int, flags, change uint32) []byte {
	h := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(h[4:], uint32(index))
	binary.NativeEndian.PutUint32(h[8:], flags)
	binary.NativeEndian.PutUint32(h[12:], change)
	return h
}

// ifaddr is struct ifaddrmsg for IPv4.
func ifaddr(index, bits int, scope host.Scope) []byte {
	h := make([]byte, unix.SizeofIfAddrmsg)
	h[0], h[1], h[3] = unix.AF_INET, uint8(bits), uint8(scope)
	binary.NativeEndian.PutUint32(h[4:], uint32(index))
	return h
}

// ndmsg is struct ndmsg for IPv4.
func ndmsg(index int, state uint16) []byte {
	h := make([]byte, unix.SizeofNdMsg)
	h[0] = unix.AF_INET
	binary.NativeEndian.PutUint32(h[4:], uint32(index))
	binary.NativeEndian.PutUint16(h[8:], state)
	return h
}
