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
	sizes := routes.Sizes()[1:2]
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
	for _, size := range sizes {
		own, other := rate(results, routes.Ocicat, size), rate(results, routes.IPBatch, size)
		if own < other/4 { // a run beside other tests is no measurement; this far off it is a defect
			t.Errorf("%d routes: %.0f/s, less than a quarter of the %.0f/s of ip -batch", size, own, other)
		}
	}
	t.Log(r.Measured)
}

// rate is what contender c reached with size routes.
func rate(results []routes.Result, c routes.Contender, size int) float64 {
	for _, r := range results {
		if r.Contender == c && r.Routes == size {
			return r.Rate()
		}
	}
	return 0
}
