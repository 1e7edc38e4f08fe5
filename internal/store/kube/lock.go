// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
	"github.com/ocicat-net/ocicat/internal/store"
)

// Times of looking for the lock, each up to twice as long by chance: after the
// watch broke, and where the server has no such resource or does not let us see
// it, which is true of every cluster that Calico never was in.
const (
	lockAgain  = time.Second
	lockAbsent = 5 * time.Minute
)

// ErrLocked is in the chain of the error of a write that the datastore's lock
// forbids.
var ErrLocked = fault.Hint(fault.New(fault.Unavailable, "the datastore is locked: datastoreReady of ClusterInformation default is false"),
	"A migration sets it back when it has ended; else: calicoctl datastore migrate unlock.")

// FollowLock follows the lock of the datastore until ctx ends: datastoreReady of
// the ClusterInformation named default, in the group of Calico's kinds in use,
// which is false while a migration of Calico copies them. changed is called with
// what is found first, and then whenever it is another. While it is locked, and
// somebody follows, writes of blocks, affinities and handles are refused with
// ErrLocked: the copy would lack them.
func (s *Store) FollowLock(ctx context.Context, changed func(locked bool)) {
	known := false
	learn := func(locked bool) {
		if s.locked.Swap(locked) != locked || !known {
			known = true
			changed(locked)
		}
	}
	for ctx.Err() == nil {
		again := lockAgain
		if err := s.followLock(ctx, learn); kubeapi.IsNoResource(err) || kubeapi.IsForbidden(err) {
			learn(false)
			again = lockAbsent
		}
		select {
		case <-ctx.Done():
		case <-time.After(again + rand.N(again)):
		}
	}
}

// followLock reads the lock and follows its changes until the watch ends.
func (s *Store) followLock(ctx context.Context, learn func(locked bool)) error {
	p, err := s.profile(ctx)
	if err != nil {
		return err
	}
	source := kubeapi.Source{Kind: "ClusterInformation", Path: "/apis/" + p.Name + "/clusterinformations"}
	entries, rev, err := s.client.List(ctx, source, "")
	if err != nil {
		return err
	}
	locked := false
	for _, e := range entries {
		locked = locked || saysLocked(e)
	}
	learn(locked)
	events, err := s.client.Watch(ctx, source, "", rev)
	if err != nil {
		return err
	}
	for ev := range events {
		if ev.Entry.Key.Name == lockName {
			learn(!ev.Deleted && saysLocked(ev.Entry))
		}
	}
	return nil
}

// lockName is the one ClusterInformation there is.
const lockName = "default"

// saysLocked says whether an entry is a ClusterInformation that forbids writes.
// One that says nothing forbids nothing.
func saysLocked(e store.Entry) bool {
	var info struct {
		Spec struct {
			Ready *bool `json:"datastoreReady"`
		} `json:"spec"`
	}
	err := json.Unmarshal(e.Value, &info)
	return err == nil && e.Key.Name == lockName && info.Spec.Ready != nil && !*info.Spec.Ready
}

// writable refuses a write that the lock forbids.
func (s *Store) writable(what string, kind store.Kind) error {
	switch kind {
	case store.Block, store.Affinity, store.Handle:
		if s.locked.Load() {
			return fault.Hint(fault.New(fault.Unavailable, "%s: %w", what, ErrLocked), "%s", fault.HintOf(ErrLocked))
		}
	}
	return nil
}
