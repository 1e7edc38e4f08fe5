// SPDX-License-Identifier: Apache-2.0

package main

import "testing"

func TestCompareAllowsToleranceOrSpread(t *testing.T) {
	ratios := func(cost, rate float64) result {
		return result{Figures: []figure{
			informs("cost", cost, "×").watched("less"),
			informs("rate", rate, "×").watched("more"),
			informs("time", 99*cost, "ms"), // not watched
		}}
	}
	recorded := ratios(1, 2)
	for _, c := range []struct {
		name  string
		a, b  result
		worse int
	}{
		{"as recorded", ratios(1, 2), ratios(1, 2), 0},
		{"better", ratios(.5, 4), ratios(.5, 4), 0},
		{"within the tolerance", ratios(1.14, 1.75), ratios(1.14, 1.75), 0},
		{"dearer", ratios(1.2, 2), ratios(1.2, 2), 1},
		{"slower", ratios(1, 1.6), ratios(1, 1.6), 1},
		{"both", ratios(1.2, 1.6), ratios(1.2, 1.6), 2},
		{"dearer, but the pair differs as much", ratios(1.1, 2), ratios(1.3, 2), 0},
		{"no longer measured", result{}, ratios(1, 2), 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			if worse := compare(recorded, c.a, c.b); worse != c.worse {
				t.Errorf("%d ratios are worse, want %d", worse, c.worse)
			}
		})
	}
}

func TestMergeReplacesSuites(t *testing.T) {
	kept := []result{{Suite: "sizes", Details: "old"}, {Suite: "plugins", Details: "old"}}
	all := merge(kept, []result{{Suite: "sizes", Details: "new"}})
	if len(all) != 2 || all[0].Suite != "plugins" || all[0].Details != "old" || all[1].Details != "new" {
		t.Errorf("merged %+v", all)
	}
}
