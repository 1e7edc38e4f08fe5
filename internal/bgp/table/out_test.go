// SPDX-License-Identifier: Apache-2.0

package table

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// inside and outside are the exports of a mesh and of another AS.
var (
	inside  = Export{Internal: true, AS4: true, AS: self.AS, LocalAddr: addr("192.168.0.1")}
	outside = Export{AS4: true, AS: self.AS, LocalAddr: addr("192.168.0.1")}
)

// next is what the cursor has for its peer, step by step to the end.
func next(c *Cursor) [][]byte {
	var all [][]byte
	for ok := true; ok; {
		all, ok = c.Next(all)
	}
	return all
}

// offered is what e's peers are told of a path, nil for nothing.
func offered(t *testing.T, e Export, from PeerInfo, a *message.Attrs) *message.Attrs {
	t.Helper()
	table := New(self)
	if from.Addr.IsValid() {
		table.Update(from, announcing(a, block))
	} else {
		table.learn(nil, table.own, block, a)
	}
	l := &listener{export: e, cursor: NewOut(e, table).Join(addr("10.0.7.7")), routes: map[netip.Prefix]*message.Attrs{}}
	for l.hear(t) {
	}
	return l.routes[block]
}

// The rules of what is told to whom, one by one.
func TestExportRules(t *testing.T) {
	ours, internal, external := PeerInfo{}, member(0), member(2)
	for _, c := range []struct {
		name string
		to   Export
		from PeerInfo
		path *message.Attrs
		want *message.Attrs
	}{
		{"own to internal", inside, ours, path(localPref(150)), path(localPref(150))},
		{"own to external", outside, ours, path(localPref(150)), path(via(64512), nextHop("192.168.0.1"))},
		{"own without next hop", inside, ours, &message.Attrs{LocalPref: 100, HasLocalPref: true}, path(localPref(100), nextHop("192.168.0.1"))},
		{"internal to internal", inside, internal, path(), nil},
		{"internal to external", outside, internal, path(via(7), localPref(200), med(3), reflected("1.1.1.1", "2.2.2.2")), path(via(64512, 7), nextHop("192.168.0.1"))},
		{"external to internal", inside, external, path(via(65002), med(3)), path(via(65002), med(3), localPref(100))},
		{"external to external", outside, external, path(via(65002), med(3)), path(via(64512, 65002), nextHop("192.168.0.1"))},
		{"a set in front", outside, external, path(viaSet(1, 2)), path(via(64512), viaSet(1, 2), nextHop("192.168.0.1"))},
		{"no-advertise", inside, external, path(communities(message.NoAdvertise)), nil},
		{"no-export to external", outside, external, path(communities(message.NoExport)), nil},
		{"no-export-subconfed to external", outside, internal, path(communities(message.NoExportSubconfed)), nil},
		{"no-export to internal", inside, external, path(communities(message.NoExport)), path(communities(message.NoExport), localPref(100))},
		{"too long", outside, external, path(via(slices.Repeat([]speaker.ASN{7}, 255)...), via(slices.Repeat([]speaker.ASN{7}, 255)...),
			via(slices.Repeat([]speaker.ASN{7}, 255)...), via(slices.Repeat([]speaker.ASN{7}, 250)...)), nil},
	} {
		if got := offered(t, c.to, c.from, c.path); !got.Equal(c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestOtherFamiliesAreNotSent(t *testing.T) {
	table := New(self)
	table.Originate([]speaker.Advertisement{{Prefix: prefix("2001:db8::/64"), NextHop: addr("2001:db8::1")}, {Prefix: block, NextHop: addr("192.168.0.1")}})
	out := NewOut(inside, table)
	if n := out.Sent(member(0).Addr); n != 1 {
		t.Errorf("%d prefixes sent, want 1", n)
	}
}

// Each message is encoded once: all peers of a group get the same bytes.
func TestPeersShareBytes(t *testing.T) {
	table := New(self)
	table.Update(member(2), announcing(path(), block))
	out := NewOut(inside, table)
	a, b := out.Join(member(0).Addr), out.Join(member(1).Addr)
	out.Apply(table, table.Update(member(2), announcing(path(med(1)), block)))
	toA, toB := next(a), next(b)
	if len(toA) != 2 || len(toB) != 2 {
		t.Fatalf("%d and %d messages, want the dump and a change", len(toA), len(toB))
	}
	for i := range toA {
		if &toA[i][0] != &toB[i][0] {
			t.Errorf("message %d was encoded twice", i)
		}
	}
}

func TestApplySaysOnlyWhatChanged(t *testing.T) {
	table := New(self)
	out := NewOut(inside, table)
	c := out.Join(member(0).Addr)
	next(c)
	// An internal path is not for internal peers, whatever becomes of it.
	out.Apply(table, table.Update(member(1), announcing(path(), block)))
	out.Apply(table, table.DropPeer(member(1).Addr))
	out.Apply(table, []netip.Prefix{block, prefix("1.2.3.0/24")})
	if n := len(next(c)); n != 0 {
		t.Errorf("%d messages about nothing", n)
	}
	// The best path changes, what is told of it does not.
	same := path(via(65000))
	out.Apply(table, table.Update(member(5), announcing(same, block)))
	next(c)
	changed := table.Update(member(8), announcing(same, block))
	wantChanged(t, "8 has the lower router ID", changed, block)
	out.Apply(table, changed)
	if n := len(next(c)); n != 0 {
		t.Errorf("%d messages that say the same again", n)
	}
}

// A change of the source turns the tables of two peers: the new source must
// lose what it was told, the old one hear of it.
func TestSplitHorizonFollowsTheSource(t *testing.T) {
	table := New(self)
	two, five, eight := member(2), member(5), member(8)
	table.Update(two, announcing(path(via(65002)), block))
	out := NewOut(outside, table)
	hear := map[PeerInfo]*listener{}
	for _, p := range []PeerInfo{two, five, eight} {
		hear[p] = &listener{export: outside, peer: p, cursor: out.Join(p.Addr), routes: map[netip.Prefix]*message.Attrs{}}
	}
	check := func(what string, messages ...int) {
		t.Helper()
		for i, p := range []PeerInfo{two, five, eight} {
			l := hear[p]
			l.messages = 0
			for l.hear(t) {
			}
			best, _ := table.Best(block)
			if _, told := l.routes[block]; told == (best.From.Addr == p.Addr) || l.messages != messages[i] {
				t.Errorf("%s: %s told %v in %d messages, want %d", what, p.Name, told, l.messages, messages[i])
			}
			if sent := out.Sent(p.Addr); sent != len(l.routes) {
				t.Errorf("%s: %s: %d sent, want %d", what, p.Name, sent, len(l.routes))
			}
		}
	}
	check("from 2", 0, 1, 1)
	out.Apply(table, table.Update(five, announcing(path(via(65005), origin(message.OriginIGP)), block)))
	check("5 is better by router ID", 1, 1, 1)
	out.Apply(table, table.Update(five, &message.Update{Withdrawn: []netip.Prefix{block}}))
	check("back to 2", 1, 1, 1)
}

func TestManyPrefixesGoInFewMessages(t *testing.T) {
	table := New(self)
	out := NewOut(inside, table)
	c := out.Join(member(0).Addr)
	var all []netip.Prefix
	for i := range 2000 {
		all = append(all, blockNumber(i))
	}
	out.Apply(table, table.Update(member(2), announcing(path(), all...)))
	// 5 bytes for each /26 in some 4050.
	if n := len(next(c)); n != 3 {
		t.Errorf("%d messages announce 2000 prefixes, want 3", n)
	}
	out.Apply(table, table.DropPeer(member(2).Addr))
	if n := len(next(c)); n != 3 {
		t.Errorf("%d messages withdraw 2000 prefixes, want 3", n)
	}
	if n := len(next(out.Join(member(1).Addr))); n != 0 {
		t.Errorf("%d messages to a newcomer about nothing", n)
	}
}

func TestEndOfRIBComesOnceAndLast(t *testing.T) {
	groups := NewGroups(New(self))
	early := groups.Join(inside, member(0).Addr)
	groups.table.Originate([]speaker.Advertisement{{Prefix: block, NextHop: addr("192.168.0.1")}})
	groups.Apply([]netip.Prefix{block})
	if n := len(next(early)); n != 1 {
		t.Fatalf("%d messages before complete, want the route", n)
	}
	groups.Complete()
	groups.Complete()
	end := message.PackEndOfRIB()
	if got := next(early); len(got) != 1 || !slices.Equal(got[0], end) {
		t.Errorf("%x to those there, want End-of-RIB once", got)
	}
	late := groups.Join(inside, member(1).Addr)
	if got := next(late); len(got) != 2 || !slices.Equal(got[1], end) {
		t.Errorf("%x to a newcomer, want the route and End-of-RIB", got)
	}
	other := groups.Join(outside, member(2).Addr)
	if got := next(other); len(got) != 2 || !slices.Equal(got[1], end) {
		t.Errorf("%x in a new group, want the route and End-of-RIB", got)
	}
}

func TestRefreshIsForOnePeer(t *testing.T) {
	groups := NewGroups(New(self))
	groups.table.Update(member(2), announcing(path(), block))
	a, b := groups.Join(inside, member(0).Addr), groups.Join(inside, member(1).Addr)
	first := next(a)
	next(b)
	groups.Refresh(inside, member(0).Addr)
	groups.Refresh(outside, member(0).Addr) // no such group
	if again := next(a); len(again) != 1 || !slices.Equal(again[0], first[0]) {
		t.Errorf("%x again, want %x", again, first)
	}
	if got := next(b); len(got) != 0 {
		t.Errorf("%x to a peer that did not ask", got)
	}
}

func TestGroupsComeAndGo(t *testing.T) {
	groups := NewGroups(New(self))
	groups.table.Originate([]speaker.Advertisement{{Prefix: block, NextHop: addr("192.168.0.1")}})
	a := member(0).Addr
	groups.Join(inside, a)
	groups.Join(inside, a) // a second session replaces the first
	groups.Leave(inside, a)
	if n := groups.Sent(inside, a); n != 1 {
		t.Errorf("%d sent while a session is there, want 1", n)
	}
	groups.Leave(inside, a)
	groups.Leave(inside, a)
	if len(groups.outs) != 0 || groups.Sent(inside, a) != 0 {
		t.Errorf("%d groups are left without members", len(groups.outs))
	}
}

func TestCursorWaitsAndLags(t *testing.T) {
	table := New(self)
	out := NewOut(inside, table)
	c := out.Join(member(0).Addr)
	slow := out.Join(member(1).Addr)
	next(c)
	ready := c.Ready()
	select {
	case <-ready:
		t.Fatal("ready with nothing to read")
	default:
	}
	out.Apply(table, table.Update(member(2), announcing(path(), block)))
	select {
	case <-ready:
	default:
		t.Fatal("not ready although there is something")
	}
	size := uint64(len(next(c)[0]))
	if c.Lag() != 0 || slow.Lag() != size {
		t.Errorf("lag %d and %d, want 0 and %d", c.Lag(), slow.Lag(), size)
	}
	if late := out.Join(member(3).Addr); late.Lag() != size {
		t.Errorf("a newcomer lags %d, want its dump of %d", late.Lag(), size)
	}
}

// Writers read while the owner goes on: run with -race.
func TestCursorsRunBesideTheOwner(t *testing.T) {
	table := New(self)
	groups := NewGroups(table)
	const rounds = 300
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 8 {
		l := &listener{export: inside, peer: member(3 * i), cursor: groups.Join(inside, member(3*i).Addr), routes: map[netip.Prefix]*message.Attrs{}}
		wg.Go(func() {
			for l.endOfRIB == 0 {
				select {
				case <-l.cursor.Ready():
					l.hear(t)
					_ = l.cursor.Lag()
				case <-ctx.Done():
					t.Errorf("%s waits for End-of-RIB in vain", l.peer.Name)
					return
				}
			}
			if len(l.routes) != 1 || !l.routes[block].HasMED || l.routes[block].MED != rounds-1 {
				t.Errorf("%s ends with %v", l.peer.Name, l.routes)
			}
		})
	}
	for i := range rounds {
		groups.Apply(table.Update(member(2), announcing(path(med(uint32(i))), block, blockNumber(i))))
		groups.Apply(table.Update(member(2), &message.Update{Withdrawn: []netip.Prefix{blockNumber(i)}}))
	}
	groups.Complete()
	wg.Wait()
}
