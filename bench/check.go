// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// tolerance is how much worse a ratio may be than the recorded one, unless a
// pair of identical runs differs so much that more must be allowed.
const (
	tolerance = 0.15
	spreads   = 3
)

// check runs a pair of identical quick runs of all suites with watched ratios
// and compares their mean with what is recorded.
func check(ctx context.Context, o options, dir string) error {
	kept, err := load(resultsFile)
	if err != nil {
		return err
	}
	o.quick = true
	worse := 0
	for _, s := range suites {
		i := slices.IndexFunc(kept, func(r result) bool { return r.Suite == s.name })
		if i < 0 || !slices.ContainsFunc(kept[i].Figures, func(f figure) bool { return f.Better != "" }) {
			continue
		}
		pair, err := measure(ctx, o, dir, []suite{s, s})
		if err != nil {
			return err
		}
		worse += compare(kept[i], pair[0], pair[1])
	}
	if worse > 0 {
		return fmt.Errorf("%d ratios are worse than recorded in %s: profile, or record them anew with \"make bench\" and say why", worse, resultsFile)
	}
	return nil
}

// compare prints each watched ratio and returns how many are worse.
func compare(recorded, a, b result) int {
	worse := 0
	for _, was := range recorded.Figures {
		if was.Better == "" {
			continue
		}
		x, errA := find(a, was.Name)
		y, errB := find(b, was.Name)
		if err := errors.Join(errA, errB); err != nil {
			fmt.Printf("WORSE %v\n", err)
			worse++
			continue
		}
		verdict := "ok"
		now, allowed := (x+y)/2, max(tolerance*was.Value, spreads*abs(x-y))
		if was.Better == "less" && now > was.Value+allowed || was.Better == "more" && now < was.Value-allowed {
			verdict = "WORSE"
			worse++
		}
		fmt.Printf("%-5s %s: recorded %.2f, now %.2f (%.2f and %.2f), allowed %.2f off\n", verdict, was.Name, was.Value, now, x, y, allowed)
	}
	return worse
}

func find(r result, name string) (float64, error) {
	i := slices.IndexFunc(r.Figures, func(f figure) bool { return f.Name == name })
	if i < 0 {
		return 0, fmt.Errorf("%s: not measured", name)
	}
	return r.Figures[i].Value, nil
}

func abs(v float64) float64 { return max(v, -v) }
