// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/bench/routes"
)

// watchedRoutes is the number of routes whose ratios bench-check watches: fewer
// take only milliseconds, and more too long for a quick run.
const watchedRoutes = 10_000

// learned is the suite of routes that a BGP peer announces at once, until the
// last is in the kernel: Ocicat beside BIRD 2 and "ip -batch".
func learned(ctx context.Context, o options) (result, error) {
	sizes, rounds := routes.Sizes(), 5
	if o.quick {
		sizes, rounds = []int{watchedRoutes}, 3
	}
	all, err := routes.Measure(ctx, o.bin, o.dir, rounds, sizes...)
	if err != nil {
		return result{}, err
	}
	var figures []figure
	for _, size := range sizes {
		figures = append(figures, learnedFigures(all, size)...)
	}
	return result{Figures: figures, Details: learnedDetails(all, rounds)}, nil
}

// learnedFigures are the figures of one number of routes.
func learnedFigures(all []routes.Result, size int) []figure {
	find := func(c routes.Contender) (routes.Result, bool) {
		i := slices.IndexFunc(all, func(r routes.Result) bool { return r.Contender == c && r.Routes == size })
		if i < 0 {
			return routes.Result{}, false
		}
		return all[i], true
	}
	own, ok := find(routes.Ocicat)
	if !ok {
		return nil
	}
	figures := []figure{informs(fmt.Sprintf("%d routes learned, into the kernel", size), own.Rate(), "/s")}
	for _, c := range []routes.Contender{routes.IPBatch, routes.BIRD} {
		other, ok := find(c)
		if !ok {
			continue
		}
		f := atLeast(fmt.Sprintf("%d routes learned, rate, of %s", size, c), own.Rate()/other.Rate(), 1, "×")
		if size == watchedRoutes {
			f = f.watched("more")
		}
		figures = append(figures, f)
	}
	return append(figures, informs(fmt.Sprintf("agent, most RSS until %d routes had come and gone", size), float64(own.Memory)/(1<<20), "MiB"))
}

// learnedDetails is everything measured, as a table.
func learnedDetails(all []routes.Result, rounds int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Median of %d rounds, from the first byte told until the last route is in the kernel.\n", rounds)
	b.WriteString("ip -batch reads a file and netlink alone a list: they learn nothing.\n\n")
	b.WriteString("| routes | contender | took | spread | per second |\n|---|---|---|---|---|\n")
	for _, r := range all {
		fmt.Fprintf(&b, "| %d | %s | %s | %s | %.0f |\n", r.Routes, r.Contender, ms(r.Took), ms(r.Spread), r.Rate())
	}
	return b.String()
}
