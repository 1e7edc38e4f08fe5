// SPDX-License-Identifier: Apache-2.0

package message

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// attr is one attribute in wire form, with a length of one byte.
func attr(flags byte, code AttrCode, value ...byte) []byte {
	return append([]byte{flags, byte(code), byte(len(value))}, value...)
}

// The attributes of a route as an external peer sends it.
var (
	goodOrigin  = attr(0x40, AttrOrigin, 0)
	goodASPath  = attr(0x40, AttrASPath, 2, 1, 0, 0, 0xfd, 0xe9) // 65001
	goodNextHop = attr(0x40, AttrNextHop, 192, 168, 0, 11)
	goodNLRI    = []byte{26, 172, 16, 0, 64}
	route       = prefixes("172.16.0.64/26")
)

// good is the mandatory attributes without those named and with more behind.
func good(without AttrCode, more ...[]byte) []byte {
	var b []byte
	for _, a := range [][]byte{goodOrigin, goodASPath, goodNextHop} {
		if AttrCode(a[1]) != without {
			b = append(b, a...)
		}
	}
	return append(b, slices.Concat(more...)...)
}

// field is b with its length in two bytes before it.
func field(b ...byte) []byte { return append([]byte{byte(len(b) >> 8), byte(len(b))}, b...) }

// announce is the body of an UPDATE that announces route.
func announce(attrs []byte) []byte { return slices.Concat(field(), field(attrs...), goodNLRI) }

// mpReach is the value of MP_REACH_NLRI for route2.
func mpReach(afi, safi byte, hop ...byte) []byte {
	return slices.Concat([]byte{0, afi, safi, byte(len(hop))}, hop, []byte{0, 26, 172, 16, 9, 0})
}

// outcome is what a message leads to.
type outcome string

const (
	accepted  outcome = "accepted"  // route is there
	discarded outcome = "discarded" // route is there, an attribute is not
	withdrawn outcome = "withdrawn" // route is treated as withdrawn
	ignored   outcome = "ignored"   // nothing to do for us
	reset     outcome = "reset"     // session ends
)

type malformed struct {
	name    string
	body    []byte
	opt     Options
	want    outcome
	subcode Subcode // of UpdateError when reset
}

// external and internal sessions with four-byte AS numbers, and an old peer.
var (
	external = Options{AS4: true}
	internal = Options{AS4: true, Internal: true}
	old      = Options{}
)

// oldGood is good for a peer with two-byte AS numbers.
func oldGood(more ...[]byte) []byte {
	path := attr(0x40, AttrASPath, 2, 1, 0xfd, 0xe9)
	return slices.Concat(goodOrigin, path, goodNextHop, slices.Concat(more...))
}

// malformedUpdates are the cases every speaker must survive, with the class
// their RFC orders: 7606 where nothing else is said.
var malformedUpdates = []malformed{
	{"well formed", announce(good(0)), external, accepted, 0},

	// ORIGIN, section 7.1
	{"origin length 0", announce(good(AttrOrigin, attr(0x40, AttrOrigin))), external, withdrawn, 0},
	{"origin length 2", announce(good(AttrOrigin, attr(0x40, AttrOrigin, 0, 0))), external, withdrawn, 0},
	{"origin value 3", announce(good(AttrOrigin, attr(0x40, AttrOrigin, 3))), external, withdrawn, 0},
	{"origin value 5", announce(good(AttrOrigin, attr(0x40, AttrOrigin, 5))), external, withdrawn, 0},
	{"origin value 255", announce(good(AttrOrigin, attr(0x40, AttrOrigin, 255))), external, withdrawn, 0},
	{"origin missing", announce(good(AttrOrigin)), external, withdrawn, 0},

	// Flags, section 3 c
	{"origin optional", announce(good(AttrOrigin, attr(0xc0, AttrOrigin, 0))), external, withdrawn, 0},
	{"origin not transitive", announce(good(AttrOrigin, attr(0x00, AttrOrigin, 0))), external, withdrawn, 0},
	{"origin partial only", announce(good(AttrOrigin, attr(0x60, AttrOrigin, 0))), external, accepted, 0},
	{"origin unused flags", announce(good(AttrOrigin, attr(0x4f, AttrOrigin, 0))), external, accepted, 0},
	{"origin extended length", announce(good(AttrOrigin, []byte{0x50, 1, 0, 1, 0})), external, accepted, 0},
	{"as_path optional", announce(good(AttrASPath, append([]byte{0xc0}, goodASPath[1:]...))), external, withdrawn, 0},
	{"next_hop optional", announce(good(AttrNextHop, append([]byte{0xc0}, goodNextHop[1:]...))), external, withdrawn, 0},
	{"med transitive", announce(good(0, attr(0xc0, AttrMED, 0, 0, 0, 1))), external, withdrawn, 0},
	{"local_pref optional", announce(good(0, attr(0xc0, AttrLocalPref, 0, 0, 0, 1))), internal, withdrawn, 0},
	{"atomic_aggregate optional", announce(good(0, attr(0xc0, AttrAtomicAggregate))), external, withdrawn, 0},
	{"aggregator not transitive", announce(good(0, attr(0x80, AttrAggregator, 0, 0, 0, 1, 1, 1, 1, 1))), external, withdrawn, 0},
	{"communities not transitive", announce(good(0, attr(0x80, AttrCommunities, 0, 0, 0, 1))), external, withdrawn, 0},
	{"originator_id transitive", announce(good(0, attr(0xc0, AttrOriginatorID, 1, 1, 1, 1))), internal, withdrawn, 0},
	{"cluster_list transitive", announce(good(0, attr(0xc0, AttrClusterList, 1, 1, 1, 1))), internal, withdrawn, 0},

	// AS_PATH, section 7.2; AS 0, RFC 7607
	{"as_path segment overruns", announce(good(AttrASPath, attr(0x40, AttrASPath, 2, 3, 0, 0, 0xfd, 0xe9))), external, withdrawn, 0},
	{"as_path one byte left", announce(good(AttrASPath, attr(0x40, AttrASPath, 2, 1, 0, 0, 0xfd, 0xe9, 2))), external, withdrawn, 0},
	{"as_path bad segment type", announce(good(AttrASPath, attr(0x40, AttrASPath, 9, 1, 0, 0, 0xfd, 0xe9))), external, withdrawn, 0},
	{"as_path segment type 0", announce(good(AttrASPath, attr(0x40, AttrASPath, 0, 1, 0, 0, 0xfd, 0xe9))), external, withdrawn, 0},
	{"as_path empty segment", announce(good(AttrASPath, attr(0x40, AttrASPath, 2, 0))), external, withdrawn, 0},
	{"as_path confederation", announce(good(AttrASPath, attr(0x40, AttrASPath, 3, 1, 0, 0, 0xfd, 0xe9))), external, withdrawn, 0},
	{"as_path two-byte numbers on a four-byte session", announce(good(AttrASPath, attr(0x40, AttrASPath, 2, 1, 0xfd, 0xe9))), external, withdrawn, 0},
	{"as_path AS 0", announce(good(AttrASPath, attr(0x40, AttrASPath, 2, 1, 0, 0, 0, 0))), external, withdrawn, 0},
	{"as_path AS 0 in a set", announce(good(AttrASPath, attr(0x40, AttrASPath, 1, 2, 0, 0, 0, 1, 0, 0, 0, 0))), external, withdrawn, 0},
	{"as_path missing", announce(good(AttrASPath)), external, withdrawn, 0},
	{"as_path empty, internal", announce(good(AttrASPath, attr(0x40, AttrASPath))), internal, accepted, 0},

	// NEXT_HOP, section 7.3, and RFC 4271 section 6.3
	{"next_hop length 3", announce(good(AttrNextHop, attr(0x40, AttrNextHop, 1, 2, 3))), external, withdrawn, 0},
	{"next_hop length 16", announce(good(AttrNextHop, attr(0x40, AttrNextHop, make([]byte, 16)...))), external, withdrawn, 0},
	{"next_hop length 0", announce(good(AttrNextHop, attr(0x40, AttrNextHop))), external, withdrawn, 0},
	{"next_hop 0.0.0.0", announce(good(AttrNextHop, attr(0x40, AttrNextHop, 0, 0, 0, 0))), external, withdrawn, 0},
	{"next_hop 127.0.0.1", announce(good(AttrNextHop, attr(0x40, AttrNextHop, 127, 0, 0, 1))), external, withdrawn, 0},
	{"next_hop 224.0.0.5", announce(good(AttrNextHop, attr(0x40, AttrNextHop, 224, 0, 0, 5))), external, withdrawn, 0},
	{"next_hop 240.0.0.1", announce(good(AttrNextHop, attr(0x40, AttrNextHop, 240, 0, 0, 1))), external, withdrawn, 0},
	{"next_hop 255.255.255.255", announce(good(AttrNextHop, attr(0x40, AttrNextHop, 255, 255, 255, 255))), external, withdrawn, 0},
	{"next_hop missing", announce(good(AttrNextHop)), external, withdrawn, 0},

	// MULTI_EXIT_DISC and LOCAL_PREF, sections 7.4 and 7.5
	{"med length 3", announce(good(0, attr(0x80, AttrMED, 0, 0, 1))), external, withdrawn, 0},
	{"local_pref length 5", announce(good(0, attr(0x40, AttrLocalPref, 0, 0, 0, 1, 1))), internal, withdrawn, 0},
	{"local_pref from outside", announce(good(0, attr(0x40, AttrLocalPref, 0, 0, 0, 200))), external, discarded, 0},
	{"local_pref from outside, wrong length", announce(good(0, attr(0x40, AttrLocalPref, 1))), external, discarded, 0},

	// ATOMIC_AGGREGATE and AGGREGATOR, sections 7.6 and 7.7
	{"atomic_aggregate length 1", announce(good(0, attr(0x40, AttrAtomicAggregate, 1))), external, discarded, 0},
	{"aggregator length 6 on a four-byte session", announce(good(0, attr(0xc0, AttrAggregator, 0, 1, 1, 1, 1, 1))), external, discarded, 0},
	{"aggregator length 8 on a two-byte session", announce(oldGood(attr(0xc0, AttrAggregator, 0, 0, 0, 1, 1, 1, 1, 1))), old, discarded, 0},
	{"aggregator AS 0", announce(good(0, attr(0xc0, AttrAggregator, 0, 0, 0, 0, 1, 1, 1, 1))), external, discarded, 0},

	// Communities: sections 7.8 and 7.14, RFC 8092
	{"communities length 0", announce(good(0, attr(0xc0, AttrCommunities))), external, withdrawn, 0},
	{"communities length 5", announce(good(0, attr(0xc0, AttrCommunities, 1, 2, 3, 4, 5))), external, withdrawn, 0},
	{"extended communities length 0", announce(good(0, attr(0xc0, AttrExtendedCommunities))), external, withdrawn, 0},
	{"extended communities length 7", announce(good(0, attr(0xc0, AttrExtendedCommunities, make([]byte, 7)...))), external, withdrawn, 0},
	{"extended communities", announce(good(0, attr(0xc0, AttrExtendedCommunities, make([]byte, 8)...))), external, accepted, 0},
	{"large communities length 13", announce(good(0, attr(0xc0, AttrLargeCommunities, make([]byte, 13)...))), external, withdrawn, 0},
	{"large communities", announce(good(0, attr(0xc0, AttrLargeCommunities, make([]byte, 12)...))), external, accepted, 0},
	{"large communities length 0", announce(good(0, attr(0xc0, AttrLargeCommunities))), external, withdrawn, 0},

	// ORIGINATOR_ID and CLUSTER_LIST, sections 7.9 and 7.10
	{"originator_id length 5", announce(good(0, attr(0x80, AttrOriginatorID, 1, 2, 3, 4, 5))), internal, withdrawn, 0},
	{"originator_id from outside", announce(good(0, attr(0x80, AttrOriginatorID, 1, 2, 3, 4))), external, discarded, 0},
	{"cluster_list length 0", announce(good(0, attr(0x80, AttrClusterList))), internal, withdrawn, 0},
	{"cluster_list length 6", announce(good(0, attr(0x80, AttrClusterList, 1, 2, 3, 4, 5, 6))), internal, withdrawn, 0},
	{"cluster_list from outside", announce(good(0, attr(0x80, AttrClusterList, 1, 2, 3, 4))), external, discarded, 0},

	// Repetition, section 3 g
	{"origin twice", announce(good(0, attr(0x40, AttrOrigin, 2))), external, discarded, 0},
	{"second origin malformed", announce(good(0, attr(0x40, AttrOrigin))), external, discarded, 0},
	{"unknown optional twice", announce(good(0, attr(0xc0, 99, 1), attr(0xc0, 99, 2))), external, discarded, 0},
	{"mp_reach twice", announce(good(0, attr(0x80, AttrMPReach, mpReach(1, 1, 192, 168, 0, 11)...), attr(0x80, AttrMPReach, mpReach(1, 1, 192, 168, 0, 11)...))), external, reset, MalformedAttributeList},
	{"mp_unreach twice", announce(good(0, attr(0x80, AttrMPUnreach, 0, 2, 1), attr(0x80, AttrMPUnreach, 0, 2, 1))), external, reset, MalformedAttributeList},

	// Length of attributes, section 4
	{"attribute overruns total", announce(good(0, []byte{0x80, 4, 9, 0, 0})), external, withdrawn, 0},
	{"attribute of one byte", announce(good(0, []byte{0x80})), external, withdrawn, 0},
	{"attribute without length", announce(good(0, []byte{0x80, 4})), external, withdrawn, 0},
	{"extended length cut off", announce(good(0, []byte{0x90, 4, 0})), external, withdrawn, 0},
	{"mp_reach overruns total", announce(good(0, []byte{0x80, 14, 9, 0, 1})), external, reset, AttributeLengthError},
	{"total overruns the message", slices.Concat(field(), []byte{0, 200}, good(0)), external, reset, MalformedAttributeList},
	{"total cut off", []byte{0, 0, 0}, external, reset, MalformedAttributeList},
	{"withdrawn overrun the message", []byte{0, 9, 0, 0}, external, reset, MalformedAttributeList},
	{"withdrawn leave no room for total", slices.Concat(field(26, 172, 16, 0, 64), []byte{0}), external, reset, MalformedAttributeList},

	// Attributes nobody knows
	{"unknown well-known", announce(good(0, attr(0x40, 99, 1))), external, reset, UnrecognizedWellKnown},
	{"unknown optional transitive", announce(good(0, attr(0xc0, 99, 1))), external, accepted, 0},
	{"unknown optional transitive partial", announce(good(0, attr(0xe0, 99, 1))), external, accepted, 0},
	{"unknown optional", announce(good(0, attr(0x80, 99, 1))), external, accepted, 0},
	{"unknown empty", announce(good(0, attr(0x80, 255))), external, accepted, 0},
	{"otc length 3", announce(good(0, attr(0xc0, AttrOnlyToCustomer, 1, 2, 3))), external, withdrawn, 0},
	{"otc", announce(good(0, attr(0xc0, AttrOnlyToCustomer, 0, 0, 0xfd, 0xe9))), external, accepted, 0},

	// AS4_PATH and AS4_AGGREGATOR, RFC 6793 section 6
	{"as4_path garbage", announce(oldGood(attr(0xc0, AttrAS4Path, 7, 7, 7))), old, discarded, 0},
	{"as4_path AS 0", announce(oldGood(attr(0xc0, AttrAS4Path, 2, 1, 0, 0, 0, 0))), old, discarded, 0},
	{"as4_path from a four-byte peer", announce(good(0, attr(0xc0, AttrAS4Path, 7, 7, 7))), external, discarded, 0},
	{"as4_path well formed from a four-byte peer", announce(good(0, attr(0xc0, AttrAS4Path, 2, 1, 0, 1, 0x11, 0x70))), external, discarded, 0},
	{"as4_aggregator well formed from a four-byte peer", announce(good(0, attr(0xc0, AttrAS4Aggregator, 0, 0, 0, 9, 1, 1, 1, 1))), external, discarded, 0},
	{"as4_path confederation segment", announce(oldGood(attr(0xc0, AttrAS4Path, 3, 1, 0, 0, 0, 9))), old, accepted, 0},
	{"as4_aggregator length 3", announce(oldGood(attr(0xc0, AttrAS4Aggregator, 1, 2, 3))), old, discarded, 0},
	{"as4_aggregator AS 0", announce(oldGood(attr(0xc0, AttrAS4Aggregator, 0, 0, 0, 0, 1, 1, 1, 1))), old, discarded, 0},

	// MP_REACH_NLRI and MP_UNREACH_NLRI, sections 7.11, 7.12 and 5.3
	{"mp_reach bad AFI", announce(good(0, attr(0x80, AttrMPReach, mpReach(77, 1, 1, 2, 3, 4)...))), external, accepted, 0},
	{"mp_reach multicast", announce(good(0, attr(0x80, AttrMPReach, mpReach(1, 2, 1, 2, 3, 4)...))), external, accepted, 0},
	{"mp_reach of another family alone", slices.Concat(field(), field(good(AttrNextHop, attr(0x80, AttrMPReach, mpReach(2, 1, make([]byte, 16)...)...))...)), external, ignored, 0},
	{"mp_reach of another family, bad origin", slices.Concat(field(), field(good(AttrOrigin, attr(0x40, AttrOrigin, 9), attr(0x80, AttrMPReach, mpReach(2, 1, make([]byte, 16)...)...))...)), external, ignored, 0},
	{"mp_reach truncated", announce(good(0, attr(0x80, AttrMPReach, 0, 1, 1, 4, 192, 168))), external, reset, OptionalAttributeError},
	{"mp_reach empty", announce(good(0, attr(0x80, AttrMPReach))), external, reset, OptionalAttributeError},
	{"mp_reach next hop length 16", announce(good(0, attr(0x80, AttrMPReach, mpReach(1, 1, make([]byte, 16)...)...))), external, reset, OptionalAttributeError},
	{"mp_reach next hop length 0", announce(good(0, attr(0x80, AttrMPReach, mpReach(1, 1)...))), external, reset, OptionalAttributeError},
	{"mp_reach prefix length 33", announce(good(0, attr(0x80, AttrMPReach, 0, 1, 1, 4, 192, 168, 0, 11, 0, 33, 1, 2, 3, 4, 5))), external, reset, OptionalAttributeError},
	{"mp_reach transitive", announce(good(0, attr(0xc0, AttrMPReach, mpReach(1, 1, 192, 168, 0, 11)...))), external, withdrawn, 0},
	{"mp_reach next hop 127.0.0.1", announce(good(0, attr(0x80, AttrMPReach, mpReach(1, 1, 127, 0, 0, 1)...))), external, withdrawn, 0},
	{"mp_reach with another next hop than NEXT_HOP", announce(good(0, attr(0x80, AttrMPReach, mpReach(1, 1, 192, 168, 0, 12)...))), external, withdrawn, 0},
	{"mp_unreach beside a route", announce(good(0, attr(0x80, AttrMPUnreach, 0, 1, 1, 8, 10))), external, accepted, 0},
	{"mp_unreach of another family", announce(good(0, attr(0x80, AttrMPUnreach, 0, 2, 1, 8, 10))), external, accepted, 0},
	{"mp_unreach truncated", announce(good(0, attr(0x80, AttrMPUnreach, 0, 1))), external, reset, OptionalAttributeError},
	{"mp_unreach prefix cut off", announce(good(0, attr(0x80, AttrMPUnreach, 0, 1, 1, 24, 10))), external, reset, OptionalAttributeError},

	// Routes, section 5.3 and RFC 4271 section 6.3
	{"prefix length 33", slices.Concat(field(), field(good(0)...), []byte{33, 1, 2, 3, 4, 5}), external, reset, InvalidNetworkField},
	{"prefix cut off", slices.Concat(field(), field(good(0)...), []byte{24, 10, 0}), external, reset, InvalidNetworkField},
	{"withdrawn prefix length 40", slices.Concat(field(40, 1, 2, 3, 4, 5), field()), external, reset, InvalidNetworkField},
	{"withdrawn prefix cut off", slices.Concat(field(32, 1, 2), field()), external, reset, InvalidNetworkField},
	{"multicast prefix beside a good one", append(announce(good(0)), 8, 224), external, discarded, 0},
	{"loopback prefix beside a good one", append(announce(good(0)), 8, 127), external, discarded, 0},

	// Several errors: the strongest counts, section 3 h
	{"discard and treat-as-withdraw", announce(good(AttrOrigin, attr(0x40, AttrOrigin, 9), attr(0x40, AttrAtomicAggregate, 1))), external, withdrawn, 0},
	{"treat-as-withdraw and reset", announce(good(AttrOrigin, attr(0x40, AttrOrigin, 9), attr(0x40, 99, 1))), external, reset, UnrecognizedWellKnown},

	// Errors with no route in sight, section 5.2
	{"bad origin, no routes", slices.Concat(field(), field(good(AttrOrigin, attr(0x40, AttrOrigin, 9))...)), external, reset, InvalidOrigin},
	{"bad next hop length, only withdrawals", slices.Concat(field(goodNLRI...), field(attr(0x40, AttrNextHop, 1)...)), external, reset, AttributeLengthError},
	{"discard, no routes", slices.Concat(field(), field(good(0, attr(0x40, AttrAtomicAggregate, 1))...)), external, ignored, 0},
	{"mp_unreach with wrong flags alone", slices.Concat(field(), field(attr(0xc0, AttrMPUnreach, 0, 1, 1, 26, 172, 16, 0, 64)...)), external, withdrawn, 0},
}

func TestMalformedUpdates(t *testing.T) {
	if n := len(malformedUpdates); n < 78 {
		t.Errorf("%d cases, want 78 at least", n)
	}
	for _, c := range malformedUpdates {
		t.Run(c.name, func(t *testing.T) {
			m, err := Decode(TypeUpdate, c.body, c.opt)
			if c.want == reset {
				var n *Notification
				if !errors.As(err, &n) || n.Code != UpdateError || n.Subcode != c.subcode {
					t.Fatalf("%v %v, want a reset with subcode %d", m, err, c.subcode)
				}
				return
			}
			if err != nil {
				t.Fatalf("reset: %v", err)
			}
			if got := outcomeOf(m.(*Update)); got != c.want {
				t.Errorf("%s, want %s: %+v", got, c.want, m)
			}
		})
	}
}

// outcomeOf classes what became of route.
func outcomeOf(u *Update) outcome {
	for _, f := range u.Flaws {
		if f.Text == "" || f.Action == SessionReset {
			return outcome("a flaw without text or of a reset")
		}
	}
	has := func(f Action) bool { return slices.ContainsFunc(u.Flaws, func(g Flaw) bool { return g.Action == f }) }
	switch {
	case (u.Attrs == nil) != (len(u.NLRI) == 0):
		return "attributes without routes or the other way round"
	case slices.Contains(u.NLRI, route[0]) && has(Discard):
		return discarded
	case slices.Contains(u.NLRI, route[0]) && len(u.Flaws) == 0:
		return accepted
	case slices.Contains(u.Withdrawn, route[0]) && len(u.NLRI) == 0 && u.TreatedAsWithdrawn():
		return withdrawn
	case len(u.NLRI) == 0 && len(u.Withdrawn) == 0 && !u.EndOfRIB:
		return ignored
	}
	return "nothing known"
}

func TestResetCarriesTheAttribute(t *testing.T) {
	bad := attr(0x40, 99, 1, 2, 3)
	_, err := Decode(TypeUpdate, announce(good(0, bad)), external)
	wantNotification(t, "unknown well-known", err, UpdateError, UnrecognizedWellKnown, bad)
	if !strings.Contains(err.Error(), "attribute 99") {
		t.Errorf("text %q does not name the attribute", err)
	}
	body := slices.Concat(field(), field(good(AttrNextHop, attr(0x80, AttrMED))...))
	_, err = Decode(TypeUpdate, body, external)
	wantNotification(t, "no routes", err, UpdateError, AttributeLengthError, attr(0x80, AttrMED))
}

func TestTreatAsWithdrawCoversAllRoutesOfTheMessage(t *testing.T) {
	body := slices.Concat(
		field(24, 10, 0, 0),
		field(good(AttrOrigin, attr(0x40, AttrOrigin, 9),
			attr(0x80, AttrMPReach, mpReach(1, 1, 192, 168, 0, 11)...),
			attr(0x80, AttrMPUnreach, 0, 1, 1, 24, 10, 0, 1))...),
		goodNLRI)
	m, err := Decode(TypeUpdate, body, external)
	if err != nil {
		t.Fatal(err)
	}
	u := m.(*Update)
	want := prefixes("10.0.0.0/24", "10.0.1.0/24", "172.16.0.64/26", "172.16.9.0/26")
	if d := diff(want, u.Withdrawn); d != "" || u.NLRI != nil || u.Attrs != nil {
		t.Errorf("%+v\n%s", u, d)
	}
}

func TestDiscardedAttributesAreGone(t *testing.T) {
	body := announce(good(0,
		attr(0x40, AttrOrigin, 2),
		attr(0x40, AttrLocalPref, 0, 0, 0, 200),
		attr(0x40, AttrAtomicAggregate, 1),
		attr(0xc0, AttrAggregator, 0, 0, 0, 0, 1, 1, 1, 1),
		attr(0x80, AttrOriginatorID, 1, 2, 3, 4),
		attr(0x80, AttrClusterList, 1, 2, 3, 4)))
	m, err := Decode(TypeUpdate, body, external)
	if err != nil {
		t.Fatal(err)
	}
	want := &Attrs{ASPath: ASPath{sequence(65001)}, NextHop: m.(*Update).Attrs.NextHop}
	if d := diff(want, m.(*Update).Attrs); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	if n := len(m.(*Update).Flaws); n != 6 {
		t.Errorf("%d flaws, want 6", n)
	}
}

func TestFlawsAreBounded(t *testing.T) {
	var attrs []byte
	for range 300 {
		attrs = append(attrs, attr(0xc0, 99)...)
	}
	attrs = append(attrs, attr(0x80, AttrMED)...)
	m, err := Decode(TypeUpdate, announce(good(0, attrs)), external)
	if err != nil {
		t.Fatal(err)
	}
	if u := m.(*Update); len(u.Flaws) > maxFlaws+1 || !u.TreatedAsWithdrawn() {
		t.Errorf("%d flaws, treated as withdrawn %v", len(u.Flaws), u.TreatedAsWithdrawn())
	}
}
