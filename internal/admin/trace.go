// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/probe"
	"github.com/ocicat-net/ocicat/internal/trace"
)

// Tracer opens the kernels of places of the agent's node; the caller calls done.
// A pod's namespace is entered for trace's questions and for frames that carry
// a probe's tag; nothing else of a pod can be seen through this door.
type Tracer interface {
	// Site opens places; one that does not exist has nothing.
	Site(ctx context.Context, places []trace.Place) (site probe.Site, done func(), err error)
}

// questionLimit bounds the body of a question, in bytes.
const questionLimit = 64 << 10

// listenLimit is how long one listens for a probe.
const listenLimit = 30 * time.Second

// question asks a kernel one thing.
type question struct {
	At     trace.Place  `json:"at"`
	Route  *trace.Query `json:"route,omitempty"`
	Neigh  *neighbour   `json:"neigh,omitempty"`
	Link   string       `json:"link,omitempty"`
	Sysctl string       `json:"sysctl,omitempty"`
	// Masquerades asks about a packet that leaves, by its source and destination.
	Masquerades *ends `json:"masquerades,omitempty"`
}

type ends struct {
	Src netip.Addr `json:"src"`
	Dst netip.Addr `json:"dst"`
}

type neighbour struct {
	Dev string     `json:"dev"`
	IP  netip.Addr `json:"ip"`
}

// finding answers a question: what was asked for, if OK.
type finding struct {
	OK     bool        `json:"ok"`
	Route  *host.Route `json:"route,omitempty"`
	Neigh  *host.Neigh `json:"neigh,omitempty"`
	Link   *host.Link  `json:"link,omitempty"`
	Sysctl string      `json:"sysctl,omitempty"`
}

// sending has the node send a probe.
type sending struct {
	From probe.Sender `json:"from"`
	To   netip.Addr   `json:"to"`
	Tag  probe.Tag    `json:"tag"`
}

// sent answers it.
type sent struct {
	At time.Time `json:"at"`
}

// listening has the node watch for a probe.
type listening struct {
	Tag  probe.Tag   `json:"tag"`
	Taps []probe.Tap `json:"taps"`
}

// heard is one line of the answer: first that all taps are open, then frames;
// a failure ends it.
type heard struct {
	Ready   bool           `json:"ready,omitempty"`
	Frame   *probe.Capture `json:"frame,omitempty"`
	Failure *failure       `json:"failure,omitempty"`
}

// traceRoutes are the questions of trace.
func traceRoutes(mux *http.ServeMux, tracer Tracer) {
	mux.HandleFunc("POST /v1/trace/ask", onSite(tracer, func(_ context.Context, site probe.Site, q question) (any, error) { return ask(site, q) }))
	mux.HandleFunc("POST /v1/trace/send", onSite(tracer, func(ctx context.Context, site probe.Site, s sending) (any, error) {
		at, err := site.Send(ctx, s.From, s.To, s.Tag)
		return sent{at}, err
	}))
	mux.HandleFunc("POST /v1/trace/listen", func(w http.ResponseWriter, r *http.Request) { hear(w, r, tracer) })
}

func (q question) places() []trace.Place { return []trace.Place{q.At} }

func (s sending) places() []trace.Place { return []trace.Place{s.From.At} }

func (l listening) places() []trace.Place {
	var places []trace.Place
	for _, tap := range l.Taps {
		places = append(places, tap.At)
	}
	return places
}

// onSite answers a question of kernels.
func onSite[Q interface{ places() []trace.Place }](tracer Tracer, do func(context.Context, probe.Site, Q) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q Q
		if err := readQuestion(r, &q); err != nil {
			answer(w, nil, err)
			return
		}
		site, done, err := tracer.Site(r.Context(), q.places())
		if err != nil {
			answer(w, nil, err)
			return
		}
		defer done()
		body, err := do(r.Context(), site, q)
		answer(w, body, err)
	}
}

func readQuestion(r *http.Request, into any) error {
	decoder := json.NewDecoder(io.LimitReader(r.Body, questionLimit))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return fault.New(fault.Invalid, "read question: %w", err)
	}
	return nil
}

func ask(site probe.Site, q question) (f finding, err error) {
	switch {
	case q.Route != nil:
		f.Route = new(host.Route)
		*f.Route, f.OK, err = site.Route(q.At, *q.Route)
	case q.Neigh != nil:
		f.Neigh = new(host.Neigh)
		*f.Neigh, f.OK, err = site.Neigh(q.At, q.Neigh.Dev, q.Neigh.IP)
	case q.Link != "":
		f.Link = new(host.Link)
		*f.Link, f.OK, err = site.Link(q.At, q.Link)
	case q.Sysctl != "":
		f.Sysctl, err = site.Sysctl(q.At, q.Sysctl)
	case q.Masquerades != nil:
		f.OK, err = site.Masquerades(q.At, q.Masquerades.Src, q.Masquerades.Dst)
	default:
		err = fault.New(fault.Invalid, "read question: want route, neigh, link, sysctl or masquerades")
	}
	return f, err
}

// hear answers with a line for each frame until the client is gone.
func hear(w http.ResponseWriter, r *http.Request, tracer Tracer) {
	var l listening
	if err := readQuestion(r, &l); err != nil {
		answer(w, nil, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), listenLimit)
	defer cancel()
	site, done, err := tracer.Site(ctx, l.places())
	if err != nil {
		answer(w, nil, err)
		return
	}
	defer done()
	out, lines := http.NewResponseController(w), json.NewEncoder(w)
	w.Header().Set("Content-Type", "application/x-ndjson")
	var one sync.Mutex // the first frames can come while "ready" is still being written
	say := func(line heard) {
		one.Lock()
		defer one.Unlock()
		if lines.Encode(line) != nil || out.Flush() != nil {
			cancel() // the client is gone
		}
	}
	err = site.Listen(ctx, l.Tag, l.Taps, func() { say(heard{Ready: true}) }, func(c probe.Capture) { say(heard{Frame: &c}) })
	if err != nil {
		say(heard{Failure: failureOf(err)})
	}
}

// Site is the agent's node and its pods, for trace. Its questions end with ctx.
func (c *Client) Site(ctx context.Context) probe.Site { return site{ctx, c} }

// site asks an agent.
type site struct {
	ctx    context.Context
	client *Client
}

func (s site) ask(q question) (f finding, err error) {
	return f, s.client.post(s.ctx, "trace/ask", q, &f)
}

// Route asks for the kernel's lookup.
func (s site) Route(at trace.Place, q trace.Query) (r host.Route, ok bool, err error) {
	f, err := s.ask(question{At: at, Route: &q})
	if f.Route != nil {
		r = *f.Route
	}
	return r, f.OK, err
}

// Neigh asks for a neighbour entry.
func (s site) Neigh(at trace.Place, dev string, ip netip.Addr) (n host.Neigh, ok bool, err error) {
	f, err := s.ask(question{At: at, Neigh: &neighbour{dev, ip}})
	if f.Neigh != nil {
		n = *f.Neigh
	}
	return n, f.OK, err
}

// Link asks for a device.
func (s site) Link(at trace.Place, dev string) (l host.Link, ok bool, err error) {
	f, err := s.ask(question{At: at, Link: dev})
	if f.Link != nil {
		l = *f.Link
	}
	return l, f.OK, err
}

// Sysctl asks for a setting.
func (s site) Sysctl(at trace.Place, path string) (string, error) {
	f, err := s.ask(question{At: at, Sysctl: path})
	return f.Sysctl, err
}

// Masquerades asks whether the node masquerades a packet.
func (s site) Masquerades(at trace.Place, src, dst netip.Addr) (bool, error) {
	f, err := s.ask(question{At: at, Masquerades: &ends{src, dst}})
	return f.OK, err
}

// Send has the agent send.
func (s site) Send(ctx context.Context, from probe.Sender, to netip.Addr, tag probe.Tag) (time.Time, error) {
	var answer sent
	err := s.client.post(ctx, "trace/send", sending{from, to, tag}, &answer)
	return answer.At, err
}

// Listen has the agent listen.
func (s site) Listen(ctx context.Context, tag probe.Tag, taps []probe.Tap, ready func(), each func(probe.Capture)) error {
	resp, err := s.client.request(ctx, http.MethodPost, "trace/listen", nil, listening{tag, taps})
	if err != nil {
		return endedBy(ctx, err)
	}
	defer resp.Body.Close()
	for lines := json.NewDecoder(resp.Body); ; {
		var line heard
		if err := lines.Decode(&line); err != nil {
			return endedBy(ctx, fault.New(fault.Unavailable, "listen at %s: %w", s.client.name, err))
		}
		switch {
		case line.Failure != nil:
			return line.Failure.err()
		case line.Frame != nil:
			each(*line.Frame)
		default:
			ready()
		}
	}
}

// endedBy is nil where the end was asked for.
func endedBy(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// post asks with a body.
func (c *Client) post(ctx context.Context, what string, body, into any) error {
	resp, err := c.request(ctx, http.MethodPost, what, nil, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, answerLimit)).Decode(into); err != nil {
		return fault.New(fault.Internal, "read the agent's answer on %s: %w", what, err)
	}
	return nil
}

// encode is a body as JSON; nil is none.
func encode(body any) (io.Reader, error) {
	if body == nil {
		return nil, nil
	}
	data, err := json.Marshal(body)
	return bytes.NewReader(data), err
}
