// SPDX-License-Identifier: Apache-2.0

package alloc

import (
	"bytes"
	"net/netip"
	"time"

	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/fault"
)

// State is how far the claim or release of a block has come.
type State string

// The states. A node may announce a block only when Confirmed; the other two
// are what a crash leaves, and whoever finds them completes the work.
const (
	Pending         State = "pending"         // written before the block is created
	Confirmed       State = "confirmed"       // the block exists and is the node's
	PendingDeletion State = "pendingDeletion" // written before the block is given up
)

// Affinity is a node's claim to a block.
type Affinity struct {
	State   State
	Deleted bool // about to be deleted; used on Kubernetes

	extra fields
}

type affinityJSON struct {
	State   State `json:"state"`
	Deleted bool  `json:"deleted"`
}

// ParseAffinity reads a stored affinity. Very old releases wrote an empty
// value, or one without a state, for a confirmed one.
func ParseAffinity(data []byte) (Affinity, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return Affinity{State: Confirmed}, nil
	}
	var j affinityJSON
	extra, err := decode(data, &j)
	if err != nil {
		return Affinity{}, fault.New(fault.Internal, "read affinity: %w", err)
	}
	if j.State == "" {
		j.State = Confirmed
	}
	return Affinity{State: j.State, Deleted: j.Deleted, extra: extra}, nil
}

// Encode is a as it is stored.
func (a Affinity) Encode() ([]byte, error) {
	return encode(affinityJSON{State: a.State, Deleted: a.Deleted}, a.extra)
}

// Handle says which blocks hold addresses of one holder. It is written before
// the blocks are, so its counts are never too low; they may be too high after
// a crash.
type Handle struct {
	Blocks  map[netip.Prefix]int // addresses per block
	Deleted bool                 // about to be deleted; used on Kubernetes

	extra fields
}

type handleJSON struct {
	Blocks  map[netip.Prefix]int `json:"block"`
	Deleted bool                 `json:"deleted"`
}

// ParseHandle reads a stored handle.
func ParseHandle(data []byte) (*Handle, error) {
	var j handleJSON
	extra, err := decode(data, &j)
	if err != nil {
		return nil, fault.New(fault.Internal, "read handle: %w", err)
	}
	return &Handle{Blocks: j.Blocks, Deleted: j.Deleted, extra: extra}, nil
}

// Encode is h as it is stored.
func (h *Handle) Encode() ([]byte, error) {
	return encode(handleJSON{Blocks: h.Blocks, Deleted: h.Deleted}, h.extra)
}

// Add counts n more addresses of block.
func (h *Handle) Add(block netip.Prefix, n int) {
	if h.Blocks == nil {
		h.Blocks = map[netip.Prefix]int{}
	}
	h.Blocks[block] += n
}

// Remove counts n addresses of block less; a count that falls to zero or
// below takes the block out.
func (h *Handle) Remove(block netip.Prefix, n int) {
	if h.Blocks[block] -= n; h.Blocks[block] <= 0 {
		delete(h.Blocks, block)
	}
}

// Empty reports whether h names no block: it can be deleted.
func (h *Handle) Empty() bool { return len(h.Blocks) == 0 }

// Config is the cluster's settings of address management.
type Config struct {
	StrictAffinity bool // addresses come from the node's own blocks only
	AutoAllocate   bool // nodes may claim blocks by themselves
	MaxBlocks      int  // blocks a node may own; 0 is no limit of its own
	CooldownSecs   int  // seconds a released address rests

	extra fields
}

type configJSON struct {
	StrictAffinity bool `json:"strict_affinity,omitempty"`
	AutoAllocate   bool `json:"auto_allocate_blocks,omitempty"`
	MaxBlocks      int  `json:"maxBlocksPerHost,omitempty"`
	CooldownSecs   int  `json:"ipCooldownSeconds,omitempty"`
}

// Cooldown is how long a released address rests before it is given again; 0 is
// not at all.
func (c Config) Cooldown() time.Duration { return time.Duration(c.CooldownSecs) * time.Second }

// DefaultConfig holds where no configuration is stored.
func DefaultConfig() Config { return Config{AutoAllocate: true} }

// ParseConfig reads a stored configuration.
func ParseConfig(data []byte) (Config, error) {
	var j configJSON
	extra, err := decode(data, &j)
	if err != nil {
		return Config{}, fault.New(fault.Internal, "read IPAM configuration: %w", err)
	}
	return Config{
		StrictAffinity: j.StrictAffinity, AutoAllocate: j.AutoAllocate,
		MaxBlocks: j.MaxBlocks, CooldownSecs: j.CooldownSecs, extra: extra,
	}, nil
}

// Encode is c as it is stored.
func (c Config) Encode() ([]byte, error) {
	return encode(configJSON{
		StrictAffinity: c.StrictAffinity, AutoAllocate: c.AutoAllocate,
		MaxBlocks: c.MaxBlocks, CooldownSecs: c.CooldownSecs,
	}, c.extra)
}

// With is next with the fields that c was read with and this version does not
// know.
func (c Config) With(next Config) Config {
	next.extra = c.extra
	return next
}

// Validate reports settings that contradict each other, as Invalid.
func (c Config) Validate() error {
	switch {
	case !c.StrictAffinity && !c.AutoAllocate:
		return fault.Hint(fault.New(fault.Invalid, "strictAffinity and autoAllocateBlocks are both false"),
			"without blocks of their own nodes could only borrow; set one of the two to true")
	case c.MaxBlocks < 0 || c.CooldownSecs < 0:
		return fault.Hint(fault.New(fault.Invalid, "maxBlocksPerHost %d, ipCooldownSeconds %d: below zero", c.MaxBlocks, c.CooldownSecs),
			"0 means no limit and no cooldown")
	case c.MaxBlocks > 0 && !c.StrictAffinity:
		return fault.Hint(fault.New(fault.Invalid, "maxBlocksPerHost %d without strictAffinity", c.MaxBlocks),
			"a limit is of no use while nodes borrow from each other; set strictAffinity to true")
	}
	return nil
}

// Fits reports whether blocks of length bits can be cut from pool and counted:
// an IPv4 block holds at most 4096 addresses (20…32), an IPv6 block likewise
// (116…128).
func Fits(pool netip.Prefix, bits int) bool {
	return pool.IsValid() && bits >= pool.Bits() && bits >= pool.Addr().BitLen()-12 && cidr.Blocks(pool, bits).Sign() > 0
}
