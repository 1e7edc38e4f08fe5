// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"bufio"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
)

// serve starts a server of HTTP/2 and returns its configuration.
func serve(t *testing.T, handler http.HandlerFunc) Config {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return Config{Server: server.URL, CA: ca, Timeout: 5 * time.Second}
}

func client(t *testing.T, cfg Config) *Client {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// refuse answers as an API server that refuses.
func refuse(w http.ResponseWriter, code int, reason, message, name string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	fmt.Fprintf(w, `{"kind":"Status","status":"Failure","reason":%q,"message":%q,"details":{"name":%q},"code":%d}`, reason, message, name, code)
}

var (
	aRead  = Request{What: "get a pod", Method: http.MethodGet, Path: "/api/v1/pods/a"}
	aWrite = Request{What: "put a pod", Method: http.MethodPatch, Path: "/api/v1/pods/a", Body: []byte(`{}`), MIME: MergePatch}
)

func TestRequest(t *testing.T) {
	cfg := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s %s %s %q", r.Proto, r.Method, r.URL, r.Header.Get("Content-Type"), r.Header.Get("Authorization"), strings.Split(r.Header.Get("User-Agent"), "/")[0], body)
	})
	cfg.Token = "secret"
	q := aWrite
	q.Query = map[string][]string{"a": {"b"}}
	got, err := client(t, cfg).Call(t.Context(), q)
	const want = `HTTP/2.0 PATCH /api/v1/pods/a?a=b application/merge-patch+json Bearer secret ocicat "{}"`
	if err != nil || string(got) != want {
		t.Errorf("the server saw %s, %v, want %s", got, err, want)
	}
}

// TestRefusals: each answer has its kind, and a write is ambiguous only where it
// may have happened.
func TestRefusals(t *testing.T) {
	var code atomic.Int32
	var message, name atomic.Value
	c := client(t, serve(t, func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, int(code.Load()), "", message.Load().(string), name.Load().(string))
	}))
	for _, test := range []struct {
		code            int
		message, name   string
		kind            fault.Kind
		ambiguous, hint bool
		denied          bool
	}{
		{400, "bad", "", fault.Invalid, false, false, false},
		{401, "Unauthorized", "", fault.Unavailable, false, true, true},
		{403, "pods is forbidden", "", fault.Unavailable, false, true, true},
		{404, "not found", "a", fault.NotFound, false, false, false},
		{404, "the server could not find the requested resource", "", fault.Unavailable, false, true, false},
		{405, "no", "", fault.Unsupported, false, false, false},
		{409, "the object has been modified", "a", fault.Conflict, false, false, false},
		{410, "too old", "", fault.Unavailable, false, false, false},
		{413, "too large", "", fault.Invalid, false, false, false},
		{422, "spec.cidr: Invalid value", "", fault.Invalid, false, false, false},
		{500, "etcdserver: request timed out", "", fault.Unavailable, true, false, false},
		{500, `Internal error occurred: failed calling webhook "x": context deadline exceeded`, "", fault.Unavailable, false, true, false},
		{503, "shutting down", "", fault.Unavailable, true, false, false},
		{504, "timeout", "", fault.Unavailable, true, false, false},
	} {
		code.Store(int32(test.code))
		message.Store(test.message)
		name.Store(test.name)
		for _, q := range []Request{aRead, aWrite} {
			_, err := c.Call(t.Context(), q)
			switch {
			case !fault.Is(err, test.kind):
				t.Errorf("%s, %d %s: %v, want %v", q.What, test.code, test.message, err, test.kind)
			case errors.Is(err, store.ErrAmbiguous) != (test.ambiguous && !q.reads()):
				t.Errorf("%s, %d %s: %v: ambiguous %v", q.What, test.code, test.message, err, errors.Is(err, store.ErrAmbiguous))
			case (fault.HintOf(err) != "") != test.hint || errors.Is(err, store.ErrDenied) != test.denied:
				t.Errorf("%s, %d %s: %v: hint %q", q.What, test.code, test.message, err, fault.HintOf(err))
			case !strings.HasPrefix(err.Error(), q.What+": "):
				t.Errorf("%s, %d: %v", q.What, test.code, err)
			}
		}
	}
	code.Store(404)
	name.Store("")
	if _, err := c.Call(t.Context(), aRead); !IsNoResource(err) {
		t.Errorf("%v: want the error of a missing resource", err)
	}
}

// TestNotSent: what never left is not ambiguous.
func TestNotSent(t *testing.T) {
	c := client(t, Config{Server: "https://127.0.0.1:1"})
	if _, err := c.Call(t.Context(), aWrite); !fault.Is(err, fault.Unavailable) || errors.Is(err, store.ErrAmbiguous) {
		t.Errorf("%v, want unavailable and not ambiguous", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Call(ended, aWrite); !fault.Is(err, fault.Unavailable) || errors.Is(err, store.ErrAmbiguous) {
		t.Errorf("with an ended context: %v, want unavailable and not ambiguous", err)
	}
}

// TestNoAnswer: what left and got no answer is ambiguous, and given up in time.
func TestNoAnswer(t *testing.T) {
	cfg := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	cfg.Timeout = 50 * time.Millisecond
	c := client(t, cfg)
	if _, err := c.Call(t.Context(), aWrite); !fault.Is(err, fault.Unavailable) || !errors.Is(err, store.ErrAmbiguous) || !strings.Contains(err.Error(), "no answer in time") {
		t.Errorf("write: %v, want ambiguous", err)
	}
	if _, err := c.Call(t.Context(), aRead); !fault.Is(err, fault.Unavailable) || errors.Is(err, store.ErrAmbiguous) {
		t.Errorf("read: %v, want unavailable", err)
	}
	if _, err := c.Stream(t.Context(), aRead); !fault.Is(err, fault.Unavailable) {
		t.Errorf("stream: %v, want unavailable", err)
	}
}

// TestLater: an answer "too many requests" is obeyed, and a wait that would be
// too long is the caller's.
func TestLater(t *testing.T) {
	var calls atomic.Int32
	var first atomic.Int64
	cfg := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			first.Store(time.Now().UnixNano())
			w.Header().Set("Retry-After", "1")
			refuse(w, 429, "TooManyRequests", "too many requests", "")
			return
		}
		fmt.Fprint(w, time.Since(time.Unix(0, first.Load())))
	})
	c := client(t, cfg)
	got, err := c.Call(t.Context(), aWrite)
	if waited, _ := time.ParseDuration(string(got)); err != nil || waited < time.Second {
		t.Errorf("came back after %s, %v, want after 1 s", got, err)
	}
	cfg = serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "30")
		refuse(w, 429, "TooManyRequests", "too many requests", "")
	})
	_, err = client(t, cfg).Call(t.Context(), aWrite)
	if !fault.Is(err, fault.Unavailable) || errors.Is(err, store.ErrAmbiguous) || !strings.Contains(fault.HintOf(err), "30s") {
		t.Errorf("%v (%s), want unavailable with a hint", err, fault.HintOf(err))
	}
}

// TestTokenReplaced: a refused token is read again from its file.
func TestTokenReplaced(t *testing.T) {
	var good atomic.Value
	good.Store("first")
	cfg := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+good.Load().(string) {
			refuse(w, 401, "Unauthorized", "Unauthorized", "")
		}
	})
	cfg.TokenFile = filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		t.Helper()
		if err := os.WriteFile(cfg.TokenFile, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := client(t, cfg)
	if _, err := c.Call(t.Context(), aRead); !fault.Is(err, fault.Unavailable) || fault.HintOf(err) == "" {
		t.Errorf("without a file: %v, want unavailable with a hint", err)
	}
	write("first")
	if _, err := c.Call(t.Context(), aRead); err != nil {
		t.Fatal(err)
	}
	good.Store("second")
	if _, err := c.Call(t.Context(), aRead); !errors.Is(err, store.ErrDenied) {
		t.Errorf("with an old token: %v, want a refusal", err)
	}
	write("second")
	if _, err := c.Call(t.Context(), aWrite); err != nil {
		t.Errorf("with a new token: %v", err)
	}
}

// TestStrangers: a server with another certificate is not spoken to.
func TestStrangers(t *testing.T) {
	cfg := serve(t, func(http.ResponseWriter, *http.Request) {})
	stranger := cfg
	stranger.CA = nil
	for what, cfg := range map[string]Config{
		"another authority": stranger,
		"another name":      {Server: cfg.Server, CA: cfg.CA, ServerName: "other.example.org"},
		"no TLS":            {Server: "https://" + plain(t), CA: cfg.CA},
	} {
		_, err := client(t, cfg).Call(t.Context(), aWrite)
		if !fault.Is(err, fault.Unavailable) || !errors.Is(err, store.ErrDenied) || fault.HintOf(err) == "" {
			t.Errorf("%s: %v (%s), want a refusal with a hint", what, err, fault.HintOf(err))
		}
	}
	stranger.Insecure = true
	if _, err := client(t, stranger).Call(t.Context(), aRead); err != nil {
		t.Errorf("insecure: %v", err)
	}
}

// plain is the address of a server without TLS.
func plain(t *testing.T) string {
	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func TestUpgrade(t *testing.T) {
	cfg := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "echo" || r.ProtoMajor != 1 || r.Header.Get("Authorization") != "Bearer secret" {
			refuse(w, 403, "Forbidden", "no", "")
			return
		}
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello\n")
		line, _ := rw.ReadString('\n')
		fmt.Fprint(conn, "you said "+line)
	})
	cfg.Token = "secret"
	c := client(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := c.Upgrade(ctx, "/x", http.Header{"Connection": {"Upgrade"}, "Upgrade": {"echo"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cancel() // bounds the handshake alone
	var _ net.Conn = conn
	in := bufio.NewReader(conn)
	hello, _ := in.ReadString('\n')
	if _, err := fmt.Fprintln(conn, "yes"); err != nil {
		t.Error(err)
	}
	if said, err := in.ReadString('\n'); hello != "hello\n" || said != "you said yes\n" {
		t.Errorf("heard %q and %q, %v", hello, said, err)
	}
	if _, err := c.Upgrade(t.Context(), "/x", http.Header{"Connection": {"Upgrade"}, "Upgrade": {"other"}}); !errors.Is(err, store.ErrDenied) {
		t.Errorf("refused: %v", err)
	}
}

func TestLimiter(t *testing.T) {
	l := newLimiter(10, 2)
	now := time.Unix(100, 0)
	for i, want := range []time.Duration{0, 0, 100 * time.Millisecond, 200 * time.Millisecond} {
		if got := l.take(now).Round(time.Millisecond); got != want {
			t.Errorf("request %d waits %v, want %v", i, got, want)
		}
	}
	if got := l.take(now.Add(time.Hour)); got != 0 {
		t.Errorf("after a quiet hour: waits %v", got)
	}
}
