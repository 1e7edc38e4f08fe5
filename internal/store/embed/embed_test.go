// SPDX-License-Identifier: Apache-2.0

package embed_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store/embed"
)

func TestUnusableConfigs(t *testing.T) {
	dir := t.TempDir()
	socket := "unix://" + filepath.Join(dir, "s")
	for name, cfg := range map[string]embed.Config{
		"no directory":     {Listen: []string{socket}},
		"no address":       {Dir: dir},
		"a name":           {Dir: dir, Listen: []string{"http://localhost:2379"}},
		"no port":          {Dir: dir, Listen: []string{"http://127.0.0.1"}},
		"a path":           {Dir: dir, Listen: []string{"http://127.0.0.1:2379/x"}},
		"https":            {Dir: dir, Listen: []string{"https://127.0.0.1:2379"}},
		"relative socket":  {Dir: dir, Listen: []string{"unix://s"}},
		"not a URL":        {Dir: dir, Listen: []string{"%"}},
		"negative quota":   {Dir: dir, Listen: []string{socket}, Quota: -1},
		"unknown loglevel": {Dir: dir, Listen: []string{socket}, LogLevel: "loud"},
	} {
		s, err := embed.Start(t.Context(), cfg)
		if !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want it invalid", name, err)
		}
		if s != nil {
			t.Fatalf("%s: it runs", name)
		}
	}
}

func TestOneServerPerDirectory(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir := t.TempDir()
	cfg := embed.Config{Dir: filepath.Join(dir, "data"), Listen: []string{"unix://" + filepath.Join(dir, "s")}, NoFsync: true}
	first, err := embed.Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := embed.Start(ctx, cfg); !fault.Is(err, fault.Conflict) {
		t.Errorf("second server: %v, want a conflict", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := embed.Start(ctx, cfg)
	if err != nil {
		t.Fatalf("after the first has stopped: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
}
