// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/kube/shape"
)

// watchFor is after how long the server ends a watch at least; each asks for
// up to twice of it, so that not all come back at once.
const watchFor = 5 * time.Minute

// Watch streams every change of a kind and prefix after revision since. The
// server ends each stream now and then; it is taken up again where it ended,
// unseen by the caller. Everything else ends the watch.
func (s *Store) Watch(ctx context.Context, kind store.Kind, prefix string, since store.Revision) (<-chan store.Event, error) {
	if err := store.CheckList(kind, prefix); err != nil {
		return nil, err
	}
	r, _ := s.profile.Resource(kind)
	ctx, cancel := s.client.bound(ctx)
	w := &watch{store: s, resource: r, prefix: prefix, at: since, out: make(chan store.Event)}
	body, err := w.open(ctx)
	if err != nil && !isExpired(err) {
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
	store    *Store
	resource shape.Resource
	prefix   string
	at       store.Revision // what the server told last
	out      chan store.Event
}

// open starts a stream after revision at.
func (w *watch) open(ctx context.Context) (io.ReadCloser, error) {
	query := w.store.narrow(w.resource, w.prefix)
	query.Set("watch", "1")
	query.Set("allowWatchBookmarks", "true")
	query.Set("timeoutSeconds", strconv.Itoa(int((watchFor + rand.N(watchFor)).Seconds())))
	if w.at != 0 {
		query.Set("resourceVersion", shape.FormatRevision(w.at))
	}
	body, err := w.store.client.stream(ctx, request{what: "watch " + string(w.resource.Stored), method: http.MethodGet, path: w.resource.Path(), query: query})
	if w.store.client.refusedSelector(w.resource, query, err) {
		return w.open(ctx)
	}
	return body, err
}

// run forwards events until a stream ends in another way than by its time.
func (w *watch) run(ctx context.Context, body io.ReadCloser) {
	for w.forward(ctx, body) {
		var err error
		if body, err = w.open(ctx); err != nil {
			return
		}
	}
}

// frame is one line of a stream.
type frame struct {
	Type   string          `json:"type"`
	Object json.RawMessage `json:"object"`
}

// forward sends the events of one stream; true says that the server ended it
// in good order and it can be taken up again.
func (w *watch) forward(ctx context.Context, body io.ReadCloser) bool {
	defer body.Close()
	frames := json.NewDecoder(body)
	for {
		var f frame
		if err := frames.Decode(&f); err != nil {
			return err == io.EOF && w.at != 0 && ctx.Err() == nil
		}
		event, pass, err := w.event(f)
		if err != nil {
			return false
		}
		if !pass {
			continue
		}
		select {
		case w.out <- event:
		case <-ctx.Done():
			return false
		}
	}
}

// event reads a frame; pass is false for those no caller sees.
func (w *watch) event(f frame) (event store.Event, pass bool, err error) {
	if f.Type == "ERROR" {
		return store.Event{}, false, fault.New(fault.Unavailable, "watch %s: %s", w.resource.Stored, f.Object)
	}
	rev, err := revisionOf(f.Object)
	if err != nil {
		return store.Event{}, false, err
	}
	w.at = max(w.at, rev)
	if f.Type == "BOOKMARK" {
		return store.Event{}, false, nil
	}
	e, err := w.resource.Decode(f.Object)
	if err != nil {
		w.store.client.log.Debug("stored object skipped", "err", err)
		return store.Event{}, false, nil
	}
	event = store.Event{Entry: e, Deleted: f.Type == "DELETED"}
	if event.Deleted {
		event.Entry.Value = nil
	}
	return event, strings.HasPrefix(e.Key.Name, w.prefix), nil
}

func revisionOf(o []byte) (store.Revision, error) {
	var head struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(o, &head); err != nil {
		return 0, err
	}
	return shape.ParseRevision(head.Metadata.ResourceVersion)
}
