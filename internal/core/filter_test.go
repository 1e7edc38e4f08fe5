// SPDX-License-Identifier: Apache-2.0

package core_test

import (
	"net/netip"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/core"
)

func pool(prefix string, nat bool) cluster.Pool {
	return cluster.Pool{CIDR: netip.MustParsePrefix(prefix), NATOutgoing: nat}
}

// TestFilter compares the wanted nftables table, as nft would list it, with
// the text in testdata: as it is, with another prefix and BGP port, and with
// pools of which some, or none, have natOutgoing.
func TestFilter(t *testing.T) {
	for file, s := range map[string]*cluster.Snapshot{
		"testdata/filter.nft":       {Settings: cluster.Settings{InterfacePrefix: "cali"}},
		"testdata/filter-other.nft": {Settings: cluster.Settings{InterfacePrefix: "pod-"}, BGP: cluster.BGP{Port: 1790}},
		"testdata/nat.nft": {Settings: cluster.Settings{InterfacePrefix: "cali"}, Pools: []cluster.Pool{
			pool("172.16.0.0/16", true), pool("10.2.0.0/24", true), pool("10.1.0.0/24", true), // two beside each other
			pool("10.1.0.128/25", true), // within another
			pool("192.0.2.1/32", false), pool("fd00::/64", true),
			{CIDR: netip.MustParsePrefix("10.9.0.0/16"), NATOutgoing: true, Disabled: true},
			{CIDR: netip.MustParsePrefix("192.168.0.0/24"), Disabled: true},
		}},
		"testdata/nat-off.nft": {HadNAT: true, Settings: cluster.Settings{InterfacePrefix: "cali"}, Pools: []cluster.Pool{pool("172.16.0.0/16", false)}},
	} {
		got := core.Filter(s).String()
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
}
