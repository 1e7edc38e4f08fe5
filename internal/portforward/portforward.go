// SPDX-License-Identifier: Apache-2.0

// Package portforward connects to a port of a pod through the API server and
// the kubelet, as "kubectl port-forward" does: SPDY/3.1 over an upgraded
// HTTP/1.1 connection, with a stream for data and one for errors
// (portforward.k8s.io). A pod in the host's network is reached at the node's
// loopback address.
package portforward

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/spdystream"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// Protocol is the value of X-Stream-Protocol-Version.
const Protocol = "portforward.k8s.io"

// errorLimit bounds what the kubelet can say about a failure, in bytes.
const errorLimit = 4 << 10

// Upgrade makes a POST to a path of the API server that asks for another
// protocol on its connection, with the caller's credentials, and returns the
// connection once the server has agreed (status 101), with what it sent behind
// its answer still to be read.
type Upgrade func(ctx context.Context, path string, header http.Header) (net.Conn, error)

// Dial connects to a port of a pod. What the kubelet says against it later,
// as that nobody listens, is the error of a Read.
func Dial(ctx context.Context, upgrade Upgrade, namespace, pod string, port uint16) (net.Conn, error) {
	path := fmt.Sprintf("/api/v1/namespaces/%s/pods/%s/portforward", namespace, pod)
	conn, err := upgrade(ctx, path, http.Header{
		"Connection":                {"Upgrade"},
		"Upgrade":                   {"SPDY/3.1"},
		"X-Stream-Protocol-Version": {Protocol},
	})
	if err != nil {
		return nil, fmt.Errorf("forward to pod %s/%s: %w", namespace, pod, err)
	}
	session, err := spdystream.NewConnection(conn, false)
	if err != nil {
		_ = conn.Close()
		return nil, fault.New(fault.Internal, "forward to pod %s/%s: %w", namespace, pod, err)
	}
	go session.Serve(spdystream.NoOpStreamHandler)
	f := &forwarded{conn: conn, what: fmt.Sprintf("port %d of pod %s/%s", port, namespace, pod)}
	if err := f.open(session, port); err != nil {
		_ = conn.Close()
		return nil, fault.New(fault.Unavailable, "forward to %s: %w", f.what, err)
	}
	return f, nil
}

// forwarded is a connection to a port of a pod.
type forwarded struct {
	*spdystream.Stream          // data
	conn               net.Conn // to the API server
	what               string

	mu   sync.Mutex
	said error // by the kubelet
	told chan struct{}
}

// open makes both streams; the kubelet waits for both.
func (f *forwarded) open(session *spdystream.Connection, port uint16) error {
	header := http.Header{}
	header.Set("StreamType", "error")
	header.Set("Port", strconv.Itoa(int(port)))
	header.Set("RequestID", "0")
	errors, err := session.CreateStream(header, nil, false)
	if err != nil {
		return err
	}
	_ = errors.Close() // we say nothing on it
	f.told = make(chan struct{})
	go f.hear(errors)
	header = header.Clone()
	header.Set("StreamType", "data")
	f.Stream, err = session.CreateStream(header, nil, false)
	return err
}

// hear waits for what the kubelet says.
func (f *forwarded) hear(errors io.Reader) {
	defer close(f.told)
	text, _ := io.ReadAll(io.LimitReader(errors, errorLimit)) // its end is the connection's
	if said := strings.TrimSpace(string(text)); said != "" {
		f.mu.Lock()
		f.said = fault.New(fault.Unavailable, "%s: %s", f.what, said)
		f.mu.Unlock()
	}
}

// settle is how long the end of the data waits for the reason.
const settle = 200 * time.Millisecond

// Read reads from the pod. At an end it gives the kubelet's reason, if there is
// one.
func (f *forwarded) Read(b []byte) (int, error) {
	n, err := f.Stream.Read(b)
	if err == nil || n > 0 {
		return n, err
	}
	select {
	case <-f.told:
	case <-time.After(settle):
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.said != nil {
		err = f.said
	}
	return 0, err
}

// Close ends the connection to the API server, and both streams with it.
func (f *forwarded) Close() error { return f.conn.Close() }
