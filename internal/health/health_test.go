// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// TestStuckLoop: a loop whose turn does not end makes the process dead after
// StuckAfter, and not before; it lives again when it goes on. Others do not
// change that.
func TestStuckLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		turns := 0
		b := NewBeats(
			Loop{Name: "kernel", Turn: func(ctx context.Context) error {
				if turns++; turns != 3 {
					return nil
				}
				select {
				case <-hang:
				case <-ctx.Done():
				}
				return nil
			}},
			Loop{Name: "BGP", Turn: func(context.Context) error { return nil }},
		)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx) }()
		synctest.Wait()
		time.Sleep(2*interval + StuckAfter) // the third turn began at 2 intervals, the second ended one before
		synctest.Wait()
		if err := b.Alive(); err == nil || !strings.Contains(err.Error(), "kernel for ") || strings.Contains(err.Error(), "BGP") || !fault.Is(err, fault.Internal) {
			t.Errorf("with a stuck loop: %v", err)
		}
		close(hang)
		synctest.Wait()
		if err := b.Alive(); err != nil {
			t.Errorf("after it went on: %v", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestAliveAtFirst: before its first turn has ended, a loop has StuckAfter.
func TestAliveAtFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBeats(Loop{Name: "kernel", Turn: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = b.Run(ctx) }() // it ends with ctx
		time.Sleep(StuckAfter)
		if err := b.Alive(); err != nil {
			t.Errorf("after %s: %v", StuckAfter, err)
		}
		time.Sleep(time.Second)
		if b.Alive() == nil {
			t.Error("alive without any turn")
		}
		cancel()
		synctest.Wait()
	})
}

// serve runs a server at a free port until the test ends.
func serve(t *testing.T, probes Probes) netip.AddrPort {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().(*net.TCPAddr).AddrPort()
	s := NewServer(addr, probes, slog.New(slog.DiscardHandler), func() {})
	// The address is taken at first: a problem, tried again.
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	eventually(t, "OC4012", func() bool { return len(s.Problems()) == 1 && s.Problems()[0].Code == "OC4012" })
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no OC4012", func() bool { return len(s.Problems()) == 0 })
	return addr
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not in 20 s", what)
		}
	}
}

func TestProbes(t *testing.T) {
	var dead, waits error
	addr := serve(t, Probes{Alive: func() error { return dead }, Ready: func() error { return waits }})
	ask := func(path string) (int, string) {
		t.Helper()
		answer, err := http.Get("http://" + addr.String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Error(err)
		}
		return answer.StatusCode, string(text)
	}
	expect := func(path string, code int, text string) {
		t.Helper()
		if gotCode, gotText := ask(path); gotCode != code || gotText != text {
			t.Errorf("GET %s = %d %q, want %d %q", path, gotCode, gotText, code, text)
		}
	}
	expect("/liveness", 200, "ok\n")
	expect("/readiness", 200, "ok\n")
	waits = errors.New("no socket yet")
	expect("/liveness", 200, "ok\n")
	expect("/readiness", 503, "no socket yet\n")
	dead, waits = errors.New("stuck: BGP for 61s"), nil
	expect("/liveness", 503, "stuck: BGP for 61s\n")
	expect("/readiness", 200, "ok\n")
	if code, _ := ask("/"); code != 404 {
		t.Errorf("GET / = %d", code)
	}
	answer, err := http.Post("http://"+addr.String()+"/liveness", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != 405 {
		t.Errorf("POST = %d", answer.StatusCode)
	}
}
