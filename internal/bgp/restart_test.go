// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/statefile"
	"github.com/ocicat-net/ocicat/test/chaos"
)

func TestTakeOver(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gr")
	want := func(boot string, restarting bool) {
		t.Helper()
		got, err := takeOver(dir, boot)
		if err != nil || got != restarting {
			t.Errorf("boot %s: restarting %t, %v; want %t", boot, got, err, restarting)
		}
	}
	want("one", false)
	want("one", true)
	want("one", true)
	want("two", false)
	want("two", true)
	if err := os.WriteFile(filepath.Join(dir, restartFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if restarting, err := takeOver(dir, "two"); restarting || err == nil {
		t.Errorf("from garbage: restarting %t, %v", restarting, err)
	}
	want("two", true)
	if err := os.WriteFile(filepath.Join(dir, restartFile), []byte(`{"version":2,"bootID":"two"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if restarting, err := takeOver(dir, "two"); restarting || !errors.Is(err, statefile.ErrDamaged) {
		t.Errorf("from another version: restarting %t, %v", restarting, err)
	}
	want("two", true)
	for _, none := range [][2]string{{"", "two"}, {dir, ""}} {
		if restarting, err := takeOver(none[0], none[1]); restarting || err != nil {
			t.Errorf("%v: restarting %t, %v", none, restarting, err)
		}
	}
}

// TestSilentRestart: a speaker that goes and comes back costs its peer not one
// route, not for a moment.
func TestSilentRestart(t *testing.T) {
	ns := newNet(t)
	opts := Options{StateDir: t.TempDir(), BootID: "this"}
	a := launch(t, ns, "10.0.0.1", opts)
	b := launch(t, ns, "10.0.0.2", Options{})
	b.Set(b.config([]netip.Addr{a.addr}, "172.16.2.0/26"))
	a.Set(a.config([]netip.Addr{b.addr}, "172.16.1.0/26", "172.16.1.64/26"))
	b.await(time.Second, "given a's routes", func() bool { return len(b.routes()) == 2 })
	kept := b.Learned()
	for range 3 {
		a.kill()
		b.await(time.Second, "without a", func() bool { return !b.established(a.addr) && b.session(a.addr).Stale })
		a = launch(t, ns, "10.0.0.1", opts)
		incomplete := a.config([]netip.Addr{b.addr})
		incomplete.Complete = false
		a.Set(incomplete)
		a.ForwardingVerified()
		a.awaitUp(time.Second, b.addr)
		b.awaitUp(time.Second, a.addr)
		if a.unsynced() != 0 {
			a.await(time.Second, "synced", func() bool { return a.unsynced() == 0 })
		}
		a.Set(a.config([]netip.Addr{b.addr}, "172.16.1.0/26", "172.16.1.64/26"))
		b.await(time.Second, "told the end", func() bool { return !b.session(a.addr).Stale })
		if b.Learned() != kept {
			t.Fatalf("routes changed: %v", b.routes())
		}
	}
	// What is not announced again goes with End-of-RIB.
	a.kill()
	a = launch(t, ns, "10.0.0.1", opts)
	a.Set(a.config([]netip.Addr{b.addr}, "172.16.1.64/26"))
	a.ForwardingVerified()
	b.await(2*time.Second, "rid of the route", func() bool { return len(b.routes()) == 1 })
}

// TestRestartAfterBoot: nothing was kept, so nothing may be kept by the peer.
func TestRestartAfterBoot(t *testing.T) {
	r := chaos.Begin(t, "C12", "start after a boot: nothing was kept", "no claim to have kept forwarding, the peer drops the old routes")
	r.Measuredf("old routes gone when the session was up")
	ns := newNet(t)
	dir := t.TempDir()
	a := launch(t, ns, "10.0.0.1", Options{StateDir: dir, BootID: "one"})
	b := launch(t, ns, "10.0.0.2", Options{})
	b.Set(b.config([]netip.Addr{a.addr}))
	a.Set(a.config([]netip.Addr{b.addr}, "172.16.1.0/26"))
	b.await(time.Second, "given a's route", func() bool { return len(b.routes()) == 1 })
	a.kill()
	b.await(time.Second, "without a", func() bool { return !b.established(a.addr) })
	if len(b.routes()) != 1 {
		t.Error("routes are not kept while a is away")
	}
	a = launch(t, ns, "10.0.0.1", Options{StateDir: dir, BootID: "two"})
	a.ForwardingVerified()
	cfg := a.config([]netip.Addr{b.addr})
	cfg.Complete = false
	a.Set(cfg)
	b.awaitUp(time.Second, a.addr)
	b.await(time.Second, "rid of the old route", func() bool { return len(b.routes()) == 0 })
}

// TestGate: an OPEN after a restart waits for the kernel's routes, but not for
// ever.
func TestGate(t *testing.T) {
	t.Parallel()
	ns := newNet(t)
	opts := Options{StateDir: t.TempDir(), BootID: "this"}
	launch(t, ns, "10.0.0.1", opts).kill()
	began := time.Now()
	a := launch(t, ns, "10.0.0.1", opts)
	b := launch(t, ns, "10.0.0.2", Options{})
	a.Set(a.config([]netip.Addr{b.addr}))
	b.Set(b.config([]netip.Addr{a.addr}))
	a.awaitUp(5*time.Second, b.addr)
	if waited := time.Since(began); waited < verifyWait {
		t.Errorf("established after %v although nothing was verified", waited)
	}
}
