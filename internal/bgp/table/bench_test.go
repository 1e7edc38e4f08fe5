// SPDX-License-Identifier: Apache-2.0

package table

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
)

// mesh is a table that knows four blocks of each of n internal peers, and the
// cursors of sessions to all of them.
func mesh(n int) (*Table, *Groups, []*Cursor) {
	t := New(self)
	groups := NewGroups(t)
	var cursors []*Cursor
	for i := range n {
		p := internalMember(i)
		groups.Apply(t.Update(p, announcing(path(), blockNumber(4*i), blockNumber(4*i+1), blockNumber(4*i+2), blockNumber(4*i+3))))
		cursors = append(cursors, groups.Join(inside, p.Addr))
	}
	return t, groups, cursors
}

func internalMember(i int) PeerInfo {
	p := member(i)
	p.AS, p.Internal = self.AS, true
	return p
}

// BenchmarkTellPeers is one change of a route that all peers of a group are
// told: decide, encode once, and each session's share of reading it.
func BenchmarkTellPeers(b *testing.B) {
	for _, n := range []int{1, 100, 500} {
		b.Run(fmt.Sprintf("peers=%d", n), func(b *testing.B) {
			t, groups, cursors := mesh(n)
			source, updates := member(2), [2]*message.Update{announcing(path(med(1)), block), announcing(path(med(2)), block)}
			messages := make([][]byte, 0, 8)
			for _, c := range cursors {
				next(c)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				groups.Apply(t.Update(source, updates[i%2]))
				for _, c := range cursors {
					messages, _ = c.Next(messages[:0])
				}
			}
		})
	}
}

// BenchmarkLearn is one block announced and withdrawn by a mesh peer.
func BenchmarkLearn(b *testing.B) {
	t, groups, _ := mesh(100)
	p, add, del := internalMember(0), announcing(path(), block), &message.Update{Withdrawn: []netip.Prefix{block}}
	b.ReportAllocs()
	for b.Loop() {
		groups.Apply(t.Update(p, add))
		groups.Apply(t.Update(p, del))
	}
}

// BenchmarkFlap is a session of a mesh of 500 lost and found with its blocks.
func BenchmarkFlap(b *testing.B) {
	t, groups, _ := mesh(500)
	p := internalMember(7)
	u := announcing(path(), blockNumber(28), blockNumber(29), blockNumber(30), blockNumber(31))
	b.ReportAllocs()
	for b.Loop() {
		groups.Apply(t.DropPeer(p.Addr))
		groups.Apply(t.Update(p, u))
	}
}

// BenchmarkSnapshot is a snapshot of a table of 100,000 routes after one of
// them changed.
func BenchmarkSnapshot(b *testing.B) {
	t := New(self)
	for i := range 1000 {
		var all []netip.Prefix
		for n := range 100 {
			all = append(all, blockNumber(100*i+n))
		}
		t.Update(internalMember(i), announcing(path(), all...))
	}
	updates := [2]*message.Update{announcing(path(med(1)), block), announcing(path(med(2)), block)}
	t.Snapshot()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		t.Update(member(2), updates[i%2])
		if t.Snapshot().Len() != 100_001 {
			b.Fatal("wrong")
		}
	}
}

// BenchmarkDump is the first 100,000 routes of a new session.
func BenchmarkDump(b *testing.B) {
	t := New(self)
	for i := range 1000 {
		var all []netip.Prefix
		for n := range 100 {
			all = append(all, blockNumber(100*i+n))
		}
		t.Update(member(2), announcing(path(med(uint32(i))), all...))
	}
	out := NewOut(inside, t)
	b.ReportAllocs()
	for b.Loop() {
		out.dump = nil
		out.Join(member(0).Addr)
	}
}
