// SPDX-License-Identifier: Apache-2.0

package etcd_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/embed"
	"github.com/ocicat-net/ocicat/internal/store/etcd"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// insideEnv marks the copy of the test that runs in a network namespace of
// its own.
const insideEnv = "OCICAT_TEST_BLACK_HOLE"

// TestBlackHoleIsNoticed drops every packet between a store and its etcd
// without a word to either and wants the watch closed within 10 s. It runs
// itself again in a network namespace of its own, because connections are
// made by threads a test cannot choose.
func TestBlackHoleIsNoticed(t *testing.T) {
	if os.Getenv(insideEnv) != "" {
		blackHole(t)
		return
	}
	r := chaos.Begin(t, "E3", "nftables drops every packet between a store and its real etcd", "noticed in < 10 s")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestBlackHoleIsNoticed$", "-test.v", "-test.timeout", "2m")
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("in a network namespace of its own: %v\n%s", err, out)
	}
	_, took, _ := strings.Cut(string(out), "noticed after ")
	took, _, _ = strings.Cut(took, "\n")
	r.Measuredf("noticed after %s", took)
}

func blackHole(t *testing.T) {
	command(t, "ip", "link", "set", "lo", "up")
	endpoint := "http://127.0.0.1:2379"
	server, err := embed.Start(t.Context(), embed.Config{
		Dir: filepath.Join(t.TempDir(), "data"), Listen: []string{endpoint}, NoFsync: true, LogLevel: "error",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	s := open(t, etcd.Config{Endpoints: []string{endpoint}})
	if _, err := s.Put(t.Context(), node("a"), nil, 0); err != nil {
		t.Fatal(err)
	}
	events, err := s.Watch(t.Context(), store.BGPPeer, "", 0)
	if err != nil {
		t.Fatal(err)
	}

	command(t, "nft", "add table inet hole; add chain inet hole in { type filter hook input priority 0; }; add rule inet hole in drop")
	start := time.Now()
	select {
	case ev, open := <-events:
		if open {
			t.Fatalf("got %v, want the watch closed", ev)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the watch is open after 30s of silence")
	}
	t.Logf("noticed after %v", time.Since(start))
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("noticed after %v, want less than 10s", took)
	}
	start = time.Now()
	_, err = s.Get(t.Context(), node("a"))
	if took := time.Since(start); !fault.Is(err, fault.Unavailable) || took > 6*time.Second {
		t.Errorf("get after %v: %v, want it unavailable within its 5s", took, err)
	}

	command(t, "nft", "delete table inet hole")
	start = time.Now()
	for {
		if _, err = s.Get(t.Context(), node("a")); err == nil {
			return
		}
		if time.Since(start) > 20*time.Second {
			t.Fatalf("not connected again %v after the hole was closed: %v", time.Since(start), err)
		}
	}
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}
