// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"context"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
)

// Relist is how often to read a whole set although its watch works. The API
// server's watches resume where they ended and say when they cannot, so this is
// a safety net, not a poll.
const Relist = 6 * time.Hour

// Follow keeps emit informed about the objects of a source until ctx ends, as
// store.Follow does: a full set first, then changes.
func (c *Client) Follow(ctx context.Context, s Source, emit func(store.Update)) {
	store.Follow(ctx, followed{client: c, source: s}, s.Kind, "", store.FollowOptions{Relist: Relist, Log: c.log}, emit)
}

// followed is a source as a store to read.
type followed struct {
	client *Client
	source Source
}

var _ store.Store = followed{}

func (f followed) List(ctx context.Context, _ store.Kind, prefix string) ([]store.Entry, store.Revision, error) {
	return f.client.List(ctx, f.source, prefix)
}

func (f followed) Watch(ctx context.Context, _ store.Kind, prefix string, since store.Revision) (<-chan store.Event, error) {
	return f.client.Watch(ctx, f.source, prefix, since)
}

func (f followed) Get(context.Context, store.Key) (store.Entry, error) {
	return store.Entry{}, errReadOnly()
}

func (f followed) Put(context.Context, store.Key, []byte, store.Revision) (store.Revision, error) {
	return 0, errReadOnly()
}

func (f followed) Delete(context.Context, store.Key, store.Revision) error { return errReadOnly() }

func (f followed) Close() error { return nil }

func errReadOnly() error { return fault.New(fault.Unsupported, "a source is listed and watched only") }
