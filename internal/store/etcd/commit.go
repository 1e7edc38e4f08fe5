// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"math"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/etcdpath"
)

// Commit carries out all writes in one transaction, if every object still is
// at its revision; else none, and the Conflict names the objects that were to
// be written.
func (s *Store) Commit(ctx context.Context, writes []store.Write) error {
	if err := store.CheckWrites(writes); err != nil {
		return err
	}
	what := "commit"
	var conditions []clientv3.Cmp
	var ops []clientv3.Op
	for _, w := range writes {
		what += " " + w.Key.String()
		if w.Prev > math.MaxInt64 {
			return fault.New(fault.Conflict, "%s: no object has revision %d", what, w.Prev)
		}
		path := etcdpath.Of(w.Key)
		conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(path), "=", int64(w.Prev)))
		op := clientv3.OpPut(path, string(w.Value))
		if w.Delete {
			op = clientv3.OpDelete(path)
		}
		ops = append(ops, op)
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	ctx, note := withSent(ctx)
	resp, err := s.kv.Txn(ctx).If(conditions...).Then(ops...).Commit()
	switch {
	case err != nil:
		return writeFault(ctx, what, err, note)
	case !resp.Succeeded:
		return fault.New(fault.Conflict, "%s: one was changed", what)
	}
	return nil
}
