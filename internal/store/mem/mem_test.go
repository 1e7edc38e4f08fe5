// SPDX-License-Identifier: Apache-2.0

package mem_test

import (
	"testing"

	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/mem"
	"github.com/ocicat-net/ocicat/internal/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return mem.New() })
}

func TestCommitConformance(t *testing.T) {
	storetest.RunCommit(t, func(*testing.T) storetest.Committer { return mem.New() })
}

func TestWatchFromForgottenRevisionCloses(t *testing.T) {
	ctx := t.Context()
	s := mem.New()
	key := store.Key{Kind: store.Node, Name: "a"}
	var last store.Revision
	for range 5 {
		rev, err := s.Put(ctx, key, []byte("x"), store.AnyRevision)
		if err != nil {
			t.Fatal(err)
		}
		last = rev
	}
	s.Compact(last - 1)
	for since := store.Revision(0); since < last-1; since++ {
		events, err := s.Watch(ctx, store.Node, "", since)
		if err != nil {
			t.Fatal(err)
		}
		if ev, open := <-events; open {
			t.Errorf("watch since %d got %v, want it closed: the changes are forgotten", since, ev)
		}
	}
	events, err := s.Watch(ctx, store.Node, "", last-1)
	if err != nil {
		t.Fatal(err)
	}
	if ev := <-events; ev.Entry.Revision != last {
		t.Errorf("watch since %d got %v, want revision %d", last-1, ev, last)
	}
}
