// SPDX-License-Identifier: Apache-2.0

package alloc

import (
	"encoding/json"
	"net/netip"
	"time"

	"github.com/ocicat-net/ocicat/internal/cidr"
)

// releasedAt is the field of an attribute that stands for released addresses,
// not for a holder.
const releasedAt = "releasedAt"

// cooldown is how b treats released addresses; the zero value frees them at
// once.
type cooldown struct {
	now  time.Time
	wait time.Duration
}

// Cool says that it is now, and that addresses rest for d after their release
// before they are given again. Those that rested that long become free, at the
// tail of the queue, lower ordinals first; Cool answers how many. Without Cool
// a release frees at once, and what rests goes on resting. A block in which
// addresses rest is not empty.
func (b *Block) Cool(now time.Time, d time.Duration) int {
	b.rest = cooldown{now, d}
	n := 0
	for ordinal, at := range b.Allocations {
		if at == Free {
			continue
		}
		if since, resting := b.Attributes[at].released(); resting && now.Sub(since) >= d {
			b.Allocations[ordinal] = Free
			b.Unallocated = append(b.Unallocated, ordinal)
			delete(b.SequenceFor, ordinal)
			n++
		}
	}
	if n > 0 {
		b.sweep()
	}
	return n
}

// Resting reports whether addr was released and rests, and since when.
func (b *Block) Resting(addr netip.Addr) (since time.Time, ok bool) {
	n := cidr.Ordinal(b.CIDR, addr)
	if n < 0 || b.Allocations[n] == Free {
		return time.Time{}, false
	}
	return b.Attributes[b.Allocations[n]].released()
}

// RestingCount is how many addresses rest.
func (b *Block) RestingCount() int {
	n := 0
	for _, at := range b.Allocations {
		if at != Free && b.Attributes[at].resting() {
			n++
		}
	}
	return n
}

// released is when addresses of this attribute were released; ok is false for
// a holder. A time that cannot be read is as old as can be.
func (a Attribute) released() (since time.Time, ok bool) {
	raw, ok := a.extra[releasedAt]
	if !ok || string(raw) == "null" {
		return time.Time{}, false
	}
	_ = json.Unmarshal(raw, &since)
	return since, true
}

func (a Attribute) resting() bool {
	_, ok := a.released()
	return ok
}

// releasedAttribute stands for addresses released at now.
func releasedAttribute(now time.Time) Attribute {
	text, _ := json.Marshal(now.UTC()) // a year of four digits always encodes
	return Attribute{extra: fields{releasedAt: text}}
}
