// SPDX-License-Identifier: Apache-2.0

package table

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// few prefixes and few values, so that paths meet and tie.
func drawPrefixes(t *rapid.T, label string) []netip.Prefix {
	return rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16, byte(rapid.IntRange(0, 7).Draw(t, "block")), 0}), 26)
	}), 0, 4, rapid.ID).Draw(t, label)
}

// twist is true one time in four: paths differ in few things and tie in the
// others, so that late steps of the decision are reached.
func twist(t *rapid.T, what string) bool { return rapid.IntRange(0, 3).Draw(t, what) == 3 }

func drawASPath(t *rapid.T) message.ASPath {
	as := rapid.SampledFrom([]speaker.ASN{65000, 65001, 70000, self.AS})
	var path message.ASPath
	for range rapid.IntRange(0, 2).Draw(t, "segments") {
		path = append(path, message.Segment{
			Type: rapid.SampledFrom([]message.SegmentType{message.ASSequence, message.ASSequence, message.ASSet}).Draw(t, "type"),
			ASNs: rapid.SliceOfN(as, 1, 3).Draw(t, "numbers"),
		})
	}
	return path
}

func drawAddr(t *rapid.T, label string, addrs ...string) netip.Addr {
	return addr(rapid.SampledFrom(addrs).Draw(t, label))
}

func drawAttrs(t *rapid.T, from PeerInfo) *message.Attrs {
	a := &message.Attrs{
		ASPath:  message.ASPath{{Type: message.ASSequence, ASNs: []speaker.ASN{65000}}},
		NextHop: addr("192.168.0.9"),
	}
	if twist(t, "origin") {
		a.Origin = message.Origin(rapid.IntRange(1, 2).Draw(t, "origin"))
	}
	if twist(t, "path") {
		a.ASPath = drawASPath(t)
	}
	if twist(t, "hop") {
		a.NextHop = drawAddr(t, "next hop", "10.0.1.0", "10.0.1.1", "10.0.1.2", "10.0.1.5", "192.168.0.1")
	}
	if twist(t, "MED") {
		a.MED, a.HasMED = uint32(rapid.IntRange(0, 2).Draw(t, "MED")), true
	}
	if twist(t, "community") {
		a.Communities = []message.Community{rapid.SampledFrom([]message.Community{
			message.NoAdvertise, message.NoExport, 64512<<16 | 1}).Draw(t, "community")}
	}
	if !from.Internal {
		return a
	}
	if twist(t, "preference") {
		a.LocalPref, a.HasLocalPref = uint32(rapid.SampledFrom([]int{99, 100, 101}).Draw(t, "preference")), true
	}
	if twist(t, "reflected") {
		a.OriginatorID = drawAddr(t, "originator", "10.9.0.1", "10.9.0.200", "10.0.0.1")
		for range rapid.IntRange(0, 2).Draw(t, "clusters") {
			a.ClusterList = append(a.ClusterList, drawAddr(t, "cluster", "10.8.0.1", "10.0.0.1"))
		}
	}
	return a
}

func drawUpdate(t *rapid.T, from PeerInfo) *message.Update {
	u := &message.Update{Withdrawn: drawPrefixes(t, "withdrawn"), NLRI: drawPrefixes(t, "announced")}
	if len(u.NLRI) > 0 {
		u.Attrs = drawAttrs(t, from)
	}
	u.EndOfRIB = len(u.NLRI)+len(u.Withdrawn) == 0
	return u
}

// Whatever the peers do in whatever order, the table holds what the dullest
// reading of the RFCs says, and every listener believes what it should,
// whenever it joined and however late it reads.
func TestTableEqualsOracle(t *testing.T) { rapid.Check(t, checkWorld) }

// FuzzTable is TestTableEqualsOracle led by the fuzzer.
func FuzzTable(f *testing.F) { f.Fuzz(rapid.MakeFuzz(checkWorld)) }

func checkWorld(t *rapid.T) {
	w := newWorld()
	peer := rapid.IntRange(0, 7)
	t.Repeat(map[string]func(*rapid.T){
		"update":     func(t *rapid.T) { i := peer.Draw(t, "peer"); w.update(t, i, drawUpdate(t, member(i))) },
		"update 2":   func(t *rapid.T) { i := peer.Draw(t, "peer"); w.update(t, i, drawUpdate(t, member(i))) },
		"drop":       func(t *rapid.T) { w.drop(t, peer.Draw(t, "peer")) },
		"mark stale": func(t *rapid.T) { w.markStale(t, peer.Draw(t, "peer")) },
		"sweep":      func(t *rapid.T) { w.sweep(t, peer.Draw(t, "peer")) },
		"originate":  func(t *rapid.T) { w.originate(t, drawPrefixes(t, "own")...) },
		"join":       func(t *rapid.T) { w.join(peer.Draw(t, "peer")) },
		"leave":      func(t *rapid.T) { w.leave(peer.Draw(t, "peer")) },
		"complete":   func(*rapid.T) { w.complete = true; w.groups.Complete() },
		"refresh": func(t *rapid.T) {
			i := peer.Draw(t, "peer")
			w.groups.Refresh(exportTo(i), member(i).Addr)
		},
		"hear": func(t *rapid.T) {
			if l := w.listeners[member(peer.Draw(t, "peer")).Addr]; l != nil {
				l.hear(t)
			}
		},
		"quiesce": func(t *rapid.T) { w.checkListeners(t) },
		"":        func(t *rapid.T) { w.check(t) },
	})
	w.checkListeners(t)
}

// The same announcements in another order give the same best paths.
func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type announcement struct {
			from PeerInfo
			u    *message.Update
		}
		var all []announcement
		for i := range 8 {
			u := &message.Update{NLRI: []netip.Prefix{prefix("172.16.0.0/26")}, Attrs: drawAttrs(t, member(i))}
			all = append(all, announcement{member(i), u})
		}
		a, b := New(self), New(self)
		for _, said := range all {
			a.Update(said.from, said.u)
		}
		for _, said := range rapid.Permutation(all).Draw(t, "order") {
			b.Update(said.from, said.u)
		}
		bestA, okA := a.Best(prefix("172.16.0.0/26"))
		bestB, okB := b.Best(prefix("172.16.0.0/26"))
		if okA != okB || bestA != bestB {
			t.Fatalf("%+v, in another order %+v", bestA, bestB)
		}
	})
}
