// SPDX-License-Identifier: Apache-2.0

package etcd_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/etcd"
)

// proxy stands between a store and etcd and can swallow what passes.
type proxy struct {
	listener net.Listener
	backend  string

	mu        sync.Mutex
	swallow   bool   // take requests and answers and forward none of them
	mute      bool   // forward requests, swallow answers
	onSwallow func() // called once, when a request was swallowed
	conns     []net.Conn
}

func newProxy(t *testing.T, endpoint string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, backend: strings.TrimPrefix(endpoint, "unix://")}
	t.Cleanup(func() {
		_ = l.Close()
		p.cut()
	})
	go p.accept()
	return p
}

func (p *proxy) endpoint() string { return "http://" + p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		front, err := p.listener.Accept()
		if err != nil {
			return
		}
		back, err := net.Dial("unix", p.backend)
		if err != nil {
			_ = front.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, front, back)
		p.mu.Unlock()
		go p.copy(back, front, true)
		go p.copy(front, back, false)
	}
}

func (p *proxy) copy(to, from net.Conn, request bool) {
	defer to.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && !p.lost(request) {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *proxy) lost(request bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.swallow && request && p.onSwallow != nil {
		go p.onSwallow()
		p.onSwallow = nil
	}
	return p.swallow || (p.mute && !request)
}

func (p *proxy) set(swallow, mute bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.swallow, p.mute = swallow, mute
}

// cut closes all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

// through opens a store through a proxy and makes sure it is connected.
func through(t *testing.T, endpoint string, timeout time.Duration) (*etcd.Store, *proxy) {
	t.Helper()
	p := newProxy(t, endpoint)
	s := open(t, etcd.Config{Endpoints: []string{p.endpoint()}, Timeout: timeout})
	if _, err := s.Put(t.Context(), node("connected"), nil, store.AnyRevision); err != nil {
		t.Fatal(err)
	}
	return s, p
}

func wantAmbiguous(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, store.ErrAmbiguous) || !fault.Is(err, fault.Unavailable) {
		t.Errorf("%s: %v, want it unavailable and ambiguous", what, err)
	}
}

func TestLostAnswersAreAmbiguous(t *testing.T) {
	ctx, endpoint := t.Context(), server(t, 0)
	direct := open(t, etcd.Config{Endpoints: []string{endpoint}})
	s, p := through(t, endpoint, 300*time.Millisecond)
	p.set(false, true)
	_, err := s.Put(ctx, node("a"), []byte("x"), 0)
	wantAmbiguous(t, "put", err)
	if _, err := direct.Get(ctx, node("a")); err != nil {
		t.Errorf("the put has arrived all the same: %v", err)
	}
	wantAmbiguous(t, "delete", s.Delete(ctx, node("connected"), store.AnyRevision))
	if _, err := direct.Get(ctx, node("connected")); !fault.Is(err, fault.NotFound) {
		t.Errorf("the delete has arrived all the same: %v", err)
	}
	_, err = s.Get(ctx, node("a"))
	if !fault.Is(err, fault.Unavailable) || errors.Is(err, store.ErrAmbiguous) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("get: %v, want it timed out and not ambiguous", err)
	}
}

func TestLostRequestsAreAmbiguous(t *testing.T) {
	ctx, endpoint := t.Context(), server(t, 0)
	s, p := through(t, endpoint, 300*time.Millisecond)
	p.set(true, false)
	_, err := s.Put(ctx, node("a"), []byte("x"), 0)
	wantAmbiguous(t, "put", err)

	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err = s.Put(ended, node("a"), []byte("x"), 0)
	if errors.Is(err, store.ErrAmbiguous) || !errors.Is(err, context.Canceled) {
		t.Errorf("put after the end of its context: %v, want it never sent", err)
	}
}

func TestCutConnectionIsAmbiguousForWhatWasSent(t *testing.T) {
	ctx, endpoint := t.Context(), server(t, 0)
	s, p := through(t, endpoint, time.Minute)
	p.onSwallow = p.cut
	p.set(true, false)
	_, err := s.Put(ctx, node("a"), []byte("x"), 0)
	wantAmbiguous(t, "put", err)
}

func TestRepeatedSwapResolvesAmbiguity(t *testing.T) {
	ctx, endpoint := t.Context(), server(t, 0)
	s, p := through(t, endpoint, 300*time.Millisecond)
	p.set(false, true)
	_, err := s.Put(ctx, node("a"), []byte("x"), 0)
	wantAmbiguous(t, "put", err)
	p.set(false, false)
	p.cut()
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		_, err = s.Put(ctx, node("a"), []byte("x"), 0)
		if !fault.Is(err, fault.Unavailable) {
			break
		}
	}
	if !fault.Is(err, fault.Conflict) {
		t.Errorf("the same put again: %v, want a conflict with the first", err)
	}
}

// lateServer is an etcd that takes too long for every write.
type lateServer struct {
	pb.UnimplementedKVServer
	txns atomic.Int32
}

func (s *lateServer) Txn(context.Context, *pb.TxnRequest) (*pb.TxnResponse, error) {
	s.txns.Add(1)
	return nil, status.Error(codes.DeadlineExceeded, "too late")
}

func TestWritesAreNeverRepeatedUnseen(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	late := new(lateServer)
	server := grpc.NewServer()
	pb.RegisterKVServer(server, late)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	s := open(t, etcd.Config{Endpoints: []string{"http://" + l.Addr().String()}})
	_, err = s.Put(t.Context(), node("a"), nil, 0)
	wantAmbiguous(t, "put", err)
	if n := late.txns.Load(); n != 1 {
		t.Errorf("the write was sent %d times, want once: the second would conflict with the first", n)
	}
}

func TestWatchEndsWithItsConnection(t *testing.T) {
	s, p := through(t, server(t, 0), 5*time.Second)
	events, err := s.Watch(t.Context(), store.BGPPeer, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	p.cut()
	select {
	case ev, open := <-events:
		if open {
			t.Errorf("got %v, want the watch closed", ev)
		}
	case <-time.After(20 * time.Second):
		t.Error("the watch stays open without a connection")
	}
}

func TestWatchThatIsNeverAcceptedTimesOut(t *testing.T) {
	s, p := through(t, server(t, 0), 300*time.Millisecond)
	p.set(false, true)
	if _, err := s.Watch(t.Context(), store.Node, "", 0); !fault.Is(err, fault.Unavailable) {
		t.Errorf("%v, want it unavailable", err)
	}
}

func TestReconnectsSoon(t *testing.T) {
	ctx := t.Context()
	s, p := through(t, server(t, 0), 5*time.Second)
	p.cut()
	start := time.Now()
	for {
		_, err := s.Get(ctx, node("connected"))
		if err == nil {
			break
		}
		if time.Since(start) > 20*time.Second {
			t.Fatal(err)
		}
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("connected again after %v, want less than 3s", took)
	}
}
