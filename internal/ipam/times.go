// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// LeaseTime is how long the reserve may be used after the start of the last
// successful heartbeat, by default. Whoever reclaims a node's blocks waits
// longer.
const LeaseTime = time.Hour

// Times are the times on which it rests that no address is given twice. They
// must be the same on all nodes of a cluster.
type Times struct {
	// Lease is how long a node gives addresses of its reserve after the start
	// of its last successful heartbeat, in its CLOCK_BOOTTIME.
	Lease time.Duration
	// Reclaim is how long a heartbeat must stand still, on the clock of whoever
	// watches it, before what its node holds is reclaimed. It is longer than
	// Lease.
	Reclaim time.Duration
	// Beat is the time between two heartbeats.
	Beat time.Duration
	// Takeover is how long a heartbeat must stand still before another
	// instance takes the node's name over.
	Takeover time.Duration
}

// DefaultTimes are a lease of an hour, reclaim after two, a heartbeat each
// minute, and takeover of a name after three.
func DefaultTimes() Times { return TimesFor(LeaseTime) }

// TimesFor scales the default times to a lease. Labs and tests use a short
// one.
func TimesFor(lease time.Duration) Times {
	return Times{Lease: lease, Reclaim: 2 * lease, Beat: lease / 60, Takeover: lease / 20}
}

// shortest is the shortest lease: what an agent does in a second cannot be
// done much faster on a loaded machine.
const shortest = time.Second

// Validate says why the times are of no use: nil or Invalid.
func (t Times) Validate() error {
	switch {
	case t.Lease < shortest:
		return fault.Hint(fault.New(fault.Invalid, "lease time %s: too short", t.Lease), "The shortest is %s, the default %s.", shortest, LeaseTime)
	case t.Reclaim <= t.Lease || t.Beat >= t.Lease || t.Beat <= 0 || t.Takeover <= t.Beat || t.Takeover > t.Lease:
		return fault.New(fault.Invalid, "times %+v: want Beat < Takeover <= Lease < Reclaim", t)
	}
	return nil
}

// confirmHeard is how far apart the two looks lie that confirm that a pod of the
// boot before is gone, when the runtime's list says so too: a copied machine's
// original notices, and protests, within a heartbeat.
func (t Times) confirmHeard() time.Duration { return t.Beat + t.Beat/4 }

// round is how often the collector looks: often enough that the reclaim time
// is kept within a few per cent.
func (t Times) round() time.Duration { return t.Reclaim / 24 }
