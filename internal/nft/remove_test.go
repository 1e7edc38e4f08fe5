// SPDX-License-Identifier: Apache-2.0

package nft_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/nft"
	"github.com/ocicat-net/ocicat/internal/nstest"
)

// TestDelete takes our table away and no other, and reads its pools before.
func TestDelete(t *testing.T) {
	ns := nstest.New(t)
	h, err := nft.OpenAt(ns.File())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if has, err := h.Has("ocicat"); has || err != nil {
		t.Errorf("before: %v %v", has, err)
	}
	pools := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/32"), netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("172.16.0.0/16"), netip.MustParsePrefix("172.17.0.0/16"), netip.MustParsePrefix("240.0.0.0/4")}
	table := host.Table{Name: "ocicat", Sets: []host.Set{{Name: core.PoolsSet, Prefixes: pools}}}
	other := host.Table{Name: "other"}
	for _, want := range []host.Table{table, other} {
		if _, err := h.Apply(want); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := h.Prefixes("ocicat", core.PoolsSet); err != nil || !slices.Equal(got, pools) {
		t.Errorf("pools %v %v, want %v", got, err, pools)
	}
	if got, err := h.Prefixes("ocicat", "none"); got != nil || err != nil {
		t.Errorf("a set that is not there: %v %v", got, err)
	}
	for _, time := range []string{"first", "again"} {
		if err := h.Delete("ocicat"); err != nil {
			t.Errorf("%s: %v", time, err)
		}
		has, err := h.Has("ocicat")
		left, otherErr := h.Has("other")
		if has || !left || err != nil || otherErr != nil {
			t.Errorf("%s: ours %v, the other %v; %v %v", time, has, left, err, otherErr)
		}
	}
	if got, err := h.Prefixes("ocicat", core.PoolsSet); got != nil || err != nil {
		t.Errorf("a table that is not there: %v %v", got, err)
	}
}
