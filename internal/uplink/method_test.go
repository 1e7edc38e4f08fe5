// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"bufio"
	"encoding/json"
	"errors"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
)

// layout is what Calico's methods choose on one machine.
type layout struct {
	Note       string
	Interfaces []struct {
		Name      string
		Addresses []netip.Prefix
	}
	Down            []string
	NodeInternalIPs []netip.Addr
	Routes          []string // of the form "DST via GATEWAY"
	Chosen          map[string]struct{ V4 *netip.Prefix }
}

func (l layout) links() map[string]host.Link {
	links := map[string]host.Link{"lo": {Name: "lo", Index: 1, Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}}}
	for i, in := range l.Interfaces {
		links[in.Name] = host.Link{Name: in.Name, Index: i + 2, Up: !slices.Contains(l.Down, in.Name), Addrs: in.Addresses}
	}
	return links
}

// reach routes as the kernel would: by connected network, then by l.Routes.
func (l layout) reach(target string) (netip.Addr, error) {
	to, err := netip.ParseAddr(target)
	if err != nil {
		return netip.Addr{}, errors.New("no such host")
	}
	for _, r := range l.Routes {
		dst, via, _ := strings.Cut(r, " via ")
		if netip.MustParsePrefix(dst).Contains(to) {
			to = netip.MustParseAddr(via)
		}
	}
	for _, in := range l.Interfaces {
		for _, a := range in.Addresses {
			if a.Contains(to) {
				return a.Addr(), nil
			}
		}
	}
	return netip.Addr{}, errors.New("network is unreachable")
}

// layoutDifferences are where we choose otherwise than Calico, by note and
// method, with the address we choose and the reason.
var layoutDifferences = map[string]struct{ address, reason string }{
	"interface down/first-found": {"172.24.60.11/24", "a link that is down cannot carry sessions"},
}

// TestMethodsAsCalico compares IPv4; IPv6 addresses are not chosen here.
func TestMethodsAsCalico(t *testing.T) {
	unneeded := maps.Clone(layoutDifferences)
	layouts := 0
	file, err := os.Open("testdata/layouts.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var l layout
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		layouts++
		for value, chosen := range l.Chosen {
			if value == "" {
				continue // chosen by score here: environment.md
			}
			want := ""
			if chosen.V4 != nil {
				want = chosen.V4.String()
			}
			key := l.Note + "/" + value
			if d, ok := layoutDifferences[key]; ok {
				if d.address == want {
					t.Errorf("%s: listed as a difference, and is none", key)
				}
				delete(unneeded, key)
				want = d.address
			}
			got := ""
			m, err := ParseMethod(value)
			if err == nil {
				var address netip.Prefix
				if address, err = m.Detect(Facts{Links: l.links(), Internal: l.NodeInternalIPs}, l.reach); err == nil {
					got = address.String()
				}
			}
			if got != want {
				t.Errorf("%s: %q, %v; want %q", key, got, err, want)
			}
			if err != nil && fault.KindOf(err) == fault.Internal {
				t.Errorf("%s: %v is not classified", key, err)
			}
		}
	}
	if layouts != 23 || len(unneeded) > 0 {
		t.Errorf("%d layouts, want 23; differences not met: %v", layouts, slices.Sorted(maps.Keys(unneeded)))
	}
}
