// SPDX-License-Identifier: Apache-2.0

package core_test

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/core"
)

// TestFilter compares the wanted nftables table, as nft would list it, with
// the text in testdata: as it is, and with another prefix and BGP port.
func TestFilter(t *testing.T) {
	for file, s := range map[string]*cluster.Snapshot{
		"testdata/filter.nft":       {Settings: cluster.Settings{InterfacePrefix: "cali"}},
		"testdata/filter-other.nft": {Settings: cluster.Settings{InterfacePrefix: "pod-"}, BGP: cluster.BGP{Port: 1790}},
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
