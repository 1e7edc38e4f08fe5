// SPDX-License-Identifier: Apache-2.0

package portforward_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/moby/spdystream"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/portforward"
)

// kubelet answers as an API server with a kubelet behind: data is echoed, port
// 1 has nobody who listens.
func kubelet(t *testing.T) *httptest.Server {
	t.Helper()
	var running sync.WaitGroup
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != "/api/v1/namespaces/kube-system/pods/ocicat-node-x/portforward" || r.Header.Get("X-Stream-Protocol-Version") != portforward.Protocol {
			http.Error(w, "not found", http.StatusNotFound)
			return
		}
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "SPDY/3.1")
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, buffered, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		session, err := spdystream.NewConnection(taken{conn, buffered.Reader}, true)
		if err != nil {
			t.Error(err)
			return
		}
		running.Go(func() { session.Serve(func(s *spdystream.Stream) { serve(s) }) })
	}))
	t.Cleanup(func() { server.Close(); running.Wait() })
	return server
}

func serve(s *spdystream.Stream) {
	_ = s.SendReply(http.Header{}, false)
	nobody := s.Headers().Get("Port") == "1"
	go func() {
		switch {
		case s.Headers().Get("StreamType") == "error" && nobody:
			fmt.Fprint(s, "connection refused")
		case s.Headers().Get("StreamType") == "data" && !nobody:
			_, _ = io.Copy(s, s)
		}
		_ = s.Close()
	}()
}

// taken is a connection of which some bytes were read already.
type taken struct {
	net.Conn
	r io.Reader
}

func (c taken) Read(b []byte) (int, error) { return c.r.Read(b) }

// upgrade does what the API client does.
func upgrade(server *httptest.Server) portforward.Upgrade {
	return func(ctx context.Context, path string, header http.Header) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", server.Listener.Addr().String())
		if err != nil {
			return nil, err
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+path, nil)
		if err != nil {
			return nil, err
		}
		r.Header = header
		if err := r.Write(conn); err != nil {
			return nil, err
		}
		buffered := bufio.NewReader(conn)
		answer, err := http.ReadResponse(buffered, r)
		if err != nil {
			return nil, err
		}
		if answer.StatusCode != http.StatusSwitchingProtocols {
			_ = conn.Close()
			return nil, fault.New(fault.NotFound, "answer %s", answer.Status)
		}
		return taken{conn, buffered}, nil
	}
}

func TestDataGoesBothWays(t *testing.T) {
	conn, err := portforward.Dial(t.Context(), upgrade(kubelet(t)), "kube-system", "ocicat-node-x", 9098)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	want := strings.Repeat("what goes comes back ", 10_000)
	go func() { _, _ = io.WriteString(conn, want) }()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestNobodyListens(t *testing.T) {
	conn, err := portforward.Dial(t.Context(), upgrade(kubelet(t)), "kube-system", "ocicat-node-x", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = conn.Read(make([]byte, 1))
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "port 1 of pod kube-system/ocicat-node-x: connection refused") {
		t.Errorf("read: %v", err)
	}
}

func TestNoSuchPod(t *testing.T) {
	_, err := portforward.Dial(t.Context(), upgrade(kubelet(t)), "kube-system", "other", 9098)
	if !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "pod kube-system/other") {
		t.Errorf("no such pod: %v", err)
	}
}
