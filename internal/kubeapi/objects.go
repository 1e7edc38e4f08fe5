// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
)

// page is how many objects one request of a list reads.
const page = 500

// Source is a set of objects of the API.
type Source struct {
	// Kind is the kind the objects have for the caller.
	Kind store.Kind
	// Path is where they are, as "/api/v1/pods"; Query narrows them, as
	// "fieldSelector": "spec.nodeName=k8s-node-1".
	Path  string
	Query url.Values
	// Brief leaves all but type and metadata out of the objects.
	Brief bool
	// Decode turns an object into an entry; what it refuses is left out, and
	// what it returns with the fault NotFound is to readers as if it were
	// deleted. The default is Plain.
	Decode func(object []byte) (store.Entry, error)
}

// Plain is the entry of an object as it is, under its name, or namespace and
// name joined by a slash.
func Plain(kind store.Kind, object []byte) (store.Entry, error) {
	var head struct {
		Metadata struct {
			Name            string `json:"name"`
			Namespace       string `json:"namespace"`
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(object, &head); err != nil {
		return store.Entry{}, fault.New(fault.Internal, "read %s: %w", kind, err)
	}
	name := head.Metadata.Name
	if head.Metadata.Namespace != "" {
		name = head.Metadata.Namespace + "/" + name
	}
	rev, err := ParseRevision(head.Metadata.ResourceVersion)
	return store.Entry{Key: store.Key{Kind: kind, Name: name}, Value: object, Revision: rev}, err
}

// ParseRevision reads a resourceVersion, a number that grows with every write
// to the server (Kubernetes promises that since 1.35, and always kept it).
func ParseRevision(text string) (store.Revision, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fault.New(fault.Internal, "resourceVersion %q is not a number", text)
	}
	return store.Revision(n), nil
}

// FormatRevision is a revision as Kubernetes writes it.
func FormatRevision(r store.Revision) string { return strconv.FormatUint(uint64(r), 10) }

func (s Source) decode(object []byte) (store.Entry, error) {
	if s.Decode != nil {
		return s.Decode(object)
	}
	return Plain(s.Kind, object)
}

// accept is the form in which the server gives objects, or lists of them.
func (s Source) accept(kind string) string {
	if !s.Brief {
		return ""
	}
	return "application/json;as=" + kind + ";g=meta.k8s.io;v=v1"
}

// query is a copy of the source's query to add to.
func (s Source) query() url.Values {
	query := url.Values{}
	for name, values := range s.Query {
		query[name] = slices.Clone(values)
	}
	return query
}

// List reads all objects of a source whose entries' names start with prefix,
// sorted by name, in pages of one version, which it returns. Where that version
// is forgotten meanwhile it begins anew.
func (c *Client) List(ctx context.Context, s Source, prefix string) ([]store.Entry, store.Revision, error) {
	for attempt := 0; ; attempt++ {
		entries, rev, err := c.list(ctx, s, prefix)
		if errors.Is(err, errExpired) && attempt < 2 {
			continue
		}
		return entries, rev, err
	}
}

func (c *Client) list(ctx context.Context, s Source, prefix string) ([]store.Entry, store.Revision, error) {
	var entries []store.Entry
	query := s.query()
	query.Set("limit", strconv.Itoa(page))
	for {
		data, err := c.Call(ctx, Request{What: "list " + string(s.Kind), Method: http.MethodGet, Path: s.Path, Query: query, Accept: s.accept("PartialObjectMetadataList")})
		if err != nil {
			return nil, 0, err
		}
		var l struct {
			Metadata struct {
				ResourceVersion string `json:"resourceVersion"`
				Continue        string `json:"continue"`
			} `json:"metadata"`
			Items []json.RawMessage `json:"items"`
		}
		if err := json.Unmarshal(data, &l); err != nil {
			return nil, 0, fault.New(fault.Internal, "list %s: %w", s.Kind, err)
		}
		for _, item := range l.Items {
			e, err := s.decode(item)
			if err != nil {
				c.log.Debug("object skipped", "err", err)
			} else if strings.HasPrefix(e.Key.Name, prefix) {
				entries = append(entries, e)
			}
		}
		if l.Metadata.Continue == "" {
			slices.SortFunc(entries, func(a, b store.Entry) int { return strings.Compare(a.Key.Name, b.Key.Name) })
			rev, err := ParseRevision(l.Metadata.ResourceVersion)
			return entries, rev, err
		}
		query.Set("continue", l.Metadata.Continue)
	}
}

// watchFor is after how long the server ends a watch at least; each asks for
// up to twice of it, so that not all come back at once. A stream that ends
// earlier than minStream has not ended by its time.
const (
	watchFor  = 5 * time.Minute
	minStream = time.Second
)

// Watch streams every change of a source and prefix after revision since, in
// order. The server ends each stream now and then; it is taken up again where
// it ended, unseen by the caller. Anything else closes the channel.
func (c *Client) Watch(ctx context.Context, s Source, prefix string, since store.Revision) (<-chan store.Event, error) {
	ctx, cancel := c.bound(ctx)
	w := &watch{client: c, source: s, prefix: prefix, at: since, out: make(chan store.Event)}
	body, err := w.open(ctx)
	if err != nil && !errors.Is(err, errExpired) {
		cancel()
		return nil, err
	}
	go func() {
		defer cancel()
		defer close(w.out)
		if err == nil {
			w.run(ctx, body)
		}
	}()
	return w.out, nil
}

type watch struct {
	client *Client
	source Source
	prefix string
	at     store.Revision // what the server told last
	out    chan store.Event
}

// open starts a stream after revision at.
func (w *watch) open(ctx context.Context) (io.ReadCloser, error) {
	query := w.source.query()
	query.Set("watch", "1")
	query.Set("allowWatchBookmarks", "true")
	query.Set("timeoutSeconds", strconv.Itoa(int((watchFor + rand.N(watchFor)).Seconds())))
	if w.at != 0 {
		query.Set("resourceVersion", FormatRevision(w.at))
	}
	return w.client.Stream(ctx, Request{
		What: "watch " + string(w.source.Kind), Method: http.MethodGet, Path: w.source.Path, Query: query,
		Accept: w.source.accept("PartialObjectMetadata"),
	})
}

// run forwards events until a stream ends in another way than by its time.
func (w *watch) run(ctx context.Context, body io.ReadCloser) {
	for {
		start := time.Now()
		err := w.forward(ctx, body)
		if err != io.EOF || w.at == 0 || time.Since(start) < minStream || ctx.Err() != nil {
			w.client.log.Debug("watch ended", "kind", string(w.source.Kind), "err", err)
			return
		}
		if body, err = w.open(ctx); err != nil {
			w.client.log.Debug("watch ended", "kind", string(w.source.Kind), "err", err)
			return
		}
	}
}

// frame is one event of a stream.
type frame struct {
	Type   string          `json:"type"`
	Object json.RawMessage `json:"object"`
}

// forward sends the events of one stream until it ends: with io.EOF where the
// server ended it in good order.
func (w *watch) forward(ctx context.Context, body io.ReadCloser) error {
	defer body.Close()
	frames := json.NewDecoder(body)
	for {
		var f frame
		if err := frames.Decode(&f); err != nil {
			return err
		}
		event, pass, err := w.event(f)
		if err != nil {
			return err
		}
		if !pass {
			continue
		}
		select {
		case w.out <- event:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// event reads a frame; pass is false for those no caller sees.
func (w *watch) event(f frame) (event store.Event, pass bool, err error) {
	if f.Type == "ERROR" {
		return store.Event{}, false, fault.New(fault.Unavailable, "watch %s: %s", w.source.Kind, f.Object)
	}
	rev, err := RevisionOf(f.Object)
	if err != nil {
		return store.Event{}, false, err
	}
	w.at = max(w.at, rev)
	if f.Type == "BOOKMARK" {
		return store.Event{}, false, nil
	}
	e, err := w.source.decode(f.Object)
	marked := fault.Is(err, fault.NotFound)
	if err != nil && !marked {
		w.client.log.Debug("object skipped", "err", err)
		return store.Event{}, false, nil
	}
	event = store.Event{Entry: e, Deleted: marked || f.Type == "DELETED"}
	if event.Deleted {
		event.Entry.Value = nil
	}
	return event, strings.HasPrefix(e.Key.Name, w.prefix), nil
}

// RevisionOf is the version of an object as the API gives it.
func RevisionOf(object []byte) (store.Revision, error) {
	e, err := Plain("object", object)
	return e.Revision, err
}
