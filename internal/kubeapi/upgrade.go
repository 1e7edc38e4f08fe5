// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"context"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// Upgrade makes a POST to a path that asks for another protocol on its
// connection, as port-forward does, and returns the connection once the server
// has agreed. It speaks HTTP/1.1 on a connection of its own; ctx bounds the
// handshake alone.
func (c *Client) Upgrade(ctx context.Context, path string, header http.Header) (net.Conn, error) {
	q := Request{What: "connect to " + path, Method: http.MethodPost, Path: path}
	starting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	detach := context.AfterFunc(ctx, cancel)
	answer, err := c.upgrade(starting, q, header)
	if err == nil && !detach() {
		_ = answer.Body.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		cancel()
		return nil, err
	}
	stream, ok := answer.Body.(io.ReadWriteCloser)
	if !ok {
		_ = answer.Body.Close()
		cancel()
		return nil, fault.New(fault.Internal, "%s: the connection cannot be written to", q.What)
	}
	return &upgraded{ReadWriteCloser: stream, cancel: cancel}, nil
}

func (c *Client) upgrade(ctx context.Context, q Request, header http.Header) (*http.Response, error) {
	token, err := c.token.get(time.Now())
	if err != nil {
		return nil, err
	}
	r, err := c.request(ctx, q, token)
	if err != nil {
		return nil, fault.New(fault.Internal, "%s: %w", q.What, err)
	}
	r.Header.Set("Accept", "*/*") // the API server refuses to answer an upgrade with JSON
	for name, values := range header {
		r.Header[name] = values
	}
	answer, err := c.upgrades.RoundTrip(r)
	if err != nil {
		return nil, transportFault(ctx, q, err, true)
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		data, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<20)) // the status says enough
		_ = answer.Body.Close()
		return nil, statusFault(q, answer, data)
	}
	return answer, nil
}

// upgraded is the connection behind an answer of status 101, without the
// deadlines and addresses net/http does not hand out.
type upgraded struct {
	io.ReadWriteCloser
	cancel context.CancelFunc
}

// Close ends the connection.
func (u *upgraded) Close() error {
	err := u.ReadWriteCloser.Close()
	u.cancel()
	return err
}

// LocalAddr is not known.
func (u *upgraded) LocalAddr() net.Addr { return nowhere{} }

// RemoteAddr is not known.
func (u *upgraded) RemoteAddr() net.Addr { return nowhere{} }

// SetDeadline is not possible; the protocols used have their own.
func (u *upgraded) SetDeadline(time.Time) error { return nil }

// SetReadDeadline is not possible.
func (u *upgraded) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline is not possible.
func (u *upgraded) SetWriteDeadline(time.Time) error { return nil }

// nowhere is the address of a connection through the API server.
type nowhere struct{}

// Network names the network.
func (nowhere) Network() string { return "kubernetes" }

// String names the address.
func (nowhere) String() string { return "API server" }
