// SPDX-License-Identifier: Apache-2.0

package cidr

import (
	"math/big"
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

func prefixes(t *rapid.T) netip.Prefix {
	var addr netip.Addr
	if rapid.Bool().Draw(t, "v4") {
		addr = netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "addr")))
	} else {
		addr = netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "addr")))
		if addr.Is4In6() {
			t.Skip("not an address of its family")
		}
	}
	return netip.PrefixFrom(addr, rapid.IntRange(0, addr.BitLen()).Draw(t, "bits")).Masked()
}

func TestOrdinalAndAtAreInverse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := prefixes(t)
		if Size(p) == 0 {
			if HostBits(p) <= MaxSizeBits {
				t.Fatalf("Size(%s) = 0", p)
			}
			return
		}
		n := rapid.IntRange(0, Size(p)-1).Draw(t, "n")
		a := At(p, n)
		if !p.Contains(a) || Ordinal(p, a) != n {
			t.Fatalf("At(%s, %d) = %s with ordinal %d", p, n, a, Ordinal(p, a))
		}
		if At(p, Size(p)).IsValid() || At(p, -1).IsValid() {
			t.Fatalf("At(%s) answers outside the prefix", p)
		}
	})
}

func TestBlocksTileThePool(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pool := prefixes(t)
		bits := rapid.IntRange(pool.Bits(), pool.Addr().BitLen()).Draw(t, "block")
		count := Blocks(pool, bits)
		last := new(big.Int).Sub(count, big.NewInt(1))
		block := BlockAt(pool, bits, last)
		if !Covers(pool, block) || block != block.Masked() || block.Bits() != bits {
			t.Fatalf("block %s of %s: %s", last, pool, block)
		}
		if BlockAt(pool, bits, count).IsValid() {
			t.Fatalf("%s has a block beyond its last", pool)
		}
		if BlockOf(block.Addr(), bits) != block {
			t.Fatalf("BlockOf(%s) = %s", block.Addr(), BlockOf(block.Addr(), bits))
		}
	})
}

func TestEdges(t *testing.T) {
	pool := netip.MustParsePrefix("10.0.0.0/24")
	if n := Blocks(pool, 23); n.Sign() != 0 {
		t.Errorf("a block larger than its pool: %s of them", n)
	}
	if n := Blocks(pool, 33); n.Sign() != 0 {
		t.Errorf("a block longer than an address: %s of them", n)
	}
	if got := Ordinal(pool, netip.MustParseAddr("10.0.1.0")); got != -1 {
		t.Errorf("ordinal of an address outside: %d", got)
	}
	if got := Size(netip.MustParsePrefix("0.0.0.0/0")); got != 0 {
		t.Errorf("size of everything: %d", got)
	}
	if Family(netip.MustParseAddr("::1")) != 6 || Family(netip.MustParseAddr("1.2.3.4")) != 4 {
		t.Error("families are mixed up")
	}
	if Compare(netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/16")) >= 0 {
		t.Error("the shorter prefix does not come first")
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"10.0.0.0/8", "10.0.0.1/8", "fd00::/64", "::ffff:1.2.3.4/128", "fe80::%eth0/64", "x", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := Parse(s)
		if err != nil {
			return
		}
		if again, err := Parse(p.String()); err != nil || again != p {
			t.Errorf("Parse(%q) = %s, which reads back as %s, %v", s, p, again, err)
		}
	})
}
