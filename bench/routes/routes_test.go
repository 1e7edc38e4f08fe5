// SPDX-License-Identifier: Apache-2.0

package routes_test

import (
	"os"
	"testing"

	"github.com/ocicat-net/ocicat/bench/routes"
	"github.com/ocicat-net/ocicat/test/chaos"
	"github.com/ocicat-net/ocicat/test/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

// TestMeasure: every contender gets its routes in; the numbers are those of
// this machine at this moment.
func TestMeasure(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("makes namespaces, which needs root")
	}
	sizes := routes.Sizes()[:1]
	if chaos.Full() {
		sizes = routes.Sizes()
	}
	r := chaos.Begin(t, "D10", "routes of a BGP peer, at once", "at least the rate of ip -batch and of BIRD 2")
	results, err := routes.Measure(t.Context(), labtest.Build(t), t.TempDir(), 3, sizes...)
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 4*len(sizes) {
		t.Fatalf("%d results, want 4 of each of %v", len(results), sizes)
	}
	for _, x := range results {
		if x.Took <= 0 || x.Rate() <= 0 {
			t.Errorf("%+v", x)
		}
		r.Measuredf("%s: %d routes in %.1f ms, %.0f/s", x.Contender, x.Routes, x.Took.Seconds()*1000, x.Rate())
	}
	t.Log(r.Measured)
}
