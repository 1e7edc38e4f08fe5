// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"net/netip"
	"testing"
	"time"
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// two starts two speakers that know each other, at once.
func two(t *testing.T) (a, b *node) {
	t.Helper()
	ns := newNet(t)
	a = launch(t, ns, "10.0.0.1", Options{})
	b = launch(t, ns, "10.0.0.2", Options{})
	all := []netip.Addr{a.addr, b.addr}
	a.Set(a.config(all, "172.16.1.0/26"))
	b.Set(b.config(all, "172.16.2.0/26", "172.16.2.64/26"))
	return a, b
}

func TestRoutesBothWays(t *testing.T) {
	a, b := two(t)
	a.awaitUp(time.Second, b.addr)
	b.awaitUp(time.Second, a.addr)
	a.await(time.Second, "routes of b", func() bool { return len(a.routes()) == 2 && a.routes()[pfx("172.16.2.64/26")] == b.addr })
	b.await(time.Second, "route of a", func() bool { return b.routes()[pfx("172.16.1.0/26")] == a.addr })
	b.Set(b.config([]netip.Addr{a.addr}, "172.16.2.0/26"))
	a.await(time.Second, "withdrawn", func() bool { return len(a.routes()) == 1 })
	if s := a.session(b.addr); s.Received != 1 || s.Sent != 1 || s.Flaps != 0 || s.RouterID != b.addr {
		t.Errorf("session %+v", s)
	}
}
