// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"time"

	v1 "github.com/ocicat-net/ocicat/api/v1"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// answerLimit bounds what a client reads: 100,000 paths are about 20 MB.
const answerLimit = 256 << 20

// Client asks one agent.
type Client struct {
	name  string // of the agent, or its socket's path
	token func() string
	http  *http.Client
}

// Dial returns a client of the agent behind the socket path. Nothing is
// connected before the first question.
func Dial(path string) *Client {
	dialer := net.Dialer{Timeout: 2 * time.Second}
	return DialBy(path, func(ctx context.Context) (net.Conn, error) { return dialer.DialContext(ctx, "unix", path) }, nil)
}

// DialBy returns a client of the agent that connect reaches; name is for
// errors. token, if not nil, is asked for what each question shows as its
// bearer token.
func DialBy(name string, connect func(context.Context) (net.Conn, error), token func() string) *Client {
	return &Client{name: name, token: token, http: &http.Client{
		Timeout: 60 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return connect(ctx) },
		},
	}}
}

// Ready asks whether the agent serves pods.
func (c *Client) Ready(ctx context.Context) error {
	return c.ask(ctx, http.MethodGet, "ready", nil, &struct{}{})
}

// Report asks for the agent's state.
func (c *Client) Report(ctx context.Context) (*v1.NodeStatus, error) {
	var report v1.NodeStatus
	return &report, c.ask(ctx, http.MethodGet, "report", nil, &report)
}

// Sessions asks for the BGP sessions.
func (c *Client) Sessions(ctx context.Context) (list []speaker.Session, err error) {
	return list, c.ask(ctx, http.MethodGet, "sessions", nil, &list)
}

// Paths asks for every path the speaker knows.
func (c *Client) Paths(ctx context.Context) (list []speaker.Path, err error) {
	return list, c.ask(ctx, http.MethodGet, "paths", nil, &list)
}

// Routes asks for the learned routes, wanted and seen.
func (c *Client) Routes(ctx context.Context) (list []Route, err error) {
	return list, c.ask(ctx, http.MethodGet, "routes", nil, &list)
}

// Endpoints asks for the attached pods.
func (c *Client) Endpoints(ctx context.Context) (list []Endpoint, err error) {
	return list, c.ask(ctx, http.MethodGet, "endpoints", nil, &list)
}

// Drain tells the agent to end its sessions with a Cease.
func (c *Client) Drain(ctx context.Context, reason string) error {
	return c.ask(ctx, http.MethodPost, "drain", url.Values{"reason": {reason}}, &struct{}{})
}

func (c *Client) ask(ctx context.Context, method, what string, query url.Values, into any) error {
	resp, err := c.request(ctx, method, what, query, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, answerLimit)).Decode(into); err != nil {
		return fault.New(fault.Internal, "read the agent's answer on %s: %w", what, err)
	}
	return nil
}

// request asks and returns the answer, whose body the caller closes, or what
// the agent says is wrong.
func (c *Client) request(ctx context.Context, method, what string, query url.Values, body any) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: "agent", Path: "/v1/" + what, RawQuery: query.Encode()}
	data, err := encode(body)
	if err != nil {
		return nil, fault.New(fault.Internal, "ask agent for %s: %w", what, err)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), data)
	if err != nil {
		return nil, fault.New(fault.Internal, "ask agent for %s: %w", what, err)
	}
	if c.token != nil {
		req.Header.Set("Authorization", "Bearer "+c.token())
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var f failure
	if err := json.NewDecoder(io.LimitReader(resp.Body, answerLimit)).Decode(&f); err != nil {
		return nil, fault.New(fault.Internal, "ask agent for %s: answer %s", what, resp.Status)
	}
	return nil, f.err()
}

func (c *Client) unreachable(err error) error {
	cause := fault.New(fault.Unavailable, "ask agent at %s: %w", c.name, err)
	switch {
	case errors.Is(err, os.ErrPermission):
		return fault.Hint(fault.New(fault.Unavailable, "ask agent at %s: permission denied", c.name), "Only root may ask the agent: run the command with sudo.")
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fault.Hint(fault.New(fault.Unavailable, "ask agent at %s: it does not run", c.name), "Start ocicatd on this node, or name a lab with --lab.")
	}
	return fault.Hint(cause, "See the agent's log: it may be stopped or overloaded.")
}
