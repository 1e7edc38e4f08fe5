// SPDX-License-Identifier: Apache-2.0

// Package kube is the datastore in a Kubernetes API server: custom resources,
// and the core Node for nodes. What objects look like there is package shape's
// business, how one speaks to the server package kubeapi's.
package kube

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"sync/atomic"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/kube/shape"
)

// Store is a datastore in a Kubernetes API. Make one with New; it is safe for
// concurrent use.
type Store struct {
	client *kubeapi.Client
	brief  bool // of Nodes their metadata alone is listed and watched
	log    *slog.Logger

	chosen  atomic.Pointer[shape.Profile] // nil until it is found
	looking chan struct{}                 // full while somebody looks for it

	locked atomic.Bool // as FollowLock knows

	// unselectable is set when the server does not know the field we select
	// affinities by; everything is read then.
	unselectable atomic.Bool
}

var _ store.Store = (*Store)(nil)

// Config is what a Store needs beyond its client.
type Config struct {
	// Group is where Calico's kinds are: "projectcalico.org/v3",
	// "crd.projectcalico.org/v1", or Automatic.
	Group string
	// Brief has lists and watches of Nodes hold what their metadata says, which
	// is what agents need of other nodes: a Node with its list of images is ten
	// times as large. Get reads a whole one.
	Brief bool
	// Log gets what no caller sees.
	Log *slog.Logger
}

// Automatic has the store find out which resources hold Calico's kinds.
const Automatic = ""

// New returns a store that speaks through client, and closes it when it is
// closed. Another group than those of cfg is Invalid.
func New(client *kubeapi.Client, cfg Config) (*Store, error) {
	s := &Store{client: client, brief: cfg.Brief, log: cfg.Log, looking: make(chan struct{}, 1)}
	if cfg.Group == Automatic {
		return s, nil
	}
	for _, p := range []shape.Profile{shape.V3(), shape.V1()} {
		if p.Name == cfg.Group {
			s.chosen.Store(&p)
			return s, nil
		}
	}
	return nil, fault.New(fault.Invalid, "group of Calico's resources %q: want %s or %s", cfg.Group, shape.V3().Name, shape.V1().Name)
}

// Get reads one object.
func (s *Store) Get(ctx context.Context, key store.Key) (store.Entry, error) {
	if err := key.Validate(); err != nil {
		return store.Entry{}, err
	}
	r, path, err := s.locate(ctx, key)
	if err != nil {
		return store.Entry{}, err
	}
	data, err := s.client.Call(ctx, kubeapi.Request{What: "get " + key.String(), Method: http.MethodGet, Path: path})
	if err != nil {
		return store.Entry{}, err
	}
	e, err := r.Decode(data)
	switch {
	case errors.Is(err, shape.ErrDeleted):
		return store.Entry{}, s.finish(ctx, e, err)
	case err == nil && e.Key != key:
		err = fault.New(fault.NotFound, "get %s: Kubernetes holds %s under that name", key, e.Key)
	}
	return e, err
}

// finish deletes an object that is marked as deleted, so that its name is free,
// and returns marked, or why it could not.
func (s *Store) finish(ctx context.Context, e store.Entry, marked error) error {
	err := s.Delete(ctx, e.Key, e.Revision)
	if err == nil || fault.Is(err, fault.NotFound) || fault.Is(err, fault.Conflict) {
		return marked
	}
	return err
}

// locate is where an object is held.
func (s *Store) locate(ctx context.Context, key store.Key) (shape.Resource, string, error) {
	p, err := s.profile(ctx)
	if err != nil {
		return shape.Resource{}, "", err
	}
	r, _ := p.Resource(key.Kind)
	path, err := r.PathOf(key)
	return r, path, err
}

// List reads all objects of a kind whose names start with prefix.
func (s *Store) List(ctx context.Context, kind store.Kind, prefix string) ([]store.Entry, store.Revision, error) {
	if err := store.CheckList(kind, prefix); err != nil {
		return nil, 0, err
	}
	source, err := s.source(ctx, kind, prefix)
	if err != nil {
		return nil, 0, err
	}
	entries, rev, err := s.client.List(ctx, source, prefix)
	if s.refused(source, err) {
		return s.List(ctx, kind, prefix)
	}
	return entries, rev, err
}

// Watch streams every change of a kind and prefix after revision since.
func (s *Store) Watch(ctx context.Context, kind store.Kind, prefix string, since store.Revision) (<-chan store.Event, error) {
	if err := store.CheckList(kind, prefix); err != nil {
		return nil, err
	}
	source, err := s.source(ctx, kind, prefix)
	if err != nil {
		return nil, err
	}
	events, err := s.client.Watch(ctx, source, prefix, since)
	if s.refused(source, err) {
		return s.Watch(ctx, kind, prefix, since)
	}
	return events, err
}

// source is where the objects of a kind are; the server leaves out what prefix
// excludes, as far as it can.
func (s *Store) source(ctx context.Context, kind store.Kind, prefix string) (kubeapi.Source, error) {
	p, err := s.profile(ctx)
	if err != nil {
		return kubeapi.Source{}, err
	}
	r, _ := p.Resource(kind)
	source := kubeapi.Source{Kind: kind, Path: r.Path(), Brief: s.brief && kind == store.Node, Decode: r.Decode}
	if kind != store.Affinity || !s.unselectable.Load() {
		source.Query = r.Select(prefix)
	}
	return source, nil
}

// refused says that err is the server's answer to a field it cannot select by,
// as servers before 1.31 and other definitions of the resource cannot: from
// then on everything is read.
func (s *Store) refused(source kubeapi.Source, err error) bool {
	if !source.Query.Has("fieldSelector") || !fault.Is(err, fault.Invalid) {
		return false
	}
	s.log.Info("the API server cannot select by field: all objects are read", "kind", string(source.Kind))
	s.unselectable.Store(true)
	return true
}

// Put writes an object if its revision still is prev. A Node's annotations
// alone are written, and a Node is never created: that is Unsupported.
func (s *Store) Put(ctx context.Context, key store.Key, value []byte, prev store.Revision) (store.Revision, error) {
	if err := store.CheckPut(key, value); err != nil {
		return 0, err
	}
	if err := s.writable("put "+key.String(), key.Kind); err != nil {
		return 0, err
	}
	r, path, err := s.locate(ctx, key)
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
	return w.send(ctx, kubeapi.Request{Method: http.MethodPost, Path: w.resource.Path(), Body: body})
}

func (w writer) update(ctx context.Context, prev store.Revision) (store.Revision, error) {
	body, err := w.resource.Patch(w.key, w.value, prev)
	if err != nil {
		return 0, err
	}
	return w.send(ctx, kubeapi.Request{Method: http.MethodPatch, Path: w.path, Body: body, MIME: kubeapi.JSONPatch})
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
	current, err := w.s.client.Call(ctx, kubeapi.Request{What: "get " + w.key.String(), Method: http.MethodGet, Path: w.path})
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
	return w.send(ctx, kubeapi.Request{Method: http.MethodPatch, Path: w.path + "/status", Body: patch, MIME: kubeapi.MergePatch})
}

// send carries out a write and reads the new revision from its answer.
func (w writer) send(ctx context.Context, q kubeapi.Request) (store.Revision, error) {
	q.What = "put " + w.key.String()
	q.Query = url.Values{"fieldManager": {"ocicat"}, "fieldValidation": {"Ignore"}}
	data, err := w.s.client.Call(ctx, q)
	if err != nil {
		return 0, err
	}
	rev, err := kubeapi.RevisionOf(data)
	if err != nil {
		return 0, fault.New(fault.Internal, "put %s: %w", w.key, err)
	}
	return rev, nil
}

// Delete removes an object if its revision still is prev. Nodes are not ours
// to delete: that is Unsupported.
func (s *Store) Delete(ctx context.Context, key store.Key, prev store.Revision) error {
	what := "delete " + key.String()
	if err := s.writable(what, key.Kind); err != nil {
		return err
	}
	r, path, err := s.locate(ctx, key)
	if err != nil {
		return err
	}
	if prev == 0 || r.ReadOnly() {
		if _, err := s.client.Call(ctx, kubeapi.Request{What: what, Method: http.MethodGet, Path: path}); err != nil {
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
		options["preconditions"] = map[string]string{"resourceVersion": kubeapi.FormatRevision(prev)}
	}
	body, err := json.Marshal(options)
	if err != nil {
		return fault.New(fault.Internal, "%s: %w", what, err)
	}
	_, err = s.client.Call(ctx, kubeapi.Request{What: what, Method: http.MethodDelete, Path: path, Body: body})
	return err
}

// AddressGone gives up connections from an address this machine has no more.
func (s *Store) AddressGone(local netip.Addr) { s.client.AddressGone(local) }

// Close ends the client, and with it all watches.
func (s *Store) Close() error {
	s.client.Close()
	return nil
}
