// SPDX-License-Identifier: Apache-2.0

package nstest_test

import (
	"os"
	"strings"
	"testing"
	"time"

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

func TestNewHasOnlyLoopbackUp(t *testing.T) {
	ns := nstest.New(t)
	out := ns.IP("-br link")
	if !strings.HasPrefix(out, "lo ") || strings.Contains(out, "\n") || !strings.Contains(out, "UP") {
		t.Fatalf("ip -br link:\n%s", out)
	}
}

func TestDoEntersAndComesHome(t *testing.T) {
	ns := nstest.New(t)
	home, inside := own(t), ""
	ns.Do(func() { inside = own(t) })
	if inside == home {
		t.Fatal("Do ran its function at home")
	}
	if now := own(t); now != home {
		t.Fatalf("after Do the thread is in %s, not %s", now, home)
	}
	link, err := os.Readlink(ns.Path())
	if err != nil || link != inside {
		t.Fatalf("Path leads to %q (%v), want %q", link, err, inside)
	}
}

func TestSysctlIsTheNamespaces(t *testing.T) {
	a, b := nstest.New(t), nstest.New(t)
	a.SetSysctl("net/ipv4/ip_forward", "1")
	b.SetSysctl("net/ipv4/ip_forward", "0")
	if a.Sysctl("net/ipv4/ip_forward") != "1" || b.Sysctl("net/ipv4/ip_forward") != "0" {
		t.Fatal("sysctls of two namespaces are one")
	}
}

func TestSwitchCarriesPings(t *testing.T) {
	a, b, sw := nstest.New(t), nstest.New(t), nstest.NewSwitch(t)
	sw.Plug(a, "eth0")
	port := sw.Plug(b, "eth0")
	a.IP("addr add 10.0.0.1/24 dev eth0")
	b.IP("addr add 10.0.0.2/24 dev eth0")
	a.Run("busybox", "ping", "-c1", "-W5", "10.0.0.2")
	sw.NS().IP("link set " + port + " down")
	if err := a.Command("busybox", "ping", "-c1", "-W1", "10.0.0.2").Run(); err == nil {
		t.Fatal("ping answered through a port that is down")
	}
}

func TestEventually(t *testing.T) {
	asked := 0
	nstest.Eventually(t, 5*time.Second, func() bool { asked++; return asked == 3 })
	if asked != 3 {
		t.Fatalf("asked %d times, want 3", asked)
	}
}
