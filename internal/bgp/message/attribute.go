// SPDX-License-Identifier: Apache-2.0

package message

import (
	"encoding/binary"
	"fmt"
)

// AttrCode is the type code of a path attribute (IANA registry).
type AttrCode uint8

// Attribute codes that are checked on receipt.
const (
	AttrOrigin              AttrCode = 1
	AttrASPath              AttrCode = 2
	AttrNextHop             AttrCode = 3
	AttrMED                 AttrCode = 4
	AttrLocalPref           AttrCode = 5
	AttrAtomicAggregate     AttrCode = 6
	AttrAggregator          AttrCode = 7
	AttrCommunities         AttrCode = 8
	AttrOriginatorID        AttrCode = 9
	AttrClusterList         AttrCode = 10
	AttrMPReach             AttrCode = 14
	AttrMPUnreach           AttrCode = 15
	AttrExtendedCommunities AttrCode = 16
	AttrAS4Path             AttrCode = 17
	AttrAS4Aggregator       AttrCode = 18
	AttrLargeCommunities    AttrCode = 32
	AttrOnlyToCustomer      AttrCode = 35
)

// String is the attribute's name as the RFCs write it.
func (c AttrCode) String() string {
	if rule := ruleOf(c); rule != nil {
		return rule.name
	}
	return fmt.Sprintf("attribute %d", uint8(c))
}

// Action is what an error in an attribute leads to, in the order of RFC 7606
// section 2: where errors meet, the highest applies.
type Action uint8

// Actions. SessionReset does not occur in a Flaw: it is a *Notification.
const (
	Discard         Action = iota + 1 // go on without the attribute
	TreatAsWithdraw                   // the routes of the message are withdrawn
	SessionReset                      // the session ends
)

// String is the action's name in RFC 7606.
func (a Action) String() string {
	switch a {
	case Discard:
		return "attribute discard"
	case TreatAsWithdraw:
		return "treat-as-withdraw"
	}
	return "session reset"
}

// attrRule is what is known of one attribute. A wrong flag is TreatAsWithdraw
// for all (RFC 7606 section 3 c); a wrong length or value is onError.
type attrRule struct {
	name    string
	flags   byte // Optional and Transitive as they must be
	size    func(n int, as4 bool) bool
	onError Action
	subcode Subcode // for a wrong value, where it ends the session
	ref     string  // where onError is ordered
	from    sender
	decode  func(d *attrDecoder, value []byte) error
}

// sender says from whom an attribute counts; from others it is discarded.
type sender uint8

const (
	fromAll      sender = iota
	fromInternal        // peers in our AS
	fromTwoByte         // peers without four-byte AS numbers
)

const (
	optional   = flagOptional
	transitive = flagTransitive
)

// attrRules is RFC 7606 as a table. An attribute that is not here is dropped
// when it is optional and ends the session when it claims to be well-known.
var attrRules = [...]attrRule{
	AttrOrigin:              {"ORIGIN", transitive, exactly(1), TreatAsWithdraw, InvalidOrigin, "RFC 7606 section 7.1", fromAll, (*attrDecoder).origin},
	AttrASPath:              {"AS_PATH", transitive, anySize, TreatAsWithdraw, MalformedASPath, "RFC 7606 section 7.2", fromAll, (*attrDecoder).asPath},
	AttrNextHop:             {"NEXT_HOP", transitive, exactly(4), TreatAsWithdraw, InvalidNextHop, "RFC 7606 section 7.3", fromAll, (*attrDecoder).nextHop},
	AttrMED:                 {"MULTI_EXIT_DISC", optional, exactly(4), TreatAsWithdraw, OptionalAttributeError, "RFC 7606 section 7.4", fromAll, (*attrDecoder).med},
	AttrLocalPref:           {"LOCAL_PREF", transitive, exactly(4), TreatAsWithdraw, AttributeLengthError, "RFC 7606 section 7.5", fromInternal, (*attrDecoder).localPref},
	AttrAtomicAggregate:     {"ATOMIC_AGGREGATE", transitive, exactly(0), Discard, AttributeLengthError, "RFC 7606 section 7.6", fromAll, (*attrDecoder).atomicAggregate},
	AttrAggregator:          {"AGGREGATOR", optional | transitive, aggregatorSize, Discard, OptionalAttributeError, "RFC 7606 section 7.7", fromAll, (*attrDecoder).aggregator},
	AttrCommunities:         {"COMMUNITIES", optional | transitive, someOf(4), TreatAsWithdraw, OptionalAttributeError, "RFC 7606 section 7.8", fromAll, (*attrDecoder).communities},
	AttrOriginatorID:        {"ORIGINATOR_ID", optional, exactly(4), TreatAsWithdraw, OptionalAttributeError, "RFC 7606 section 7.9", fromInternal, (*attrDecoder).originatorID},
	AttrClusterList:         {"CLUSTER_LIST", optional, someOf(4), TreatAsWithdraw, OptionalAttributeError, "RFC 7606 section 7.10", fromInternal, (*attrDecoder).clusterList},
	AttrMPReach:             {"MP_REACH_NLRI", optional, anySize, SessionReset, OptionalAttributeError, "RFC 7606 section 7.11", fromAll, (*attrDecoder).mpReach},
	AttrMPUnreach:           {"MP_UNREACH_NLRI", optional, anySize, SessionReset, OptionalAttributeError, "RFC 7606 section 7.12", fromAll, (*attrDecoder).mpUnreach},
	AttrExtendedCommunities: {"EXTENDED_COMMUNITIES", optional | transitive, someOf(8), TreatAsWithdraw, OptionalAttributeError, "RFC 7606 section 7.14", fromAll, drop},
	AttrAS4Path:             {"AS4_PATH", optional | transitive, anySize, Discard, MalformedASPath, "RFC 6793 section 6", fromTwoByte, (*attrDecoder).as4Path},
	AttrAS4Aggregator:       {"AS4_AGGREGATOR", optional | transitive, exactly(8), Discard, OptionalAttributeError, "RFC 6793 section 6", fromTwoByte, (*attrDecoder).as4Aggregator},
	AttrLargeCommunities:    {"LARGE_COMMUNITY", optional | transitive, someOf(12), TreatAsWithdraw, OptionalAttributeError, "RFC 8092 section 6", fromAll, drop},
	AttrOnlyToCustomer:      {"OTC", optional | transitive, exactly(4), TreatAsWithdraw, OptionalAttributeError, "RFC 9234 section 5", fromAll, drop},
}

// ruleOf is the rule for c, nil when there is none.
func ruleOf(c AttrCode) *attrRule {
	if int(c) >= len(attrRules) || attrRules[c].decode == nil {
		return nil
	}
	return &attrRules[c]
}

func exactly(want int) func(int, bool) bool {
	return func(n int, _ bool) bool { return n == want }
}

// someOf allows one or more values of size bytes each.
func someOf(size int) func(int, bool) bool {
	return func(n int, _ bool) bool { return n > 0 && n%size == 0 }
}

func anySize(int, bool) bool { return true }

func aggregatorSize(n int, as4 bool) bool { return n == asnSize(as4)+4 }

// rawAttr is one attribute as it came.
type rawAttr struct {
	flags byte
	code  AttrCode
	value []byte
	wire  []byte // all of it, the data of a NOTIFICATION
}

// cutAttr cuts the first attribute off b. When it is cut off itself, ok is
// false and only its code, if any, is known.
func cutAttr(b []byte) (a rawAttr, rest []byte, ok bool) {
	if len(b) < 2 {
		return rawAttr{wire: b}, nil, false
	}
	a = rawAttr{flags: b[0], code: AttrCode(b[1]), wire: b}
	header, size := 3, 0
	if a.flags&flagExtended != 0 {
		header = 4
	}
	switch {
	case len(b) < header:
		return a, nil, false
	case header == 4:
		size = int(binary.BigEndian.Uint16(b[2:]))
	default:
		size = int(b[2])
	}
	if size > len(b)-header {
		return a, nil, false
	}
	end := header + size
	a.value, a.wire = b[header:end:end], b[:end:end]
	return a, b[end:], true
}
