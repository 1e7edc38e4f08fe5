// SPDX-License-Identifier: Apache-2.0

package kernel_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/ocicat-net/ocicat/internal/nstest"
)

// connections makes tracked connections in ns and returns how to list them.
func connections(t *testing.T, ns *nstest.NS) func() string {
	t.Helper()
	for _, c := range []string{
		"-s 10.0.0.1 -d 10.0.0.9",                     // from the first pod
		"-s 10.0.0.9 -d 10.0.0.1",                     // to it
		"-s 10.0.0.9 -d 10.96.0.1 --dst-nat 10.0.0.1", // to it by a service
		"-s 10.0.0.2 -d 10.0.0.9 -w 7",                // from the second, in a zone
		"-s 10.0.0.11 -d 10.0.0.9",                    // of neither
	} {
		ns.Run("conntrack", strings.Fields("-I -p udp --sport 1000 --dport 53 -t 600 "+c)...)
	}
	return func() string { return ns.Run("conntrack", "-L") }
}

func TestFlushConnections(t *testing.T) {
	first, second := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	for name, c := range map[string]struct {
		addrs []netip.Addr
		left  int
	}{
		"of none":       {nil, 5},
		"of one":        {[]netip.Addr{first}, 2},
		"in a zone":     {[]netip.Addr{second}, 4},
		"of two":        {[]netip.Addr{first, second}, 1},
		"of a stranger": {[]netip.Addr{netip.MustParseAddr("10.0.0.111")}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			ns := nstest.New(t)
			list := connections(t, ns)
			if err := open(t, ns).FlushConnections(t.Context(), c.addrs...); err != nil {
				t.Fatal(err)
			}
			if got := strings.Count(list(), "udp "); got != c.left || !strings.Contains(list(), "10.0.0.11 ") {
				t.Errorf("%d connections left, want %d:\n%s", got, c.left, list())
			}
		})
	}
}
