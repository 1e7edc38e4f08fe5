// SPDX-License-Identifier: Apache-2.0

package alloc

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/fault"
)

// blockJSON is Block as stored.
type blockJSON struct {
	CIDR        string         `json:"cidr"`
	Affinity    *string        `json:"affinity"`
	ClaimTime   *time.Time     `json:"affinity_claim_time,omitempty"`
	Allocations []*int         `json:"allocations"`
	Unallocated []int          `json:"unallocated"`
	Attributes  []Attribute    `json:"attributes"`
	Sequence    uint64         `json:"sequenceNumber"`
	SequenceFor map[int]uint64 `json:"sequenceNumberForAllocation"`
	Deleted     bool           `json:"deleted"`
}

// ParseBlock reads a stored block. One that contradicts itself is Internal:
// giving out addresses from it could give one twice.
func ParseBlock(data []byte) (*Block, error) {
	var j blockJSON
	extra, err := decode(data, &j)
	if err != nil {
		return nil, fault.New(fault.Internal, "read block: %w", err)
	}
	b := &Block{
		ClaimTime: j.ClaimTime, Unallocated: j.Unallocated, Attributes: j.Attributes,
		Sequence: j.Sequence, SequenceFor: j.SequenceFor, Deleted: j.Deleted, extra: extra,
	}
	if b.CIDR, err = cidr.Parse(j.CIDR); err != nil {
		return nil, fault.New(fault.Internal, "read block: %w", err)
	}
	if j.Affinity != nil {
		b.Affinity = *j.Affinity
	}
	b.Allocations = make([]int, len(j.Allocations))
	for n, at := range j.Allocations {
		b.Allocations[n] = Free
		if at != nil {
			b.Allocations[n] = *at
		}
	}
	if err := b.check(); err != nil {
		return nil, fault.New(fault.Internal, "read block %s: %w", b.CIDR, err)
	}
	return b, nil
}

// check reports the first contradiction in b.
func (b *Block) check() error {
	if len(b.Allocations) != cidr.Size(b.CIDR) {
		return fmt.Errorf("%d allocations for %d addresses", len(b.Allocations), cidr.Size(b.CIDR))
	}
	for n, at := range b.Allocations {
		if at < Free || at >= len(b.Attributes) {
			return fmt.Errorf("ordinal %d refers to attribute %d of %d", n, at, len(b.Attributes))
		}
	}
	queued := make([]bool, len(b.Allocations))
	for _, n := range b.Unallocated {
		switch {
		case n < 0 || n >= len(queued):
			return fmt.Errorf("free ordinal %d is outside the block", n)
		case queued[n]:
			return fmt.Errorf("ordinal %d is free twice", n)
		case b.Allocations[n] != Free:
			return fmt.Errorf("ordinal %d is both free and held by %s", n, b.Attributes[b.Allocations[n]])
		}
		queued[n] = true
	}
	return nil
}

// Encode is b as it is stored.
func (b *Block) Encode() ([]byte, error) {
	j := blockJSON{
		CIDR: b.CIDR.String(), ClaimTime: b.ClaimTime, Unallocated: b.Unallocated, Attributes: b.Attributes,
		Sequence: b.Sequence, SequenceFor: b.SequenceFor, Deleted: b.Deleted,
	}
	if b.Affinity != "" {
		j.Affinity = &b.Affinity
	}
	j.Allocations = make([]*int, len(b.Allocations))
	for n := range b.Allocations {
		if b.Allocations[n] != Free {
			j.Allocations[n] = &b.Allocations[n]
		}
	}
	return encode(j, b.extra)
}

// attributeJSON is Attribute as stored.
type attributeJSON struct {
	Handle    string            `json:"handle_id,omitempty"`
	Secondary map[string]string `json:"secondary,omitempty"`
}

// UnmarshalJSON reads an attribute and keeps the fields it does not know.
func (a *Attribute) UnmarshalJSON(data []byte) error {
	var j attributeJSON
	extra, err := decode(data, &j)
	*a = Attribute{Handle: j.Handle, Secondary: j.Secondary, extra: extra}
	return err
}

// MarshalJSON writes an attribute with every field it was read with.
func (a Attribute) MarshalJSON() ([]byte, error) {
	return encode(attributeJSON{Handle: a.Handle, Secondary: a.Secondary}, a.extra)
}

var (
	_ json.Unmarshaler = (*Attribute)(nil)
	_ json.Marshaler   = Attribute{}
)
