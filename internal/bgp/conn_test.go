// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/bgp/table"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// pipe is a connection without a network, for tests with simulated time.
type pipe struct{ net.Conn }

func (p pipe) CloseWrite() error { return nil }

// wire is a conn under test and its far end.
type wire struct {
	*conn
	t      *testing.T
	far    net.Conn
	frames chan frame
	wg     sync.WaitGroup
}

func newWire(t *testing.T) *wire {
	near, far := net.Pipe()
	w := &wire{t: t, far: far, frames: make(chan frame, frameQueue)}
	w.conn = newConn(1, pipe{near}, w.frames)
	w.start(&w.wg)
	return w
}

// end closes both ends and waits for reader and writer.
func (w *wire) end() {
	w.abandon()
	_ = w.far.Close()
	w.wg.Wait()
}

// next reads one message at the far end.
func (w *wire) next() (message.Type, []byte) {
	w.t.Helper()
	typ, body, err := readMessage(w.far)
	if err != nil {
		w.t.Fatalf("read: %v", err)
	}
	return typ, body
}

func readMessage(r io.Reader) (message.Type, []byte, error) {
	header := make([]byte, message.HeaderLen)
	if _, err := io.ReadFull(r, header); err != nil {
		return 0, nil, err
	}
	typ, length, err := message.ReadHeader(header)
	if err != nil {
		return 0, nil, err
	}
	body := make([]byte, length-message.HeaderLen)
	_, err = io.ReadFull(r, body)
	return typ, body, err
}

func encode(t testing.TB, m message.Message) []byte {
	t.Helper()
	b, err := message.Append(nil, m, message.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// cursor is what a session has to send: count blocks and End-of-RIB.
func cursor(count int) (*table.Cursor, *table.Groups) {
	var ads []speaker.Advertisement
	for i := range count {
		ads = append(ads, speaker.Advertisement{
			Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(i >> 16), byte(i >> 8), byte(i)}), 32), NextHop: netip.MustParseAddr("10.0.0.1"),
		})
	}
	t := table.New(table.Local{AS: testAS})
	g := table.NewGroups(t)
	t.Originate(ads)
	g.Complete()
	return g.Join(table.Export{Internal: true, AS4: true, AS: testAS}, netip.MustParseAddr("10.0.0.2")), g
}

func TestKeepaliveCadence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t)
		defer w.end()
		began := time.Now()
		w.keepalive <- keepalives{every: 10 * time.Second, hold: 90 * time.Second}
		last := began
		pauses := map[time.Duration]bool{}
		for i := range 100 {
			if typ, _ := w.next(); typ != message.TypeKeepalive {
				t.Fatalf("got %v", typ)
			}
			pause := time.Since(last)
			least := 7500 * time.Millisecond
			if i < 2 { // on the way to the speaker's beats
				least = 2500 * time.Millisecond
			}
			if pause < least || pause > 10*time.Second {
				t.Errorf("pause of %v", pause)
			}
			pauses[pause], last = true, time.Now()
		}
		if len(pauses) < 50 {
			t.Error("no jitter")
		}
	})
}

func TestNoKeepalives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t)
		defer w.end()
		w.keepalive <- keepalives{}
		_ = w.far.SetReadDeadline(time.Now().Add(time.Hour))
		if _, err := w.far.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
	})
}

// TestKeepaliveFirst: routes must not overtake the KEEPALIVE that confirms.
func TestKeepaliveFirst(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			w := newWire(t)
			defer w.end()
			w.send(encode(t, &message.Keepalive{}))
			routes, _ := cursor(3)
			w.routes <- routes
			var got []message.Type
			for range 3 {
				typ, _ := w.next()
				got = append(got, typ)
			}
			if got[0] != message.TypeKeepalive || got[1] != message.TypeUpdate || got[2] != message.TypeUpdate {
				t.Fatalf("order %v", got)
			}
			if f := <-w.frames; !f.loaded {
				t.Errorf("reported %+v, want that all is loaded", f)
			}
		})
	}
}

// TestKeepaliveAmongRoutes: a reader that is slow, but reads, gets keepalives
// in time.
func TestKeepaliveAmongRoutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t)
		defer w.end()
		w.keepalive <- keepalives{every: 10 * time.Second, hold: 90 * time.Second}
		routes, _ := cursor(60_000)
		w.routes <- routes
		last, updates := time.Now(), 0
		for updates < 60 {
			time.Sleep(time.Second)
			if typ, _ := w.next(); typ == message.TypeUpdate {
				updates++
				continue
			}
			if pause := time.Since(last); pause > 20*time.Second {
				t.Errorf("no keepalive for %v", pause)
			}
			last = time.Now()
		}
	})
}

// TestNobodyReads: a peer that takes nothing loses its session after the hold
// time.
func TestNobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t)
		defer w.end()
		began := time.Now()
		w.keepalive <- keepalives{every: 10 * time.Second, hold: 90 * time.Second}
		f := <-w.frames
		if f.err == nil || lossTrouble(f.err) != "peer took no data for the hold time" {
			t.Errorf("reported %v", f.err)
		}
		if after := time.Since(began); after < 90*time.Second || after > 100*time.Second {
			t.Errorf("after %v", after)
		}
		<-w.frames // the reader ends too
	})
}

// TestReadsTooSlowly: what a peer leaves unread is bounded, and its session
// goes on: in the end it knows what is true.
func TestReadsTooSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t)
		defer w.end()
		routes, groups := cursor(10_000)
		export := table.Export{Internal: true, AS4: true, AS: testAS}
		compacted := 0
		w.resume = func(behind *table.Cursor) error {
			compacted++
			backlog := table.NewBacklog(export)
			if err := behind.Skip(backlog); err != nil {
				return err
			}
			return groups.Resume(export, behind, backlog)
		}
		w.routes <- routes
		synctest.Wait()
		for routes.Lag() < maxLag { // messages are shared: this costs no memory
			groups.Refresh(export, netip.MustParseAddr("10.0.0.2"))
		}
		total := uint64(0)
		for {
			_ = w.far.SetReadDeadline(time.Now().Add(time.Second))
			_, body, err := readMessage(w.far)
			if err != nil {
				break
			}
			total += uint64(len(body))
		}
		if f := <-w.frames; !f.loaded {
			t.Errorf("reported %+v, want End-of-RIB written", f)
		}
		if lag := routes.Lag(); compacted != 1 || lag != 0 || total > maxLag/100 {
			t.Errorf("compacted %d times, %d bytes told, %d left", compacted, total, lag)
		}
	})
}

func TestCloseFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t)
		bye := encode(t, message.Shutdown(message.AdminShutdown, "bye"))
		w.send(bye)
		w.close()
		got, err := io.ReadAll(w.far)
		if err != nil || !bytes.Equal(got, bye) {
			t.Errorf("last words %q, %v", got, err)
		}
		w.wg.Wait()
	})
}

// TestCloseDoesNotHang: last words to a peer that does not read are given up.
func TestCloseDoesNotHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t)
		routes, _ := cursor(10_000)
		w.routes <- routes
		synctest.Wait() // it writes, and nobody reads
		w.send(encode(t, message.Shutdown(message.AdminShutdown, "bye")))
		began := time.Now()
		w.close()
		w.wg.Wait()
		if took := time.Since(began); took > 3*lingerFor {
			t.Errorf("closed after %v", took)
		}
	})
}

func TestReadReports(t *testing.T) {
	tests := []struct {
		name  string
		bytes []byte
		want  string
	}{
		{"nothing", nil, "peer closed the TCP connection"},
		{"half a header", bytes.Repeat([]byte{0xff}, 10), "peer closed the TCP connection"},
		{"half a body", encode(t, message.Shutdown(message.AdminShutdown, "long"))[:22], "peer closed the TCP connection"},
		{"no marker", make([]byte, 19), "message header error: connection not synchronized: marker is not all ones"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWire(t)
				defer w.end()
				_, _ = w.far.Write(test.bytes)
				_ = w.far.Close()
				if f := <-w.frames; f.err == nil || f.err.Error() != test.want {
					t.Errorf("reported %v, want %s", f.err, test.want)
				}
			})
		})
	}
}

func TestSieve(t *testing.T) {
	s := sieve{every: 10 * time.Second}
	now := time.Unix(1000, 0)
	for i, want := range []struct {
		after time.Duration
		held  int
		pass  bool
	}{{0, 0, true}, {time.Second, 0, false}, {time.Second, 0, false}, {8 * time.Second, 2, true}, {time.Second, 0, false}} {
		now = now.Add(want.after)
		if held, pass := s.pass(now); held != want.held || pass != want.pass {
			t.Errorf("%d: held %d, pass %t", i, held, pass)
		}
	}
}
