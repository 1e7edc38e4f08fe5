// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/bgp/session"
	"github.com/ocicat-net/ocicat/internal/bgp/table"
)

const (
	lingerFor    = time.Second     // what a last NOTIFICATION gets to leave
	writeHold    = 8 * time.Minute // what a write may take without a hold timer (RFC 9687)
	readBuffer   = 16 << 10        // bytes
	writeChunk   = 32 << 10        // bytes of routes written in one go, so that keepalives get their turn
	controlQueue = 16              // messages of the state machine that wait for the socket
	frameQueue   = 16              // messages read ahead of the state machine
)

// maxLag is how many bytes of routes a peer may leave unread; then it is told
// of each prefix only what is true at that time.
const maxLag = 64 << 20

// always is readable at any time.
var always = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// errPeerClosed is the orderly end of a connection by the peer.
var errPeerClosed = errors.New("peer closed the TCP connection")

// frame is one message as it came, without its header.
type frame struct {
	conn session.ConnID
	typ  message.Type
	body []byte
	err  error // the last word of reader or writer: a *message.Notification, a *panicked or a loss
	// loaded says that our End-of-RIB was written; there is no message then.
	loaded bool
}

// stream is what a connection needs of a *net.TCPConn.
type stream interface {
	net.Conn
	CloseWrite() error
}

// conn is one TCP connection of a peer, with its reader and its writer.
type conn struct {
	id  session.ConnID
	tcp stream

	traffic   *traffic     // the peer's
	beats     beats        // the speaker's
	frames    chan<- frame // the peer's; the reader's and the writer's findings
	control   chan []byte
	keepalive chan keepalives    // capacity 1
	routes    chan *table.Cursor // capacity 1
	// up: the session is Established here, and a KEEPALIVE says nothing but that
	// the peer lives. The reader notes when in heard instead of reporting it.
	up    atomic.Bool
	heard atomic.Pointer[time.Time]
	// resume compacts what a cursor has to send; set before there is a cursor.
	resume func(*table.Cursor) error

	finish     chan struct{} // closed: write what is queued, then close
	finishOnce sync.Once
	done       chan struct{} // closed: nobody listens to this connection any more
	doneOnce   sync.Once
	readDone   chan struct{} // closed: the reader is gone
}

// keepalives says how often to send them, and how long a write may take.
type keepalives struct{ every, hold time.Duration }

// traffic counts whole messages.
type traffic struct{ received, sent atomic.Uint64 }

func newConn(id session.ConnID, tcp stream, frames chan<- frame) *conn {
	return &conn{
		id: id, tcp: tcp,
		traffic:   new(traffic),
		beats:     newBeats(),
		frames:    frames,
		control:   make(chan []byte, controlQueue),
		keepalive: make(chan keepalives, 1),
		routes:    make(chan *table.Cursor, 1),
		finish:    make(chan struct{}),
		done:      make(chan struct{}),
		readDone:  make(chan struct{}),
	}
}

// start sets reader and writer to work; both end with abandon or close.
func (c *conn) start(wg *sync.WaitGroup) {
	wg.Go(func() {
		defer close(c.readDone)
		c.guard(c.read)
	})
	wg.Go(func() {
		defer c.tcp.Close()
		c.guard(c.write)
	})
}

// guard runs one of the two and reports how it ended, a panic included.
func (c *conn) guard(run func() error) {
	defer func() {
		if p := recover(); p != nil {
			c.report(frame{err: &panicked{value: p, stack: debug.Stack()}})
		}
	}()
	if err := run(); err != nil {
		c.report(frame{err: err})
	}
}

// report hands f to the peer's goroutine, unless the connection was given up.
func (c *conn) report(f frame) {
	f.conn = c.id
	select {
	case c.frames <- f:
	case <-c.done:
	}
}

// send queues a message. false means that the queue is full: the peer does not
// read.
func (c *conn) send(b []byte) bool {
	select {
	case c.control <- b:
		return true
	default:
		return false
	}
}

// close ends the connection after what is queued was written. Nothing is
// reported any more.
func (c *conn) close() {
	c.doneOnce.Do(func() { close(c.done) })
	c.finishOnce.Do(func() {
		close(c.finish) // first, see limit
		_ = c.tcp.SetWriteDeadline(time.Now().Add(lingerFor))
	})
}

// abandon ends the connection at once.
func (c *conn) abandon() {
	c.close()
	_ = c.tcp.Close()
}

// read reports each message until the connection ends.
func (c *conn) read() error {
	r := bufio.NewReaderSize(c.tcp, readBuffer)
	var header [message.HeaderLen]byte
	for {
		if _, err := io.ReadFull(r, header[:]); err != nil {
			return readError(err)
		}
		typ, length, err := message.ReadHeader(header[:])
		if err != nil {
			return err
		}
		body := make([]byte, length-message.HeaderLen)
		if _, err := io.ReadFull(r, body); err != nil {
			return readError(err)
		}
		c.traffic.received.Add(1)
		if typ == message.TypeKeepalive && c.up.Load() {
			now := time.Now()
			c.heard.Store(&now)
			continue
		}
		c.report(frame{typ: typ, body: body})
	}
}

func readError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errPeerClosed
	}
	return err
}

// writer is the state of the writing goroutine.
type writer struct {
	*conn
	every   time.Duration // between keepalives
	hold    time.Duration // what a write may take
	next    *time.Timer   // the next keepalive
	keep    []byte        // an encoded KEEPALIVE
	from    *table.Cursor // where routes to send come from; nil before the session is up
	pending [][]byte      // messages taken from it, shared with other peers
	loaded  bool          // End-of-RIB was sent
	patient uint64        // bytes the peer may be behind
}

// write sends what the state machine queues, keepalives and routes, in whole
// messages. It waits for nothing but the socket.
func (c *conn) write() error {
	keep, err := message.Append(nil, &message.Keepalive{}, message.Options{})
	if err != nil {
		return err
	}
	w := writer{conn: c, hold: writeHold, patient: maxLag, next: time.NewTimer(0), keep: keep}
	w.next.Stop()
	defer w.next.Stop()
	for err == nil {
		err = w.step()
	}
	if errors.Is(err, errFinished) {
		return nil
	}
	return err
}

var errFinished = errors.New("connection finished")

// step waits for one thing to do and does it. What the state machine has queued
// goes first: no route may overtake the KEEPALIVE that confirms the session.
// Keepalives come next.
func (w *writer) step() error {
	select {
	case b := <-w.control:
		return w.put(b)
	default:
	}
	select {
	case <-w.next.C:
		w.rewind()
		return w.put(w.keep)
	default:
	}
	select {
	case b := <-w.control:
		return w.put(b)
	case k := <-w.keepalive:
		w.every = k.every
		if k.hold > 0 {
			w.hold = k.hold
		}
		w.rewind()
		return nil
	case <-w.next.C:
		w.rewind()
		return w.put(w.keep)
	case w.from = <-w.routes:
		return nil
	case <-w.more():
		return w.putRoutes()
	case <-w.finish:
		return w.last()
	}
}

// more is readable when there are routes to send.
func (w *writer) more() <-chan struct{} {
	switch {
	case w.from == nil:
		return nil
	case len(w.pending) > 0:
		return always
	}
	return w.from.Ready()
}

// rewind sets the time of the next keepalive.
func (w *writer) rewind() {
	if w.every > 0 {
		w.next.Reset(w.beats.next(time.Now(), w.every))
	}
}

// putRoutes sends the next messages, not so many that a keepalive would wait
// long behind them.
func (w *writer) putRoutes() error {
	if err := w.compact(); err != nil {
		return err
	}
	for len(w.pending) == 0 {
		var ok bool
		if w.pending, ok = w.from.Next(w.pending[:0]); !ok {
			return nil
		}
	}
	var messages uint64
	chunk, size, last := make(net.Buffers, 0, 16), 0, false
	for len(w.pending) > 0 && size < writeChunk {
		m := w.pending[0]
		w.pending = w.pending[1:]
		chunk, size = append(chunk, m), size+len(m)
		last = last || isEndOfRIB(m)
		messages++
	}
	w.limit()
	if _, err := chunk.WriteTo(w.tcp); err != nil {
		return err
	}
	w.traffic.sent.Add(messages)
	if last && !w.loaded {
		w.loaded = true
		w.report(frame{loaded: true})
	}
	return nil
}

// compact lets a peer that is far behind go on with the present. What that
// takes may itself be much, so the next time comes when it has doubled.
func (w *writer) compact() error {
	if w.from.Lag() <= w.patient {
		return nil
	}
	if err := w.resume(w.from); err != nil {
		return err
	}
	w.patient = max(maxLag, 2*w.from.Lag())
	return nil
}

// isEndOfRIB says whether m is the shortest UPDATE there can be.
func isEndOfRIB(m []byte) bool {
	return len(m) == message.HeaderLen+4 && m[message.HeaderLen-1] == byte(message.TypeUpdate)
}

// put writes b.
func (w *writer) put(b []byte) error {
	w.limit()
	_, err := w.tcp.Write(b)
	if err == nil {
		w.traffic.sent.Add(1)
	}
	return err
}

// limit gives the next write the hold time: a peer that takes longer to read
// has long stopped hearing us. A connection that is to close gets less.
func (w *writer) limit() {
	_ = w.tcp.SetWriteDeadline(time.Now().Add(w.hold))
	select {
	case <-w.finish:
		_ = w.tcp.SetWriteDeadline(time.Now().Add(lingerFor))
	default:
	}
}

// last writes what is queued and closes. The socket is read on for a moment:
// closing it with unread data would reset the connection, and the reset could
// overtake our last words.
func (w *writer) last() error {
	for len(w.control) > 0 {
		if err := w.put(<-w.control); err != nil {
			return errFinished
		}
	}
	_ = w.tcp.CloseWrite()
	_ = w.tcp.SetReadDeadline(time.Now().Add(lingerFor))
	<-w.readDone
	_, _ = io.Copy(io.Discard, w.tcp)
	return errFinished
}

// panicked is a panic as an error.
type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string { return fmt.Sprintf("internal error: %v", p.value) }
