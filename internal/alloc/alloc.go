// SPDX-License-Identifier: Apache-2.0

// Package alloc is the decisions of address management on plain values: which
// ordinal of a block comes next, who holds it, what a release frees. The
// values have exactly the JSON shapes Calico stores, and fields this version
// does not know survive a rewrite. Nothing here reads a clock or a datastore;
// internal/ipam turns decisions into compare-and-swap writes.
package alloc

import (
	"iter"
	"maps"
	"net/netip"
	"strings"
	"time"

	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/fault"
)

// Keys of Attribute.Secondary. The first group is Calico's, the second ours:
// they say which incarnation of a node made an allocation.
const (
	AttrNode      = "node"
	AttrPod       = "pod"
	AttrNamespace = "namespace"
	AttrType      = "type"
	AttrTimestamp = "timestamp"

	AttrInstance = "ocicat.net/instance"
	AttrBoot     = "ocicat.net/boot"
)

// TypeReserve is the AttrType of an address that an agent holds ready.
const TypeReserve = "ocicatReserve"

// Free in Block.Allocations marks an ordinal that nobody holds.
const Free = -1

// windowsHandle is what Calico calls the holder of addresses that a Windows
// node keeps for itself.
const windowsHandle = "windows-reserved-ipam-handle"

// hostPrefix starts the affinity of a block that belongs to a node.
const hostPrefix = "host:"

// Attribute is what a block records about a holder; ordinals with equal
// attributes share one.
type Attribute struct {
	Handle    string            // the IPAM handle, "" for none
	Secondary map[string]string // who holds it: keys Attr…
	extra     fields            // as read: releasedAt, alternateOwnerAttrs, …
}

// Equal reports whether a and b may share an entry.
func (a Attribute) Equal(b Attribute) bool {
	return a.Handle == b.Handle && maps.Equal(a.Secondary, b.Secondary) && a.extra.equal(b.extra)
}

// KeptByWindows reports whether a stands for the first and last addresses of a
// block that its Windows node uses itself. No handle of that name is stored.
func (a Attribute) KeptByWindows() bool { return a.Handle == windowsHandle }

// String names the holder for people: "pod shop/web-0 on n3", or the handle.
func (a Attribute) String() string {
	var who string
	switch {
	case a.Secondary[AttrType] == TypeReserve:
		who = "the reserve"
	case a.KeptByWindows():
		who = "the block's Windows node"
	case a.Secondary[AttrPod] != "":
		who = "pod " + strings.TrimPrefix(a.Secondary[AttrNamespace]+"/"+a.Secondary[AttrPod], "/")
	case a.Handle != "":
		who = "handle " + a.Handle
	default:
		who = "an unknown holder"
	}
	if node := a.Secondary[AttrNode]; node != "" {
		who += " on " + node
	}
	return who
}

// Block is a range of addresses and who holds them. An address is known by
// its ordinal, its position in CIDR.
type Block struct {
	CIDR      netip.Prefix
	Affinity  string     // "host:" and a node, "virtual:" and a name, or "" for none
	ClaimTime *time.Time // when the affinity was claimed; nil where unknown
	// Allocations has one entry per ordinal: an index into Attributes, or Free.
	Allocations []int
	// Unallocated are the free ordinals in the order in which they are given:
	// assigned from the head, released to the tail.
	Unallocated []int
	Attributes  []Attribute
	Sequence    uint64 // grows by one with every write
	// SequenceFor is, per allocated ordinal, Sequence as it was when the
	// ordinal was assigned: it tells two holders of one address apart.
	SequenceFor map[int]uint64
	Deleted     bool // about to be deleted; used on Kubernetes

	extra fields
	rest  cooldown
}

// NewBlock is an empty block with the affinity of node, every address free,
// claimed at now; sequence is its first sequence number.
func NewBlock(p netip.Prefix, node string, now time.Time, sequence uint64) *Block {
	n := cidr.Size(p)
	claimed := now.UTC().Truncate(time.Second)
	b := &Block{
		CIDR:        p,
		Affinity:    hostPrefix + node,
		ClaimTime:   &claimed,
		Allocations: make([]int, n),
		Unallocated: make([]int, n),
		Sequence:    sequence,
		SequenceFor: map[int]uint64{},
	}
	for i := range n {
		b.Allocations[i], b.Unallocated[i] = Free, i
	}
	return b
}

// Node is the node b has an affinity to; ok is false where it has none or a
// virtual one.
func (b *Block) Node() (node string, ok bool) { return strings.CutPrefix(b.Affinity, hostPrefix) }

// Virtual reports whether b has an affinity to something that is no node, as
// blocks of LoadBalancer addresses have.
func (b *Block) Virtual() bool { return b.Affinity != "" && !strings.HasPrefix(b.Affinity, hostPrefix) }

// OwnedBy reports whether b has an affinity to node.
func (b *Block) OwnedBy(node string) bool { return b.Affinity == hostPrefix+node }

// ClearAffinity makes b a block that belongs to nobody.
func (b *Block) ClearAffinity() { b.Affinity, b.ClaimTime = "", nil }

// InUse is the number of addresses that somebody holds or that rest.
func (b *Block) InUse() int {
	n := 0
	for _, at := range b.Allocations {
		if at != Free {
			n++
		}
	}
	return n
}

// Empty reports whether nobody holds an address of b and none rests. What a
// Windows node keeps of its block for itself does not count.
func (b *Block) Empty() bool {
	for _, at := range b.Allocations {
		if at != Free && !b.Attributes[at].KeptByWindows() {
			return false
		}
	}
	return true
}

// Holder is who holds addr; ok is false where addr is free, rests, or is
// outside b.
func (b *Block) Holder(addr netip.Addr) (who Attribute, ok bool) {
	n := cidr.Ordinal(b.CIDR, addr)
	if n < 0 || b.Allocations[n] == Free {
		return Attribute{}, false
	}
	who = b.Attributes[b.Allocations[n]]
	return who, !who.resting()
}

// SequenceOf is the sequence number of addr's allocation, 0 where it has none.
func (b *Block) SequenceOf(addr netip.Addr) uint64 {
	return b.SequenceFor[cidr.Ordinal(b.CIDR, addr)]
}

// HeldBy lists the addresses whose holder satisfies match, by ordinal.
func (b *Block) HeldBy(match func(Attribute) bool) []netip.Addr {
	var held []netip.Addr
	for n, at := range b.Allocations {
		if at != Free && !b.Attributes[at].resting() && match(b.Attributes[at]) {
			held = append(held, cidr.At(b.CIDR, n))
		}
	}
	return held
}

// Holders yields who holds addresses of b, and how many each.
func (b *Block) Holders() iter.Seq2[Attribute, int] {
	return func(yield func(Attribute, int) bool) {
		held := make([]int, len(b.Attributes))
		for _, at := range b.Allocations {
			if at != Free {
				held[at]++
			}
		}
		for i, who := range b.Attributes {
			if held[i] > 0 && !who.resting() && !yield(who, held[i]) {
				return
			}
		}
	}
}

// ByHandle lists the addresses held under handle, by ordinal.
func (b *Block) ByHandle(handle string) []netip.Addr {
	return b.HeldBy(func(a Attribute) bool { return a.Handle == handle })
}

// Assignable counts the free addresses that AssignNext with the same skip could
// give; skip may be nil.
func (b *Block) Assignable(skip func(netip.Addr) bool) int {
	if skip == nil {
		return len(b.Unallocated)
	}
	n := 0
	for _, ordinal := range b.Unallocated {
		if !skip(cidr.At(b.CIDR, ordinal)) {
			n++
		}
	}
	return n
}

// AssignNext gives up to n free addresses to who, first in first out, passing
// over those that skip names; skip may be nil. The addresses passed over keep
// their place.
func (b *Block) AssignNext(n int, who Attribute, skip func(netip.Addr) bool) []netip.Addr {
	var given []netip.Addr
	kept := make([]int, 0, len(b.Unallocated))
	for i, ordinal := range b.Unallocated {
		if len(given) == n {
			kept = append(kept, b.Unallocated[i:]...)
			break
		}
		addr := cidr.At(b.CIDR, ordinal)
		if skip != nil && skip(addr) {
			kept = append(kept, ordinal)
			continue
		}
		given = append(given, addr)
		b.take(ordinal, who)
	}
	b.Unallocated = kept
	return given
}

// Assign gives one address to who. An address outside b is Invalid, one that
// somebody holds or that rests is Conflict.
func (b *Block) Assign(addr netip.Addr, who Attribute) error {
	ordinal := cidr.Ordinal(b.CIDR, addr)
	if ordinal < 0 {
		return fault.New(fault.Invalid, "address %s is not in block %s", addr, b.CIDR)
	}
	if holder, taken := b.Holder(addr); taken {
		return fault.New(fault.Conflict, "address %s is held by %s", addr, holder)
	}
	if since, resting := b.Resting(addr); resting {
		return fault.New(fault.Conflict, "address %s was released at %s and rests for %s", addr, since.UTC().Format(time.RFC3339), b.rest.wait)
	}
	for i, free := range b.Unallocated {
		if free == ordinal {
			b.Unallocated = append(b.Unallocated[:i:i], b.Unallocated[i+1:]...)
			break
		}
	}
	b.take(ordinal, who)
	return nil
}

// Reassign gives an address that somebody holds, or that rests, to who, as a
// new allocation. A free address is NotFound.
func (b *Block) Reassign(addr netip.Addr, who Attribute) error {
	if ordinal := cidr.Ordinal(b.CIDR, addr); ordinal < 0 || b.Allocations[ordinal] == Free {
		return fault.New(fault.NotFound, "address %s of block %s is not assigned", addr, b.CIDR)
	}
	b.take(cidr.Ordinal(b.CIDR, addr), who)
	b.sweep()
	return nil
}

// take records who at ordinal, sharing an equal attribute.
func (b *Block) take(ordinal int, who Attribute) {
	at := -1
	for i := range b.Attributes {
		if b.Attributes[i].Equal(who) {
			at = i
			break
		}
	}
	if at < 0 {
		b.Attributes = append(b.Attributes, who)
		at = len(b.Attributes) - 1
	}
	if b.SequenceFor == nil {
		b.SequenceFor = map[int]uint64{}
	}
	b.Allocations[ordinal], b.SequenceFor[ordinal] = at, b.Sequence
}

// Release is one address to free. With Handle it must still be held under
// that handle; with Sequence, by that very allocation.
type Release struct {
	Addr     netip.Addr
	Handle   string  // "" releases whoever holds it
	Sequence *uint64 // nil releases any allocation
	Unused   bool    // nobody used it: it need not rest
}

// Release frees addresses to the tail of the queue, lower ordinals first, or
// makes them rest (see Cool), and answers how many each handle lost ("" counts those without) and which were
// not allocated. If one is held under another handle or by another allocation
// than asked for, none is freed and the error is Conflict.
func (b *Block) Release(list []Release) (freed map[string]int, notAllocated []netip.Addr, err error) {
	ordinals, unused := map[int]bool{}, map[int]bool{}
	for _, r := range list {
		ordinal := cidr.Ordinal(b.CIDR, r.Addr)
		if ordinal < 0 {
			return nil, nil, fault.New(fault.Invalid, "address %s is not in block %s", r.Addr, b.CIDR)
		}
		holder, taken := b.Holder(r.Addr)
		switch {
		case !taken:
			notAllocated = append(notAllocated, r.Addr)
			continue
		case r.Handle != "" && holder.Handle != r.Handle:
			return nil, nil, fault.New(fault.Conflict, "address %s is held by %s, not under handle %s", r.Addr, holder, r.Handle)
		case r.Sequence != nil && *r.Sequence != b.SequenceOf(r.Addr):
			return nil, nil, fault.New(fault.Conflict, "address %s was assigned anew: allocation %d, not %d", r.Addr, b.SequenceOf(r.Addr), *r.Sequence)
		}
		ordinals[ordinal], unused[ordinal] = true, r.Unused
	}
	return b.free(func(n int) bool { return ordinals[n] }, unused), notAllocated, nil
}

// ReleaseHandle frees every address held under handle and answers how many.
func (b *Block) ReleaseHandle(handle string) int {
	return b.free(func(n int) bool { return b.Attributes[b.Allocations[n]].Handle == handle }, nil)[handle]
}

// free releases the held ordinals that pick names; those that were used rest,
// where b is cooled.
func (b *Block) free(pick func(ordinal int) bool, unused map[int]bool) map[string]int {
	freed := map[string]int{}
	var resting []int
	for n, at := range b.Allocations {
		if at == Free || b.Attributes[at].resting() || !pick(n) {
			continue
		}
		freed[b.Attributes[at].Handle]++
		if b.rest.wait > 0 && !unused[n] {
			resting = append(resting, n)
			continue
		}
		b.Allocations[n] = Free
		b.Unallocated = append(b.Unallocated, n)
		delete(b.SequenceFor, n)
	}
	for _, n := range resting {
		b.take(n, releasedAttribute(b.rest.now))
	}
	b.sweep()
	return freed
}

// sweep drops attributes that no ordinal refers to, keeping the order.
func (b *Block) sweep() {
	used := make([]bool, len(b.Attributes))
	for _, at := range b.Allocations {
		if at != Free {
			used[at] = true
		}
	}
	moved := make([]int, len(b.Attributes))
	kept := make([]Attribute, 0, len(b.Attributes))
	for i, a := range b.Attributes {
		if used[i] {
			moved[i] = len(kept)
			kept = append(kept, a)
		}
	}
	for n, at := range b.Allocations {
		if at != Free {
			b.Allocations[n] = moved[at]
		}
	}
	b.Attributes = kept
}
