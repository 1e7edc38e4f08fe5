// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func ends(n int) []End {
	var list []End
	for i := range n {
		list = append(list, End{Node: fmt.Sprint("n", i+1), Addr: netip.AddrFrom4([4]byte{10, 0, byte(i / 250), byte(i%250 + 1)}), Host: netip.AddrFrom4([4]byte{192, 168, byte(i / 250), byte(i%250 + 1)})})
	}
	return list
}

func TestPlan(t *testing.T) {
	checks, leftOut := Plan(Goal{Ends: ends(2), Service: netip.MustParseAddr("10.96.0.9"), Name: "probe.x.svc", API: "10.96.0.1:443", Outside: []string{"192.0.2.1:443"}})
	var got []string
	for _, c := range checks {
		line := fmt.Sprintf("%s: %s > %s:", c.Kind, c.From, c.To)
		for _, a := range slices.CompactFunc(slices.Clone(c.Attempts), func(a, b Attempt) bool { return a == b }) {
			line += fmt.Sprintf(" %s %s %d %v", a.Network, a.Target, a.Bytes, a.Full)
		}
		got = append(got, line)
	}
	want := []string{
		"pod to pod: n1 > n2: tcp 10.0.0.2:10007 64 false udp 10.0.0.2:10007 64 false",
		"pod to pod: n2 > n1: tcp 10.0.0.1:10007 64 false udp 10.0.0.1:10007 64 false",
		"full packets: n1 > n2: udp 10.0.0.2:10007 0 true tcp 10.0.0.2:10007 200000 false",
		"full packets: n2 > n1: udp 10.0.0.1:10007 0 true tcp 10.0.0.1:10007 200000 false",
		"pod to service: n1 > 10.96.0.9:10007: tcp 10.96.0.9:10007 64 false udp 10.96.0.9:10007 64 false",
		"pod to service: n2 > 10.96.0.9:10007: tcp 10.96.0.9:10007 64 false udp 10.96.0.9:10007 64 false",
		"pod to name: n1 > probe.x.svc:10007: tcp probe.x.svc:10007 64 false",
		"pod to name: n2 > probe.x.svc:10007: tcp probe.x.svc:10007 64 false",
		"pod to API: n1 > 10.96.0.1:443: tcp 10.96.0.1:443 0 false",
		"pod to API: n2 > 10.96.0.1:443: tcp 10.96.0.1:443 0 false",
		"pod to outside: n1 > 192.168.0.2:10250: tcp 192.168.0.2:10250 0 false",
		"pod to outside: n1 > 192.0.2.1:443: tcp 192.0.2.1:443 0 false",
		"pod to outside: n2 > 192.168.0.1:10250: tcp 192.168.0.1:10250 0 false",
		"pod to outside: n2 > 192.0.2.1:443: tcp 192.0.2.1:443 0 false",
	}
	if diff := cmp.Diff(want, got); diff != "" || leftOut != 0 {
		t.Errorf("%d left out (-want +got):\n%s", leftOut, diff)
	}
}

// TestPairs: a sample has no pair twice, none of an end with itself, the same
// for the same seed, and each end as often first as second, and as any other,
// give or take one.
func TestPairs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, most, seed := rapid.IntRange(1, 40).Draw(t, "ends"), rapid.IntRange(0, 300).Draw(t, "most"), rapid.Uint64().Draw(t, "seed")
		pairs, leftOut := pairsOf(ends(n), most, seed)
		if all := n * (n - 1); len(pairs)+leftOut != all || most > 0 && len(pairs) != min(all, most) || most == 0 && leftOut != 0 {
			t.Fatalf("%d pairs, %d left out of %d", len(pairs), leftOut, all)
		}
		again, _ := pairsOf(ends(n), most, seed)
		if !slices.Equal(pairs, again) {
			t.Fatal("another sample for the same seed")
		}
		seen, first, second := map[pair]bool{}, map[string]int{}, map[string]int{}
		for _, p := range pairs {
			if seen[p] || p.from == p.to {
				t.Fatalf("pair %v", p)
			}
			seen[p] = true
			first[p.from.Node]++
			second[p.to.Node]++
		}
		for _, e := range ends(n) {
			for _, times := range []int{first[e.Node], second[e.Node]} {
				if low := len(pairs) / n; times < low || times > low+1 {
					t.Fatalf("%s is %d and %d times in %d pairs of %d ends", e.Node, first[e.Node], second[e.Node], len(pairs), n)
				}
			}
		}
	})
}
