// SPDX-License-Identifier: Apache-2.0

package table

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
)

// TestResumeEndsInTheSame: whoever skips what it was to be told, and when, ends
// with the routes of one who heard everything.
func TestResumeEndsInTheSame(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 0))
		table := New(self)
		groups := NewGroups(table)
		newListener := func(n int) *listener {
			return &listener{export: inside, peer: member(n), cursor: groups.Join(inside, member(n).Addr), routes: map[netip.Prefix]*message.Attrs{}}
		}
		eager, slow := newListener(1), newListener(4)
		for step := range 60 {
			block := blockNumber(rng.IntN(12))
			from := member(2 + 3*rng.IntN(2)) // members 2 and 5 announce
			if rng.IntN(3) == 0 {
				groups.Apply(table.Update(from, &message.Update{Withdrawn: []netip.Prefix{block}}))
			} else {
				groups.Apply(table.Update(from, announcing(path(med(rng.Uint32N(3))), block)))
			}
			if step == 30 {
				groups.Complete()
			}
			switch rng.IntN(8) {
			case 0:
				slow.hear(t)
			case 1:
				resume(t, groups, slow)
			}
		}
		resume(t, groups, slow)
		for eager.hear(t) {
		}
		for slow.hear(t) {
		}
		if !reflect.DeepEqual(eager.routes, slow.routes) || slow.endOfRIB != 1 {
			t.Fatalf("seed %d: %d End-of-RIB; routes\n%v, want\n%v", seed, slow.endOfRIB, slow.routes, eager.routes)
		}
	}
}

func resume(t *testing.T, groups *Groups, l *listener) {
	t.Helper()
	b := NewBacklog(inside)
	if err := l.cursor.Skip(b); err != nil {
		t.Fatal(err)
	}
	if err := groups.Resume(inside, l.cursor, b); err != nil {
		t.Fatal(err)
	}
}
