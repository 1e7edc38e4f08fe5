// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"math"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/etcdpath"
)

// Watch streams every change of a kind and prefix after revision since. Each
// watch is a stream of its own that is never resumed silently: it ends with
// its connection, when its member of a cluster has no leader, and when etcd
// has compacted what it still needs.
func (s *Store) Watch(ctx context.Context, kind store.Kind, prefix string, since store.Revision) (<-chan store.Event, error) {
	if err := store.CheckList(kind, prefix); err != nil {
		return nil, err
	}
	streamCtx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	stream, err := s.open(ctx, streamCtx, cancel, kind, prefix, since)
	if err != nil {
		cancel()
		return nil, readFault(ctx, "watch "+string(kind), err)
	}
	w := &watch{store: s, kind: kind, prefix: prefix, out: make(chan store.Event)}
	go func() {
		defer cancel()
		defer close(w.out)
		w.run(streamCtx, newPulse(stream, cancel, s.signs))
	}()
	return w.out, nil
}

// open starts the stream and waits until etcd has accepted the watch. cancel
// ends streamCtx, which must outlive the timeout of this step.
func (s *Store) open(
	ctx, streamCtx context.Context, cancel context.CancelFunc, kind store.Kind, prefix string, since store.Revision,
) (pb.Watch_WatchClient, error) {
	ctx, stop := s.bound(ctx)
	defer stop()
	detach := context.AfterFunc(ctx, cancel)
	defer detach()
	stream, err := s.watch.Watch(streamCtx)
	if err != nil {
		return nil, err
	}
	start := etcdpath.Scope(kind, prefix)
	request := &pb.WatchCreateRequest{
		Key:           []byte(start),
		RangeEnd:      []byte(clientv3.GetPrefixRangeEnd(start)),
		StartRevision: int64(min(since, math.MaxInt64-1)) + 1,
	}
	err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: request}})
	if err != nil {
		return nil, err
	}
	resp, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	if !resp.Created || (resp.Canceled && resp.CompactRevision == 0) {
		return nil, errors.New("etcd refused the watch: " + resp.CancelReason)
	}
	if !detach() {
		return nil, context.Cause(ctx)
	}
	return stream, nil
}

type watch struct {
	store  *Store
	kind   store.Kind
	prefix string
	out    chan store.Event
}

// run forwards events until the stream ends, in whichever way: the caller
// lists again and sees there what is wrong.
func (w *watch) run(ctx context.Context, p *pulse) {
	for {
		resp, silence, err := p.recv()
		if err != nil && silence >= mute {
			w.store.silent.note(w.kind, w.prefix, silence)
		}
		if err != nil || resp.Canceled || resp.CompactRevision != 0 {
			return
		}
		for _, ev := range resp.Events {
			event, ok := w.event(ev)
			if !ok {
				continue
			}
			select {
			case w.out <- event:
			case <-ctx.Done():
				return
			}
		}
	}
}

func (w *watch) event(ev *mvccpb.Event) (store.Event, bool) {
	key, ok := etcdpath.Parse(w.kind, string(ev.Kv.Key))
	if !ok {
		w.store.log.Debug("stored key skipped", "kind", string(w.kind), "key", string(ev.Kv.Key))
		return store.Event{}, false
	}
	if !strings.HasPrefix(key.Name, w.prefix) {
		return store.Event{}, false
	}
	entry := store.Entry{Key: key, Value: ev.Kv.Value, Revision: store.Revision(ev.Kv.ModRevision)}
	return store.Event{Entry: entry, Deleted: ev.Type == mvccpb.Event_DELETE}, true
}
