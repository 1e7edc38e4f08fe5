// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"log/slog"
	"sync"
	"testing"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/kube"
	"github.com/ocicat-net/ocicat/internal/store/storetest"
	"github.com/ocicat-net/ocicat/test/kubernetes/apiserver"
)

const definitions = "../../../deploy/charts/ocicat/files/crds"

func TestConformance(t *testing.T) {
	server := apiserver.Start(t)
	server.InstallCRDs(definitions)
	storetest.RunWith(t, storetest.Options{Without: store.Node, Room: room}, func(t *testing.T) store.Store {
		s := open(t, server)
		clear(t, s)
		return &opaque{Store: s}
	})
}

func open(t *testing.T, server *apiserver.Server) *kube.Store {
	t.Helper()
	client, err := kubeapi.New(server.Config())
	if err != nil {
		t.Fatal(err)
	}
	s := kube.New(client, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// clear deletes what an earlier test left.
func clear(t *testing.T, s store.Store) {
	t.Helper()
	var wg sync.WaitGroup
	for _, kind := range store.Kinds() {
		entries, _, err := s.List(t.Context(), kind, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			wg.Go(func() {
				if err := s.Delete(t.Context(), e.Key, store.AnyRevision); err != nil && !fault.Is(err, fault.NotFound) {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
}
