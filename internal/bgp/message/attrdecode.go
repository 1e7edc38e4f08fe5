// SPDX-License-Identifier: Apache-2.0

package message

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// maxFlaws bounds what one message can make us write down.
const maxFlaws = 16

// attrDecoder collects what the attributes of one UPDATE say.
type attrDecoder struct {
	opt   Options
	attrs Attrs
	seen  [4]uint64 // one bit for each code
	flaws []Flaw
	worst Action
	// first is the NOTIFICATION for the first error that asks for more than
	// discarding, sent when the routes it concerns cannot be told.
	first error
	// reset ends the session.
	reset error

	as4 struct {
		path       ASPath
		aggregator *Aggregator
	}
	reach struct {
		nlri    []netip.Prefix
		nextHop netip.Addr
		other   bool // of a family we do not route
	}
	unreach struct {
		nlri   []netip.Prefix
		routed bool // of a family we route
	}
}

// decode reads all attributes, until one ends the session.
func (d *attrDecoder) decode(b []byte) {
	for len(b) > 0 && d.reset == nil {
		attr, rest, ok := cutAttr(b)
		if !ok {
			d.cutOff(attr)
			return
		}
		d.attribute(attr)
		b = rest
	}
}

// cutOff notes an attribute that overruns the field. The length of the whole
// field still tells where the routes begin, unless the attribute is itself one
// that holds routes (RFC 7606 sections 3 j and 4).
func (d *attrDecoder) cutOff(a rawAttr) {
	action := TreatAsWithdraw
	if a.code == AttrMPReach || a.code == AttrMPUnreach {
		action = SessionReset
	}
	d.flaw(action, AttributeLengthError, a, fmt.Sprintf("%v overruns the path attributes (RFC 7606 section 4)", a.code))
}

// attribute reads one attribute by its rule.
func (d *attrDecoder) attribute(a rawAttr) {
	rule := ruleOf(a.code)
	switch {
	case d.again(a.code) && (a.code == AttrMPReach || a.code == AttrMPUnreach):
		d.flaw(SessionReset, MalformedAttributeList, rawAttr{code: a.code}, fmt.Sprintf("%v twice (RFC 7606 section 3 g)", a.code))
	case d.again(a.code):
		d.flaw(Discard, 0, a, fmt.Sprintf("%v twice, the first counts (RFC 7606 section 3 g)", a.code))
	case rule == nil && a.flags&flagOptional == 0:
		d.flaw(SessionReset, UnrecognizedWellKnown, a, fmt.Sprintf("%v is unknown and not optional (RFC 4271 section 6.3)", a.code))
	case rule == nil:
	case rule.from == fromInternal && !d.opt.Internal:
		d.flaw(Discard, 0, a, fmt.Sprintf("%v from another AS (%s)", a.code, rule.ref))
	case rule.from == fromTwoByte && d.opt.AS4:
		d.flaw(Discard, 0, a, fmt.Sprintf("%v from a peer with four-byte AS numbers (%s)", a.code, rule.ref))
	default:
		d.apply(rule, a)
	}
	d.seen[a.code/64] |= 1 << (a.code % 64)
}

// apply checks flags and length and reads the value. After wrong flags the
// value is read all the same: MP_REACH_NLRI tells what to withdraw.
func (d *attrDecoder) apply(rule *attrRule, a rawAttr) {
	if a.flags&(flagOptional|flagTransitive) != rule.flags {
		d.flaw(TreatAsWithdraw, AttributeFlagsError, a, fmt.Sprintf("%s has flags %#02x (RFC 7606 section 3 c)", rule.name, a.flags))
	}
	if !rule.size(len(a.value), d.opt.AS4) {
		d.flaw(rule.onError, AttributeLengthError, a, fmt.Sprintf("%s has %d bytes (%s)", rule.name, len(a.value), rule.ref))
		return
	}
	if err := rule.decode(d, a.value); err != nil {
		action := rule.onError
		if errors.Is(err, errNextHop) {
			action = TreatAsWithdraw
		}
		d.flaw(action, rule.subcode, a, fmt.Sprintf("%s: %v (%s)", rule.name, err, rule.ref))
	}
}

func (d *attrDecoder) again(c AttrCode) bool { return d.seen[c/64]&(1<<(c%64)) != 0 }

// flaw notes an error and what it leads to. At most maxFlaws are kept, and
// always the first of the worst kind.
func (d *attrDecoder) flaw(action Action, subcode Subcode, a rawAttr, text string) {
	refusal := func() error { return refuse(UpdateError, subcode, a.wire, "%s", text) }
	if action == SessionReset {
		d.reset = refusal()
		return
	}
	if action == TreatAsWithdraw && d.first == nil {
		d.first = refusal()
	}
	if len(d.flaws) < maxFlaws || action > d.worst {
		d.flaws = append(d.flaws, Flaw{Attr: a.code, Action: action, Text: text})
	}
	d.worst = max(d.worst, action)
}

// finish puts everything into u, whose Withdrawn and NLRI hold the classic
// fields.
func (d *attrDecoder) finish(u *Update) error {
	if d.reset != nil {
		return d.reset
	}
	if len(u.NLRI)+len(d.reach.nlri) > 0 {
		d.requireAttrs(len(u.NLRI) > 0)
	}
	// Without routes in sight they may have been in what could not be read
	// (RFC 7606 section 5.2). MP_UNREACH_NLRI alone has been read.
	if d.first != nil && len(u.NLRI)+len(d.reach.nlri) == 0 && !d.reach.other && !d.onlyUnreach() {
		return d.first
	}
	u.Withdrawn = append(u.Withdrawn, d.unreach.nlri...)
	u.NLRI = d.joinReach(u.NLRI)
	if d.worst >= TreatAsWithdraw {
		u.Withdrawn, u.NLRI = append(u.Withdrawn, u.NLRI...), nil
	}
	u.NLRI = d.dropUnforwardable(u.NLRI)
	if len(u.NLRI) > 0 {
		d.mergeAS4()
		u.Attrs = &d.attrs
	}
	u.Flaws = d.flaws
	return nil
}

// requireAttrs notes mandatory attributes that are missing (RFC 7606 section 3
// d); classic says that routes stand in the classic field. A missing
// LOCAL_PREF of an internal peer counts as the default instead.
func (d *attrDecoder) requireAttrs(classic bool) {
	for _, code := range []AttrCode{AttrOrigin, AttrASPath, AttrNextHop} {
		if d.again(code) || code == AttrNextHop && !classic {
			continue
		}
		data := rawAttr{code: code, wire: []byte{byte(code)}}
		d.flaw(TreatAsWithdraw, MissingWellKnown, data, fmt.Sprintf("%v is missing (RFC 7606 section 3 d)", code))
	}
}

// onlyUnreach says whether MP_UNREACH_NLRI is the only attribute.
func (d *attrDecoder) onlyUnreach() bool {
	return d.seen == [4]uint64{1 << AttrMPUnreach}
}

// joinReach adds the routes of MP_REACH_NLRI to those of the classic field.
// One family in both with two next hops is nothing any RFC describes.
func (d *attrDecoder) joinReach(nlri []netip.Prefix) []netip.Prefix {
	if len(d.reach.nlri) == 0 {
		return nlri
	}
	if len(nlri) > 0 && d.attrs.NextHop != d.reach.nextHop {
		d.flaw(TreatAsWithdraw, OptionalAttributeError, rawAttr{code: AttrMPReach}, "MP_REACH_NLRI and NEXT_HOP differ for one family")
	}
	d.attrs.NextHop = d.reach.nextHop
	return append(nlri, d.reach.nlri...)
}

// dropUnforwardable leaves out prefixes no packet can have (RFC 4271 section
// 6.3).
func (d *attrDecoder) dropUnforwardable(nlri []netip.Prefix) []netip.Prefix {
	bad := slices.IndexFunc(nlri, func(p netip.Prefix) bool { return !forwardable(p) })
	if bad < 0 {
		return nlri
	}
	d.flaw(Discard, 0, rawAttr{}, fmt.Sprintf("prefix %v cannot be routed (RFC 4271 section 6.3)", nlri[bad]))
	left := slices.DeleteFunc(nlri, func(p netip.Prefix) bool { return !forwardable(p) })
	if len(left) == 0 {
		return nil
	}
	return left
}

// endOfRIB says whether the message is MP_UNREACH_NLRI of a routed family
// without routes and nothing else (RFC 4724 section 2).
func (d *attrDecoder) endOfRIB(u *Update) bool {
	return d.onlyUnreach() && d.unreach.routed && len(u.Withdrawn)+len(u.NLRI) == 0
}

// mergeAS4 rebuilds path and aggregator of a peer without four-byte AS numbers
// (RFC 6793 section 4.2.3).
func (d *attrDecoder) mergeAS4() {
	if old := d.attrs.Aggregator; d.as4.aggregator != nil && old != nil {
		if old.AS != asTrans {
			return
		}
		d.attrs.Aggregator = d.as4.aggregator
	}
	d.attrs.ASPath = d.attrs.ASPath.merge(d.as4.path)
}

// drop is for attributes that are checked but not kept.
func drop(*attrDecoder, []byte) error { return nil }

func (d *attrDecoder) origin(v []byte) error {
	if Origin(v[0]) > OriginIncomplete {
		return fmt.Errorf("value %d", v[0])
	}
	d.attrs.Origin = Origin(v[0])
	return nil
}

func (d *attrDecoder) asPath(v []byte) (err error) {
	d.attrs.ASPath, err = decodeASPath(v, d.opt.AS4, false)
	return err
}

func (d *attrDecoder) as4Path(v []byte) (err error) {
	d.as4.path, err = decodeASPath(v, true, true)
	return err
}

// errNextHop is for a next hop that is no host's address: RFC 4271 section 6.3
// calls it syntactically incorrect, RFC 7606 section 3 e withdraws the routes.
var errNextHop = errors.New("not the address of a host")

func (d *attrDecoder) nextHop(v []byte) error {
	d.attrs.NextHop = netip.AddrFrom4([4]byte(v))
	return checkNextHop(d.attrs.NextHop)
}

func checkNextHop(a netip.Addr) error {
	if !usable(a) {
		return fmt.Errorf("%v is %w", a, errNextHop)
	}
	return nil
}

func (d *attrDecoder) med(v []byte) error {
	d.attrs.MED, d.attrs.HasMED = binary.BigEndian.Uint32(v), true
	return nil
}

func (d *attrDecoder) localPref(v []byte) error {
	d.attrs.LocalPref, d.attrs.HasLocalPref = binary.BigEndian.Uint32(v), true
	return nil
}

func (d *attrDecoder) atomicAggregate([]byte) error {
	d.attrs.AtomicAggregate = true
	return nil
}

func (d *attrDecoder) aggregator(v []byte) (err error) {
	d.attrs.Aggregator, err = decodeAggregator(v, d.opt.AS4)
	return err
}

func (d *attrDecoder) as4Aggregator(v []byte) (err error) {
	d.as4.aggregator, err = decodeAggregator(v, true)
	return err
}

func decodeAggregator(v []byte, as4 bool) (*Aggregator, error) {
	g := &Aggregator{AS: readASN(v, as4), ID: netip.AddrFrom4([4]byte(v[asnSize(as4):]))}
	if g.AS == 0 {
		return nil, errors.New("AS 0 (RFC 7607)")
	}
	return g, nil
}

func (d *attrDecoder) communities(v []byte) error {
	d.attrs.Communities = make([]Community, 0, len(v)/4)
	for ; len(v) > 0; v = v[4:] {
		d.attrs.Communities = append(d.attrs.Communities, Community(binary.BigEndian.Uint32(v)))
	}
	return nil
}

func (d *attrDecoder) originatorID(v []byte) error {
	d.attrs.OriginatorID = netip.AddrFrom4([4]byte(v))
	return nil
}

func (d *attrDecoder) clusterList(v []byte) error {
	d.attrs.ClusterList = make([]netip.Addr, 0, len(v)/4)
	for ; len(v) > 0; v = v[4:] {
		d.attrs.ClusterList = append(d.attrs.ClusterList, netip.AddrFrom4([4]byte(v[:4])))
	}
	return nil
}

// mpReach reads MP_REACH_NLRI (RFC 4760 section 3): family, next hop, one
// reserved byte, routes. Routes of a family we do not speak are ignored.
func (d *attrDecoder) mpReach(v []byte) (err error) {
	if len(v) < 5 || int(v[3]) > len(v)-5 {
		return errors.New("cut off")
	}
	hop, nlri := v[4:4+int(v[3])], v[5+int(v[3]):]
	f := Family{AFI: AFI(binary.BigEndian.Uint16(v)), SAFI: SAFI(v[2])}
	family, routed := families[f]
	if !routed {
		d.reach.other = len(nlri) > 0
		return nil
	}
	if len(hop) != family.nextHop {
		return fmt.Errorf("next hop of %d bytes for %v", len(hop), f)
	}
	if d.reach.nlri, err = family.prefixes(nil, nlri); err != nil {
		return err
	}
	d.reach.nextHop, _ = netip.AddrFromSlice(hop)
	return checkNextHop(d.reach.nextHop)
}

// mpUnreach reads MP_UNREACH_NLRI (RFC 4760 section 4): family, routes.
func (d *attrDecoder) mpUnreach(v []byte) (err error) {
	if len(v) < 3 {
		return errors.New("cut off")
	}
	family, routed := families[Family{AFI: AFI(binary.BigEndian.Uint16(v)), SAFI: SAFI(v[2])}]
	if !routed {
		return nil
	}
	d.unreach.routed = true
	d.unreach.nlri, err = family.prefixes(nil, v[3:])
	return err
}
