// SPDX-License-Identifier: Apache-2.0

// Package kube is the datastore in a Kubernetes API server: custom resources,
// and the core Node for nodes. What objects look like there is package shape's
// business; this one speaks the API, with a small client of its own over one
// HTTP/2 connection.
//
// Requests fail at once while the server does not answer, and a watch ends
// with its connection: callers have their own way to wait and to list again.
package kube

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/kube/shape"
)

// page is how many objects one request of a list reads.
const page = 500

// Store is a datastore in a Kubernetes API. Make one with New; it is safe for
// concurrent use.
type Store struct {
	client  *client
	profile shape.Profile
}

var _ store.Store = (*Store)(nil)

// New returns a store on the API server of cfg. It does not connect: it fails,
// as Invalid, only where cfg cannot be used.
func New(cfg Config) (*Store, error) {
	c, err := newClient(cfg)
	if err != nil {
		return nil, err
	}
	return &Store{client: c, profile: shape.V3()}, nil
}

// Get reads one object.
func (s *Store) Get(ctx context.Context, key store.Key) (store.Entry, error) {
	if err := key.Validate(); err != nil {
		return store.Entry{}, err
	}
	r, path, err := s.locate(key)
	if err != nil {
		return store.Entry{}, err
	}
	data, err := s.client.call(ctx, request{what: "get " + key.String(), method: http.MethodGet, path: path})
	if err != nil {
		return store.Entry{}, err
	}
	e, err := r.Decode(data)
	if err == nil && e.Key != key {
		err = fault.New(fault.NotFound, "get %s: Kubernetes holds %s under that name", key, e.Key)
	}
	return e, err
}

// locate is where an object is held.
func (s *Store) locate(key store.Key) (shape.Resource, string, error) {
	r, _ := s.profile.Resource(key.Kind)
	path, err := r.PathOf(key)
	return r, path, err
}

// objectList is one page of a list.
type objectList struct {
	Metadata struct {
		ResourceVersion string `json:"resourceVersion"`
		Continue        string `json:"continue"`
	} `json:"metadata"`
	Items []json.RawMessage `json:"items"`
}

// List reads all objects of a kind whose names start with prefix, in pages of
// one version. Where that version is forgotten meanwhile it begins anew.
func (s *Store) List(ctx context.Context, kind store.Kind, prefix string) ([]store.Entry, store.Revision, error) {
	if err := store.CheckList(kind, prefix); err != nil {
		return nil, 0, err
	}
	r, _ := s.profile.Resource(kind)
	for attempt := 0; ; attempt++ {
		entries, rev, err := s.list(ctx, r, prefix)
		if isExpired(err) && attempt < 2 {
			continue
		}
		return entries, rev, err
	}
}

func (s *Store) list(ctx context.Context, r shape.Resource, prefix string) ([]store.Entry, store.Revision, error) {
	var entries []store.Entry
	query := s.narrow(r, prefix)
	query.Set("limit", strconv.Itoa(page))
	for {
		data, err := s.client.call(ctx, request{what: "list " + string(r.Stored), method: http.MethodGet, path: r.Path(), query: query})
		if err != nil {
			if s.client.refusedSelector(r, query, err) {
				return s.list(ctx, r, prefix)
			}
			return nil, 0, err
		}
		var l objectList
		if err := json.Unmarshal(data, &l); err != nil {
			return nil, 0, fault.New(fault.Internal, "list %s: %w", r.Stored, err)
		}
		for _, item := range l.Items {
			e, err := r.Decode(item)
			if err != nil {
				s.client.log.Debug("stored object skipped", "err", err)
			} else if strings.HasPrefix(e.Key.Name, prefix) {
				entries = append(entries, e)
			}
		}
		if l.Metadata.Continue == "" {
			slices.SortFunc(entries, func(a, b store.Entry) int { return strings.Compare(a.Key.Name, b.Key.Name) })
			rev, err := shape.ParseRevision(l.Metadata.ResourceVersion)
			if err != nil {
				return nil, 0, fault.New(fault.Internal, "list %s: %w", r.Stored, err)
			}
			return entries, rev, nil
		}
		query.Set("continue", l.Metadata.Continue)
	}
}

// narrow is the query that lets the server leave out what prefix excludes, as
// far as it can.
func (s *Store) narrow(r shape.Resource, prefix string) url.Values {
	query := r.Select(prefix)
	if query == nil || s.client.unselectable.Load() {
		return url.Values{}
	}
	return query
}

// Put writes an object if its revision still is prev. A Node's annotations
// alone are written, and a Node is never created: that is Unsupported.
func (s *Store) Put(ctx context.Context, key store.Key, value []byte, prev store.Revision) (store.Revision, error) {
	if err := store.CheckPut(key, value); err != nil {
		return 0, err
	}
	r, path, err := s.locate(key)
	if err != nil {
		return 0, err
	}
	w := writer{s: s, resource: r, path: path, key: key, value: value}
	switch {
	case r.ReadOnly():
		return w.annotate(ctx, prev)
	case prev == 0:
		return w.create(ctx)
	case prev == store.AnyRevision:
		return w.overwrite(ctx)
	}
	rev, err := w.update(ctx, prev)
	if fault.Is(err, fault.NotFound) {
		err = fault.New(fault.Conflict, "put %s: it does not exist", key)
	}
	return rev, err
}

// writer is one Put.
type writer struct {
	s        *Store
	resource shape.Resource
	path     string
	key      store.Key
	value    []byte
}

func (w writer) create(ctx context.Context) (store.Revision, error) {
	body, err := w.resource.Create(w.key, w.value)
	if err != nil {
		return 0, err
	}
	return w.send(ctx, request{method: http.MethodPost, path: w.resource.Path(), body: body, mime: "application/json"})
}

func (w writer) update(ctx context.Context, prev store.Revision) (store.Revision, error) {
	body, err := w.resource.Patch(w.key, w.value, prev)
	if err != nil {
		return 0, err
	}
	return w.send(ctx, request{method: http.MethodPatch, path: w.path, body: body, mime: "application/json-patch+json"})
}

// overwrite writes whatever is stored. Somebody who creates and deletes at the
// same time can make it try again.
func (w writer) overwrite(ctx context.Context) (store.Revision, error) {
	for {
		rev, err := w.update(ctx, store.AnyRevision)
		if !fault.Is(err, fault.NotFound) && !fault.Is(err, fault.Conflict) {
			return rev, err
		}
		if fault.Is(err, fault.NotFound) {
			if rev, err = w.create(ctx); !fault.Is(err, fault.Conflict) {
				return rev, err
			}
		}
		if ctx.Err() != nil {
			return 0, err
		}
	}
}

// annotate writes the annotations of a Node.
func (w writer) annotate(ctx context.Context, prev store.Revision) (store.Revision, error) {
	current, err := w.s.client.call(ctx, request{what: "get " + w.key.String(), method: http.MethodGet, path: w.path})
	switch {
	case fault.Is(err, fault.NotFound) && prev != 0 && prev != store.AnyRevision:
		return 0, fault.New(fault.Conflict, "put %s: it does not exist", w.key)
	case fault.Is(err, fault.NotFound):
		err := fault.New(fault.Unsupported, "put %s: there is no such Node in Kubernetes", w.key)
		return 0, fault.Hint(err, "The kubelet creates Nodes; compare the name with kubectl get nodes, and set NODENAME.")
	case err != nil:
		return 0, err
	}
	e, err := w.resource.Decode(current)
	if err != nil {
		return 0, err
	}
	if prev != store.AnyRevision && prev != e.Revision {
		return 0, fault.New(fault.Conflict, "put %s: it is at revision %d, not %d", w.key, e.Revision, prev)
	}
	patch, err := shape.NodePatch(current, w.value, prev)
	if err != nil || patch == nil {
		return e.Revision, err
	}
	return w.send(ctx, request{method: http.MethodPatch, path: w.path + "/status", body: patch, mime: "application/merge-patch+json"})
}

// send carries out a write and reads the new revision from its answer.
func (w writer) send(ctx context.Context, q request) (store.Revision, error) {
	q.what = "put " + w.key.String()
	q.query = url.Values{"fieldManager": {"ocicat"}, "fieldValidation": {"Ignore"}}
	data, err := w.s.client.call(ctx, q)
	if err != nil {
		return 0, err
	}
	rev, err := revisionOf(data)
	if err != nil {
		return 0, fault.New(fault.Internal, "put %s: %w", w.key, err)
	}
	return rev, nil
}

// Delete removes an object if its revision still is prev. Nodes are not ours
// to delete: that is Unsupported.
func (s *Store) Delete(ctx context.Context, key store.Key, prev store.Revision) error {
	r, path, err := s.locate(key)
	if err != nil {
		return err
	}
	what := "delete " + key.String()
	if prev == 0 || r.ReadOnly() {
		if _, err := s.client.call(ctx, request{what: what, method: http.MethodGet, path: path}); err != nil {
			return err
		}
	}
	switch {
	case r.ReadOnly():
		return fault.Hint(fault.New(fault.Unsupported, "%s: Nodes belong to Kubernetes", what), "Use kubectl delete node %s.", key.Name)
	case prev == 0:
		return fault.New(fault.Conflict, "%s: it exists", what)
	}
	options := map[string]any{"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
	if prev != store.AnyRevision {
		options["preconditions"] = map[string]string{"resourceVersion": shape.FormatRevision(prev)}
	}
	body, err := json.Marshal(options)
	if err != nil {
		return fault.New(fault.Internal, "%s: %w", what, err)
	}
	_, err = s.client.call(ctx, request{what: what, method: http.MethodDelete, path: path, body: body, mime: "application/json"})
	return err
}

// Close ends all watches and releases connections.
func (s *Store) Close() error {
	s.client.close()
	return nil
}
