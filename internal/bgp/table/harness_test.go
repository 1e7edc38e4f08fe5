// SPDX-License-Identifier: Apache-2.0

package table

import (
	"maps"
	"net/netip"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// failer is what *testing.T and *rapid.T share.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// listener is a peer that believes what it is told, as bytes.
type listener struct {
	export   Export
	peer     PeerInfo
	cursor   *Cursor
	routes   map[netip.Prefix]*message.Attrs
	messages int
	endOfRIB int
}

// hear reads one step of what there is; false when there is none.
func (l *listener) hear(t failer) bool {
	t.Helper()
	messages, ok := l.cursor.Next(nil)
	for _, wire := range messages {
		typ, length, err := message.ReadHeader(wire)
		if err != nil || length != len(wire) {
			t.Fatalf("message of %d bytes says %d: %v", len(wire), length, err)
		}
		m, err := message.Decode(typ, wire[message.HeaderLen:], message.Options{AS4: l.export.AS4, Internal: l.export.Internal})
		if err != nil {
			t.Fatalf("%s is told nonsense: %v", l.peer.Name, err)
		}
		u := m.(*message.Update)
		if len(u.Flaws) > 0 {
			t.Fatalf("%s is told something flawed: %v", l.peer.Name, u.Flaws)
		}
		l.messages++
		for _, prefix := range u.Withdrawn {
			delete(l.routes, prefix)
		}
		for _, prefix := range u.NLRI {
			l.routes[prefix] = u.Attrs
		}
		if u.EndOfRIB {
			l.endOfRIB++
		}
	}
	return ok
}

// world is a table with listeners beside its model.
type world struct {
	table     *Table
	groups    *Groups
	model     *model
	listeners map[netip.Addr]*listener
	complete  bool
	// trusting leaves out the comparison of all best paths around each change,
	// for large tables: listeners would miss what was not reported.
	trusting bool
}

func newWorld() *world {
	t := New(self)
	return &world{table: t, groups: NewGroups(t), model: newModel(), listeners: map[netip.Addr]*listener{}}
}

// exportTo is how peer i is told things: two groups inside, two outside.
func exportTo(i int) Export {
	return Export{Internal: member(i).Internal, AS4: i%2 == 0, AS: self.AS, LocalAddr: addr("192.168.0.1")}
}

func (w *world) join(i int) {
	p, e := member(i), exportTo(i)
	w.leave(i)
	w.listeners[p.Addr] = &listener{export: e, peer: p, cursor: w.groups.Join(e, p.Addr), routes: map[netip.Prefix]*message.Attrs{}}
}

func (w *world) leave(i int) {
	p := member(i)
	if w.listeners[p.Addr] != nil {
		w.groups.Leave(exportTo(i), p.Addr)
		delete(w.listeners, p.Addr)
	}
}

// apply does one change to the table, checks what it reports as changed and
// tells the groups.
func (w *world) apply(t failer, change func() []netip.Prefix) {
	t.Helper()
	before := w.bests()
	changed := change()
	w.groups.Apply(changed)
	after := w.bests()
	reported := map[netip.Prefix]bool{}
	for _, p := range changed {
		if reported[p] {
			t.Fatalf("%v is reported twice in %v", p, changed)
		}
		reported[p] = true
	}
	for p := range union2(before, after) {
		if !samePath(before[p], after[p]) && !reported[p] {
			t.Fatalf("the change of %v is not reported: %+v then %+v", p, before[p], after[p])
		}
	}
}

func (w *world) bests() map[netip.Prefix]Path {
	all := map[netip.Prefix]Path{}
	if w.trusting {
		return all
	}
	for p := range w.table.BestPaths() {
		all[p.Prefix] = p
	}
	return all
}

func union2(a, b map[netip.Prefix]Path) map[netip.Prefix]Path {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

func samePath(a, b Path) bool {
	return a.Prefix == b.Prefix && a.From == b.From && a.Attrs.Equal(b.Attrs)
}

// originate makes own the prefixes we originate.
func (w *world) originate(t failer, own ...netip.Prefix) {
	var ads []speaker.Advertisement
	w.model.own = map[netip.Prefix]*message.Attrs{}
	for _, p := range own {
		ad := speaker.Advertisement{Prefix: p, NextHop: addr("192.168.0.1"), LocalPref: uint32(p.Bits())}
		ads = append(ads, ad)
		w.model.own[p] = &message.Attrs{NextHop: ad.NextHop, LocalPref: ad.LocalPref, HasLocalPref: true}
	}
	w.apply(t, func() []netip.Prefix { return w.table.Originate(ads) })
}

func (w *world) update(t failer, i int, u *message.Update) {
	t.Helper()
	w.apply(t, func() []netip.Prefix { return w.table.Update(member(i), u) })
	w.model.update(member(i), u)
}

func (w *world) drop(t failer, i int) {
	w.apply(t, func() []netip.Prefix { return w.table.DropPeer(member(i).Addr) })
	delete(w.model.peers, member(i))
}

func (w *world) markStale(t failer, i int) {
	w.apply(t, func() []netip.Prefix { return w.table.MarkStale(member(i).Addr) })
	w.model.markStale(member(i))
}

func (w *world) sweep(t failer, i int) {
	w.apply(t, func() []netip.Prefix { return w.table.SweepStale(member(i).Addr) })
	w.model.sweep(member(i))
}

// check compares the table with the model.
func (w *world) check(t failer) {
	t.Helper()
	learned := map[netip.Prefix]cluster.LearnedRoute{}
	for r := range w.table.Snapshot().All() {
		learned[r.Prefix] = r
	}
	if n := w.table.Snapshot().Len(); n != len(learned) {
		t.Fatalf("snapshot says %d routes and yields %d", n, len(learned))
	}
	for p := range w.model.prefixes() {
		want, ok := w.model.best(p)
		got, gotOK := w.table.Best(p)
		if ok != gotOK || ok && (got.From != want.from || !got.Attrs.Equal(want.attrs) || got.Stale != want.stale) {
			t.Fatalf("best path to %v is %+v (%v), want %+v (%v)\n%s", p, got, gotOK, want, ok, cmp.Diff(want.attrs, got.Attrs, equal))
		}
		if !ok || got.Own() {
			continue
		}
		r := cluster.LearnedRoute{Prefix: p, NextHop: want.attrs.NextHop, From: want.from.Addr, FromName: want.from.Name, External: !want.from.Internal}
		if learned[p] != r {
			t.Fatalf("snapshot has %+v, want %+v", learned[p], r)
		}
		delete(learned, p)
	}
	if len(learned) > 0 {
		t.Fatalf("snapshot has more than there is: %v", learned)
	}
	w.checkPaths(t)
	w.checkPeers(t)
}

func (w *world) checkPeers(t failer) {
	t.Helper()
	for p, routes := range w.model.peers {
		stale := 0
		for _, s := range routes {
			if s.stale {
				stale++
			}
		}
		if w.table.Received(p.Addr) != len(routes) || w.table.Stale(p.Addr) != (stale > 0) {
			t.Fatalf("%s: %d received, stale %v; want %d, %d stale", p.Name, w.table.Received(p.Addr), w.table.Stale(p.Addr), len(routes), stale)
		}
	}
}

// checkPaths states what every dump must hold.
func (w *world) checkPaths(t failer) {
	t.Helper()
	count := map[netip.Prefix]int{}
	best := map[netip.Prefix]int{}
	for _, p := range w.table.Dump() {
		count[p.Prefix]++
		if p.Why == "" {
			t.Fatalf("no reason for %+v", p)
		}
		if p.Best {
			best[p.Prefix]++
			if got, ok := w.table.Best(p.Prefix); !ok || got.From.Addr != p.From || p.Why[:7] != "chosen:" {
				t.Fatalf("dump calls %+v the best, table %+v", p, got)
			}
		}
	}
	for prefix, n := range count {
		_, ok := w.table.Best(prefix)
		if ok != (best[prefix] == 1) {
			t.Fatalf("%d best paths to %v", best[prefix], prefix)
		}
		if paths := w.table.Paths(prefix); len(paths) != n {
			t.Fatalf("%d paths to %v, %d in the dump", len(paths), prefix, n)
		}
	}
}

// checkListeners lets everybody hear all there is and compares what they know
// with what they should have been told.
func (w *world) checkListeners(t failer) {
	t.Helper()
	bests := map[netip.Prefix]candidate{}
	for p := range w.model.prefixes() {
		if c, ok := w.model.best(p); ok {
			bests[p] = c
		}
	}
	for _, l := range w.listeners {
		for l.hear(t) {
		}
		if l.cursor.Lag() != 0 {
			t.Fatalf("%s lags %d bytes after reading everything", l.peer.Name, l.cursor.Lag())
		}
		want := map[netip.Prefix]*message.Attrs{}
		for p, best := range bests {
			if a := told(l.export, l.peer.Addr, best); a != nil {
				want[p] = a
			}
		}
		if d := cmp.Diff(want, l.routes, equal); d != "" {
			t.Fatalf("%s: -should have been told +was told\n%s", l.peer.Name, d)
		}
		if sent := w.groups.Sent(l.export, l.peer.Addr); sent != len(want) {
			t.Fatalf("%s: %d sent, want %d", l.peer.Name, sent, len(want))
		}
		if wantEoR := map[bool]int{true: 1}[w.complete]; l.endOfRIB != wantEoR {
			t.Fatalf("%s: %d End-of-RIB, want %d", l.peer.Name, l.endOfRIB, wantEoR)
		}
	}
}

// equal compares attributes by their own method.
var equal = cmp.Options{
	cmp.Comparer(func(a, b *message.Attrs) bool { return a.Equal(b) }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}
