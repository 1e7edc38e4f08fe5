// SPDX-License-Identifier: Apache-2.0

// Package cidr is prefix arithmetic on net/netip: blocks of a pool, ordinals
// of a block. All prefixes are masked unless a comment says otherwise. It
// knows nothing of what the prefixes are for.
package cidr

import (
	"cmp"
	"fmt"
	"math/big"
	"net/netip"
)

// MaxSizeBits bounds Size: a prefix with more host bits than this does not
// fit an int and no block is that large.
const MaxSizeBits = 30

// Family is 4 or 6.
func Family(a netip.Addr) int {
	if a.Is4() || a.Is4In6() {
		return 4
	}
	return 6
}

// HostBits is the number of bits of p that are not its network's.
func HostBits(p netip.Prefix) int { return p.Addr().BitLen() - p.Bits() }

// Size is the number of addresses of p, 0 where it exceeds 1<<MaxSizeBits or
// p is invalid.
func Size(p netip.Prefix) int {
	if !p.IsValid() || HostBits(p) > MaxSizeBits {
		return 0
	}
	return 1 << HostBits(p)
}

// Ordinal is the position of a in p, counted from 0; -1 where a is not in p
// or p is too large to count.
func Ordinal(p netip.Prefix, a netip.Addr) int {
	if Size(p) == 0 || !p.Contains(a) {
		return -1
	}
	return int(low(a) - low(p.Masked().Addr()))
}

// At is the address at position n of p. An n outside 0…Size(p)-1 gives the
// zero Addr.
func At(p netip.Prefix, n int) netip.Addr {
	if n < 0 || n >= Size(p) {
		return netip.Addr{}
	}
	return offset(p.Masked().Addr(), big.NewInt(int64(n)))
}

// Blocks is the number of prefixes of length bits inside pool; zero where
// bits is shorter than the pool or longer than its family allows.
func Blocks(pool netip.Prefix, bits int) *big.Int {
	if !pool.IsValid() || bits < pool.Bits() || bits > pool.Addr().BitLen() {
		return new(big.Int)
	}
	return new(big.Int).Lsh(big.NewInt(1), uint(bits-pool.Bits()))
}

// BlockAt is the n-th prefix of length bits inside pool, counted from 0; the
// zero Prefix where there is none.
func BlockAt(pool netip.Prefix, bits int, n *big.Int) netip.Prefix {
	if n.Sign() < 0 || n.Cmp(Blocks(pool, bits)) >= 0 {
		return netip.Prefix{}
	}
	shift := uint(pool.Addr().BitLen() - bits)
	return netip.PrefixFrom(offset(pool.Masked().Addr(), new(big.Int).Lsh(n, shift)), bits)
}

// BlockOf is the prefix of length bits that holds a; the zero Prefix where
// bits does not fit a's family.
func BlockOf(a netip.Addr, bits int) netip.Prefix {
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// Covers reports whether every address of inner is in outer.
func Covers(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// Compare orders prefixes by family, address and length, short ones first.
func Compare(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// Parse reads a prefix in canonical form: the host bits must be zero, an
// address of IPv4 must not be written as one of IPv6, and there is no zone.
func Parse(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%q is not a CIDR", s)
	case p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%q is an IPv4 CIDR written as IPv6", s)
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("%q has host bits set, the network is %s", s, p.Masked())
	}
	return p, nil
}

// low is the last eight bytes of a as a number: all a difference inside one
// block needs.
func low(a netip.Addr) uint64 {
	b := a.As16()
	var n uint64
	for _, octet := range b[8:] {
		n = n<<8 | uint64(octet)
	}
	return n
}

func offset(base netip.Addr, n *big.Int) netip.Addr {
	raw := base.AsSlice()
	sum := new(big.Int).SetBytes(raw)
	sum.Add(sum, n).FillBytes(raw)
	a, _ := netip.AddrFromSlice(raw)
	return a
}
