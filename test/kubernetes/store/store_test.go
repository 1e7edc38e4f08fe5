// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"log/slog"
	"os"
	"path/filepath"
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
	conform(t, server)
}

// TestConformanceV1 has Calico's kinds in their older group, beside our own.
func TestConformanceV1(t *testing.T) {
	server := apiserver.Start(t)
	server.InstallCRDs("testdata/v1")
	server.InstallCRDs(ourDefinitions(t))
	conform(t, server)
}

func conform(t *testing.T, server *apiserver.Server) {
	storetest.RunWith(t, storetest.Options{Without: store.Node, Room: room}, func(t *testing.T) store.Store {
		s := open(t, server)
		clear(t, s)
		return &opaque{Store: s}
	})
}

// ourDefinitions is a directory with the definitions of ocicat.net alone.
func ourDefinitions(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	files, err := filepath.Glob(definitions + "/ocicat.net_*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(file)), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func open(t *testing.T, server *apiserver.Server) *kube.Store {
	t.Helper()
	return openWith(t, server.Config())
}

func openWith(t *testing.T, cfg kubeapi.Config) *kube.Store {
	t.Helper()
	client, err := kubeapi.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s, err := kube.New(client, kube.Config{Brief: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
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
