// SPDX-License-Identifier: Apache-2.0

package tombstone

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
)

func TestTombstones(t *testing.T) {
	dir := Dir(t.TempDir())
	if stones, err := List(dir); err != nil || len(stones) != 0 {
		t.Errorf("List without a directory = %v, %v", stones, err)
	}
	a := cniwire.ID{ContainerID: "0123.a_b-c", IfName: "eth0"}
	b := cniwire.ID{ContainerID: strings.Repeat("b", cniwire.MaxContainerID), IfName: "abcdefghijklmno"}
	for _, id := range []cniwire.ID{a, b, a} { // the third is a repeated DEL
		if err := Write(dir, id); err != nil {
			t.Fatal(err)
		}
	}
	// What is no tombstone is not ours to read or to remove.
	if err := os.WriteFile(filepath.Join(dir, "README"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]cniwire.ID{a, b}, ids(t, dir)); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
	if !Has(dir, a) || Has(dir, cniwire.ID{ContainerID: "c", IfName: "eth0"}) {
		t.Error("Has does not tell what List tells")
	}
	for range 2 {
		if err := Remove(dir, a); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff([]cniwire.ID{b}, ids(t, dir)); diff != "" {
		t.Errorf("List after Remove (-want +got):\n%s", diff)
	}
}

func TestHostileNamesLeaveNoFile(t *testing.T) {
	run := t.TempDir()
	for _, id := range []cniwire.ID{{ContainerID: "../../x", IfName: "eth0"}, {ContainerID: "a", IfName: "../x"}, {ContainerID: "", IfName: "eth0"}, {ContainerID: "a"}} {
		if err := Write(Dir(run), id); !fault.Is(err, fault.Invalid) {
			t.Errorf("Write %q = %v, want Invalid", id, err)
		}
	}
	if entries, err := os.ReadDir(run); err != nil || len(entries) != 0 {
		t.Errorf("%d files, %v", len(entries), err)
	}
}

// TestFullDisk: a tombstone needs no block, only an inode.
func TestFullDisk(t *testing.T) {
	run := t.TempDir()
	if err := unix.Mount("tmpfs", run, "tmpfs", 0, "size=16k"); err != nil {
		t.Fatalf("mount tmpfs: %v", err)
	}
	defer func() {
		if err := unix.Unmount(run, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	if err := os.WriteFile(filepath.Join(run, "filler"), make([]byte, 1<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	id := cniwire.ID{ContainerID: "a", IfName: "eth0"}
	if err := Write(Dir(run), id); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]cniwire.ID{id}, ids(t, Dir(run))); diff != "" {
		t.Error(diff)
	}
}

func ids(t *testing.T, dir string) []cniwire.ID {
	t.Helper()
	stones, err := List(dir)
	if err != nil {
		t.Fatal(err)
	}
	var found []cniwire.ID
	for _, stone := range stones {
		if stone.Time.IsZero() {
			t.Errorf("tombstone of %s has no time", stone.ID)
		}
		found = append(found, stone.ID)
	}
	return found
}

func TestWatch(t *testing.T) {
	dir := Dir(t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	changed, ended := make(chan struct{}, 100), make(chan error, 1)
	go func() { ended <- Watch(ctx, dir, func() { changed <- struct{}{} }) }()
	expect := func(what string) {
		t.Helper()
		select {
		case <-changed:
		case err := <-ended:
			t.Fatalf("%s: Watch returned %v", what, err)
		case <-time.After(10 * time.Second):
			t.Fatalf("%s was not noticed", what)
		}
	}
	drain := func() {
		for len(changed) > 0 {
			<-changed
		}
	}
	expect("the start")
	id := cniwire.ID{ContainerID: "a", IfName: "eth0"}
	for _, what := range []string{"the first tombstone", "its renewal"} {
		if err := Write(dir, id); err != nil {
			t.Fatal(err)
		}
		expect(what)
		drain()
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	expect("the directory's removal")
	for end := time.Now().Add(10 * time.Second); !isDir(dir); runtime.Gosched() { // Watch makes it again
		if time.Now().After(end) {
			t.Fatal("the directory was not made again")
		}
	}
	drain()
	if err := Write(dir, id); err != nil {
		t.Fatal(err)
	}
	expect("a tombstone in the new directory")
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("Watch does not end")
	}
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
