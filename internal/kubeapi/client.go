// SPDX-License-Identifier: Apache-2.0

// Package kubeapi is a small client of a Kubernetes API server: requests,
// lists and watches of JSON objects over one HTTP/2 connection, with a bounded
// rate. It says of every failed write whether it may have happened, notices a
// silent server within ten seconds, and reads certificates and tokens anew that
// are replaced on disk. What objects mean it does not know.
//
// Requests fail at once while the server does not answer, and a watch ends with
// its connection: callers have their own way to wait and to list again.
package kubeapi

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ocicat-net/ocicat/internal/buildinfo"
	"github.com/ocicat-net/ocicat/internal/localconn"
)

// Times at which a silent server is given up: a connection over which nothing
// comes for pingAfter is asked for a sign of life, and ends pingTimeout later.
const (
	dialTimeout = 3 * time.Second
	pingAfter   = 4 * time.Second
	pingTimeout = 3 * time.Second
)

// maxAnswer bounds what one answer may take in memory, in bytes: a page of
// objects at their limit would be more, and no cluster has such.
const maxAnswer = 256 << 20

// Client speaks to one API server. Make one with New; it is safe for
// concurrent use.
type Client struct {
	server   *url.URL
	http     *http.Client
	upgrades *http.Transport // of HTTP/1.1, for connections that change their protocol
	token    *tokenSource
	limit    *limiter
	conns    *localconn.Conns
	as       Impersonation
	timeout  time.Duration
	log      *slog.Logger

	done context.Context // ends with close
	end  context.CancelFunc
}

// Request is one call of the API.
type Request struct {
	// What is what the caller does, as "get IPPool default"; errors begin so.
	What string
	// Method and Path are HTTP's, as "GET" and "/api/v1/nodes".
	Method, Path string
	// Query is what stands behind the path.
	Query url.Values
	// Accept is the form of the answer; default is JSON.
	Accept string
	// Body is what is sent, and MIME its type; default is none and JSON.
	Body []byte
	MIME string
}

// The types of a body that changes an object.
const (
	MergePatch = "application/merge-patch+json"
	JSONPatch  = "application/json-patch+json"
)

// New returns a client of cfg's API server. It does not connect: it fails, as
// Invalid, only where cfg cannot be used.
func New(cfg Config) (*Client, error) {
	cfg = cfg.withDefaults()
	server, err := cfg.validate()
	if err != nil {
		return nil, err
	}
	conns := &localconn.Conns{}
	c := &Client{
		server: server, http: &http.Client{Transport: cfg.transport(server, conns, true), CheckRedirect: noRedirect}, conns: conns, as: cfg.As,
		token: &tokenSource{text: cfg.Token, file: cfg.TokenFile, program: cfg.Program}, limit: newLimiter(cfg.Rate, cfg.Burst),
		timeout: cfg.Timeout, log: cfg.Log,
	}
	c.upgrades = cfg.transport(server, conns, false)
	c.done, c.end = context.WithCancel(context.Background())
	return c, nil
}

// transport speaks HTTP/2 with the server, or HTTP/1.1, over conns.
func (c Config) transport(server *url.URL, conns *localconn.Conns, http2 bool) *http.Transport {
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return conns.Dial(ctx, dialer, network, address)
		},
		TLSHandshakeTimeout: dialTimeout,
		TLSClientConfig:     c.tlsConfig(server.Hostname()),
		Protocols:           new(http.Protocols),
	}
	if c.Proxy != nil {
		t.Proxy = http.ProxyURL(c.Proxy)
	}
	t.Protocols.SetHTTP1(true)
	if http2 {
		t.Protocols.SetHTTP2(true)
		t.HTTP2 = &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout, WriteByteTimeout: pingTimeout}
	}
	return t
}

// AddressGone gives up connections from an address this machine has no more: what
// waits for an answer over one fails at once, and the next request connects anew.
func (c *Client) AddressGone(local netip.Addr) { c.conns.Gone(local) }

// noRedirect keeps our token from other servers.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Close ends all streams and releases connections; later calls are Unavailable.
func (c *Client) Close() {
	c.end()
	c.http.CloseIdleConnections()
}

// bound is ctx that ends with the client too.
func (c *Client) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.done, func() { cancel(errClosed) })
	return ctx, func() { stop(); cancel(nil) }
}

// Call carries out a request and returns the body of its answer. Errors carry a
// fault kind: NotFound, Conflict, Invalid (the server does not accept the
// object), Unsupported, Unavailable (with store.ErrDenied where we are not
// allowed to, with store.ErrAmbiguous where a write may have happened).
func (c *Client) Call(ctx context.Context, q Request) ([]byte, error) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	ctx, stop := context.WithTimeoutCause(ctx, c.timeout, errTimeout)
	defer stop()
	answer, sent, err := c.do(ctx, q)
	if err != nil {
		return nil, transportFault(ctx, q, err, sent)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return nil, transportFault(ctx, q, err, true)
	}
	if answer.StatusCode/100 != 2 {
		return nil, statusFault(q, answer, data)
	}
	return data, nil
}

// Stream starts a request whose answer has no end. ctx ends it, and Close of
// what is returned.
func (c *Client) Stream(ctx context.Context, q Request) (io.ReadCloser, error) {
	starting, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(c.timeout, func() { cancel(errTimeout) })
	answer, sent, err := c.do(starting, q)
	if !timer.Stop() && err == nil {
		_ = answer.Body.Close()
		err = errTimeout
	}
	if err != nil {
		cancel(nil)
		return nil, transportFault(starting, q, err, sent)
	}
	if answer.StatusCode != http.StatusOK {
		data, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<20)) // the status says enough
		_ = answer.Body.Close()
		cancel(nil)
		return nil, statusFault(q, answer, data)
	}
	return &streamBody{answer.Body, cancel}, nil
}

// streamBody releases a stream's context with its body.
type streamBody struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

// Close ends the stream.
func (b *streamBody) Close() error {
	b.cancel(nil)
	return b.ReadCloser.Close()
}

// do sends a request until it gets an answer that is not "later" and not
// "who are you" where the token was replaced meanwhile: in both cases the
// server has surely not carried it out. sent says whether the request may have
// reached the server where err is not nil.
func (c *Client) do(ctx context.Context, q Request) (answer *http.Response, sent bool, err error) {
	for {
		if err := c.limit.wait(ctx); err != nil {
			return nil, false, err
		}
		token, err := c.token.get(time.Now())
		if err != nil {
			return nil, false, err
		}
		answer, sent, err := c.once(ctx, q, token)
		if err != nil {
			return nil, sent, err
		}
		switch answer.StatusCode {
		case http.StatusUnauthorized:
			if !c.token.refused(token) {
				return answer, true, nil
			}
		case http.StatusTooManyRequests:
			if !c.limit.pause(ctx, retryAfter(answer)) {
				return answer, true, nil
			}
		default:
			return answer, true, nil
		}
		_ = answer.Body.Close()
	}
}

// once sends a request one time.
func (c *Client) once(ctx context.Context, q Request, token string) (*http.Response, bool, error) {
	var sent atomic.Bool
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }}
	r, err := c.request(httptrace.WithClientTrace(ctx, trace), q, token)
	if err != nil {
		return nil, false, err
	}
	answer, err := c.http.Do(r)
	return answer, sent.Load(), err
}

// request is a request with our credentials.
func (c *Client) request(ctx context.Context, q Request, token string) (*http.Request, error) {
	u := *c.server
	u.Path = strings.TrimSuffix(u.Path, "/") + q.Path
	u.RawQuery = q.Query.Encode()
	r, err := http.NewRequestWithContext(ctx, q.Method, u.String(), bytes.NewReader(q.Body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", cmp.Or(q.Accept, "application/json"))
	r.Header.Set("User-Agent", "ocicat/"+buildinfo.Read().Version)
	if len(q.Body) > 0 {
		r.Header.Set("Content-Type", cmp.Or(q.MIME, "application/json"))
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	c.as.set(r.Header)
	return r, nil
}

// tlsConfig trusts the authorities of cfg, and shows its certificate. Files
// are read for each connection: what was replaced counts from the next one on.
func (c Config) tlsConfig(host string) *tls.Config {
	name := c.ServerName
	if name == "" {
		name = host
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: name, InsecureSkipVerify: true}
	if !c.Insecure {
		cfg.VerifyConnection = c.verify
	}
	switch {
	case c.Program != nil:
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.Program.certificate() }
	case c.Certificate.given():
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.Certificate.load() }
	}
	return cfg
}
