// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ocicat-net/ocicat/internal/buildinfo"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store/kube/shape"
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

// client speaks to one API server.
type client struct {
	server  *url.URL
	http    *http.Client
	token   *tokenSource
	limit   *limiter
	timeout time.Duration
	log     *slog.Logger

	done context.Context // ends with close
	end  context.CancelFunc

	// unselectable is set when the server does not know the field we select
	// affinities by; everything is read then.
	unselectable atomic.Bool
}

// request is one call of the API.
type request struct {
	what         string // the caller's words, as "get IPPool default"
	method, path string
	query        url.Values
	body         []byte
	mime         string // of the body
}

func newClient(cfg Config) (*client, error) {
	cfg = cfg.withDefaults()
	server, err := cfg.validate()
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: dialTimeout,
		ForceAttemptHTTP2:   true,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout, WriteByteTimeout: pingTimeout},
		TLSClientConfig:     cfg.tlsConfig(server.Hostname()),
	}
	c := &client{
		server: server, http: &http.Client{Transport: transport, CheckRedirect: noRedirect},
		token: &tokenSource{text: cfg.Token, file: cfg.TokenFile}, limit: newLimiter(cfg.Rate, cfg.Burst),
		timeout: cfg.Timeout, log: cfg.Log,
	}
	c.done, c.end = context.WithCancel(context.Background())
	return c, nil
}

// noRedirect keeps our token from other servers.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func (c *client) close() {
	c.end()
	c.http.CloseIdleConnections()
}

// bound is ctx that ends with the client too.
func (c *client) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.done, func() { cancel(errClosed) })
	return ctx, func() { stop(); cancel(nil) }
}

// call carries out a request and returns the body of its answer.
func (c *client) call(ctx context.Context, q request) ([]byte, error) {
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

// stream starts a request whose answer has no end. ctx ends it.
func (c *client) stream(ctx context.Context, q request) (io.ReadCloser, error) {
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
func (c *client) do(ctx context.Context, q request) (answer *http.Response, sent bool, err error) {
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
func (c *client) once(ctx context.Context, q request, token string) (*http.Response, bool, error) {
	var sent atomic.Bool
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }}
	u := *c.server
	u.Path = strings.TrimSuffix(u.Path, "/") + q.path
	u.RawQuery = q.query.Encode()
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), q.method, u.String(), bytes.NewReader(q.body))
	if err != nil {
		return nil, false, err
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "ocicat/"+buildinfo.Read().Version)
	if q.mime != "" {
		r.Header.Set("Content-Type", q.mime)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := c.http.Do(r)
	return answer, sent.Load(), err
}

// refusedSelector says that err is the server's answer to a field it cannot
// select by, as servers before 1.31 and other definitions of the resource
// cannot, and has the client go without from now on.
func (c *client) refusedSelector(r shape.Resource, query url.Values, err error) bool {
	if !query.Has("fieldSelector") || !fault.Is(err, fault.Invalid) {
		return false
	}
	c.log.Info("the API server cannot select by field: all objects are read", "resource", r.Plural)
	c.unselectable.Store(true)
	return true
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
	if c.Certificate.given() {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.Certificate.load() }
	}
	return cfg
}
