// SPDX-License-Identifier: Apache-2.0

package table

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// block is the prefix most tests are about.
var block = prefix("172.16.0.64/26")

// path is the attributes of a plain route, changed by each of the functions.
func path(changes ...func(*message.Attrs)) *message.Attrs {
	a := &message.Attrs{NextHop: addr("192.168.0.9")}
	for _, change := range changes {
		change(a)
	}
	return a
}

func localPref(n uint32) func(*message.Attrs) {
	return func(a *message.Attrs) { a.LocalPref, a.HasLocalPref = n, true }
}

func med(n uint32) func(*message.Attrs) {
	return func(a *message.Attrs) { a.MED, a.HasMED = n, true }
}

func origin(o message.Origin) func(*message.Attrs) {
	return func(a *message.Attrs) { a.Origin = o }
}

func via(numbers ...speaker.ASN) func(*message.Attrs) {
	return func(a *message.Attrs) {
		a.ASPath = append(a.ASPath, message.Segment{Type: message.ASSequence, ASNs: numbers})
	}
}

func viaSet(numbers ...speaker.ASN) func(*message.Attrs) {
	return func(a *message.Attrs) {
		a.ASPath = append(a.ASPath, message.Segment{Type: message.ASSet, ASNs: numbers})
	}
}

func nextHop(text string) func(*message.Attrs) {
	return func(a *message.Attrs) { a.NextHop = addr(text) }
}

func reflected(originator string, clusters ...string) func(*message.Attrs) {
	return func(a *message.Attrs) {
		a.OriginatorID = addr(originator)
		for _, c := range clusters {
			a.ClusterList = append(a.ClusterList, addr(c))
		}
	}
}

func communities(c ...message.Community) func(*message.Attrs) {
	return func(a *message.Attrs) { a.Communities = c }
}

// announcing is an UPDATE of the prefixes.
func announcing(a *message.Attrs, prefixes ...netip.Prefix) *message.Update {
	return &message.Update{NLRI: prefixes, Attrs: a}
}

// Each step of the decision, what it says about the winner and about the
// losers. Peers 0, 1, 3 and 4 are internal; 2, 5 and 8 are in other ASes; of
// two peers the one with the lower number has the higher router ID.
func TestDecisionNamesItsStep(t *testing.T) {
	for name, c := range map[string]struct {
		own  bool
		from map[int]*message.Attrs
		want map[int]string // of peer; -1 is ourselves
	}{
		"one path": {
			from: map[int]*message.Attrs{0: path()},
			want: map[int]string{0: "chosen: only path"},
		},
		"own": {
			own:  true,
			from: map[int]*message.Attrs{0: path(localPref(500))},
			want: map[int]string{-1: "chosen: originated here, not learned", 0: "learned, but originated here"},
		},
		"local preference": {
			from: map[int]*message.Attrs{0: path(localPref(200), via(1, 2, 3)), 1: path()},
			want: map[int]string{0: "chosen: higher local preference 200 > 100", 1: "lower local preference 100 < 200"},
		},
		"AS path": {
			from: map[int]*message.Attrs{0: path(via(1, 2), origin(2)), 1: path(via(1), viaSet(3, 4, 5), via(6))},
			want: map[int]string{0: "chosen: shorter AS path 2 < 3", 1: "longer AS path 3 > 2"},
		},
		"origin": {
			from: map[int]*message.Attrs{0: path(origin(message.OriginEGP), med(9)), 1: path(origin(message.OriginIncomplete))},
			want: map[int]string{0: "chosen: better origin EGP < incomplete", 1: "worse origin incomplete > EGP"},
		},
		"MED of one neighbour": {
			from: map[int]*message.Attrs{0: path(via(1), med(5)), 2: path(via(1), med(6))},
			want: map[int]string{0: "chosen: lower MED 5 < 6", 2: "higher MED 6 > 5"},
		},
		"MED missing is 0": {
			from: map[int]*message.Attrs{0: path(med(1)), 1: path()},
			want: map[int]string{1: "chosen: lower MED 0 < 1", 0: "higher MED 1 > 0"},
		},
		"MED of different neighbours says nothing": {
			from: map[int]*message.Attrs{0: path(via(1), med(5)), 1: path(via(2), med(6))},
			want: map[int]string{1: "chosen: lower router ID 10.9.0.254 < 10.9.0.255", 0: "higher router ID 10.9.0.255 > 10.9.0.254"},
		},
		"MED before the rest": {
			// Peer 4 has the lowest router ID, but 3 through the same AS beats it before.
			from: map[int]*message.Attrs{3: path(via(1), med(5)), 4: path(via(1), med(6)), 1: path(via(2), med(7))},
			want: map[int]string{
				3: "chosen: lower router ID 10.9.0.252 < 10.9.0.254",
				4: "higher MED 6 > 5",
				1: "higher router ID 10.9.0.254 > 10.9.0.252",
			},
		},
		"external": {
			from: map[int]*message.Attrs{2: path(via(1)), 4: path(via(1))},
			want: map[int]string{2: "chosen: eBGP before iBGP", 4: "iBGP after eBGP"},
		},
		"originator stands for router ID": {
			from: map[int]*message.Attrs{0: path(reflected("10.0.0.7")), 1: path()},
			want: map[int]string{0: "chosen: lower router ID 10.0.0.7 < 10.9.0.254", 1: "higher router ID 10.9.0.254 > 10.0.0.7"},
		},
		"cluster list": {
			from: map[int]*message.Attrs{0: path(reflected("10.0.0.7", "1.1.1.1", "2.2.2.2")), 1: path(reflected("10.0.0.7", "1.1.1.1"))},
			want: map[int]string{1: "chosen: shorter cluster list 1 < 2", 0: "longer cluster list 2 > 1"},
		},
		"address": {
			from: map[int]*message.Attrs{0: path(reflected("10.0.0.7")), 1: path(reflected("10.0.0.7"))},
			want: map[int]string{0: "chosen: lower peer address 10.0.1.0 < 10.0.1.1", 1: "higher peer address 10.0.1.1 > 10.0.1.0"},
		},
		"unusable": {
			from: map[int]*message.Attrs{
				0: path(via(7)),
				1: path(via(7, 64512)),
				3: path(reflected("10.0.0.1")),
				4: path(reflected("10.0.0.7", "1.1.1.1", "10.0.0.1")),
				6: path(nextHop("192.168.0.1")),
			},
			want: map[int]string{
				0: "chosen: only usable path",
				1: "unusable: own AS 64512 is in the AS path 7 64512",
				3: "unusable: originator 10.0.0.1 is this node",
				4: "unusable: own cluster 10.0.0.1 is in the cluster list",
				6: "unusable: next hop 192.168.0.1 is this node",
			},
		},
		"none usable": {
			from: map[int]*message.Attrs{6: path(nextHop("10.0.0.1"))},
			want: map[int]string{6: "unusable: next hop 10.0.0.1 is this node"},
		},
	} {
		table := New(self)
		if c.own {
			table.Originate([]speaker.Advertisement{{Prefix: block, NextHop: addr("192.168.0.1")}})
		}
		for i, attrs := range c.from {
			table.Update(member(i), announcing(attrs, block))
		}
		got := map[int]string{}
		for _, p := range table.Paths(block) {
			got[numberOf(p.From)] = p.Why
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: -want +got\n%s", name, d)
		}
	}
}

// numberOf is the inverse of member, -1 for ourselves.
func numberOf(a netip.Addr) int {
	if !a.IsValid() {
		return -1
	}
	return int(a.As4()[3])
}
