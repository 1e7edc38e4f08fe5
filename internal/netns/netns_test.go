// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/netns"
	"github.com/ocicat-net/ocicat/internal/nstest"
)

func own(t *testing.T) string {
	t.Helper()
	link, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// No thread that was inside is ever seen by another goroutine.
func TestDoIsInsideAndLeavesNoTrace(t *testing.T) {
	home, ns := own(t), nstest.New(t)
	want, err := os.Readlink(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("no")
	for range 100 {
		inside := ""
		if err := netns.Do(ns.File(), func() error { inside = own(t); return broken }); !errors.Is(err, broken) {
			t.Fatalf("Do returned %v, not its function's error", err)
		}
		if inside != want {
			t.Fatalf("Do ran in %s, want %s", inside, want)
		}
		seen := make(chan string)
		go func() { seen <- own(t) }()
		if now := <-seen; now != home || own(t) != home {
			t.Fatalf("another goroutine runs in %s, want %s", now, home)
		}
	}
}

func TestOpenTakesNamespacesOnly(t *testing.T) {
	ns := nstest.New(t)
	f, err := netns.Open(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	for path, kind := range map[string]fault.Kind{
		filepath.Join(t.TempDir(), "none"): fault.NotFound,
		"/proc/self/ns/mnt":                fault.Invalid,
		"/dev/null":                        fault.Invalid,
	} {
		if _, err := netns.Open(path); !fault.Is(err, kind) {
			t.Errorf("%s: %v, want %v", path, err, kind)
		}
	}
}
