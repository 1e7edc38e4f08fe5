// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// atOnce are the numbers of calls that batches make at once.
var atOnce = []int{8, 32}

// plugins is the suite of what a container runtime waits for: Ocicat beside
// ptp with host-local and beside a bare netlink program that does the same
// kernel work, interleaved.
func plugins(ctx context.Context, o options) (result, error) {
	if err := prepareNode(ctx); err != nil {
		return result{}, err
	}
	rows, err := contestants(ctx, o)
	defer func() {
		for _, r := range rows {
			r.contender.stop()
		}
	}()
	if err != nil {
		return result{}, err
	}
	if o.quick {
		o.rounds, o.batches = min(o.rounds, 30), min(o.batches, 4)
	}
	if err := sequential(ctx, rows, o.rounds); err != nil {
		return result{}, err
	}
	for _, n := range atOnce {
		if err := concurrent(ctx, rows, max(2, o.batches*8/n), n); err != nil {
			return result{}, err
		}
	}
	for i := range rows {
		if err := rows[i].weigh(ctx); err != nil {
			return result{}, err
		}
	}
	return result{Figures: pluginFigures(rows, o.rounds), Details: pluginDetails(rows, o)}, nil
}

// contestants starts the chosen contenders; one that is not installed is left
// out.
func contestants(ctx context.Context, o options) ([]row, error) {
	var rows []row
	for _, c := range []contender{newOcicat(o.bin, o.dir), newNetlink(o.bin), newPTP(o.dir)} {
		if o.only != "" && !strings.Contains(","+o.only+",", ","+c.name()+",") {
			continue
		}
		if _, err := os.Stat(c.program()); err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s is left out: %v\n", c.name(), err)
			continue
		}
		r := row{contender: c}
		rows = append(rows, r)
		if err := c.start(ctx); err != nil {
			return rows, fmt.Errorf("start %s: %w", c.name(), err)
		}
		if err := r.warmUp(ctx); err != nil {
			return rows, err
		}
	}
	if len(rows) == 0 {
		return nil, errors.New("no contender is left")
	}
	return rows, nil
}

// pluginFigures are the rows with aims. A ratio says how many times as much
// Ocicat takes as the other.
func pluginFigures(rows []row, rounds int) []figure {
	find := func(name string) *row {
		i := slices.IndexFunc(rows, func(r row) bool { return r.contender.name() == name })
		if i < 0 {
			return nil
		}
		return &rows[i]
	}
	own, floor, ptp := find("ocicat"), find("netlink"), find("ptp")
	if own == nil {
		return nil
	}
	const ms = float64(time.Millisecond)
	p50 := func(s series) float64 { return float64(s.percentile(50)) }
	figures := []figure{
		atMost("ADD, exec to exit, one at a time, median", p50(own.add)/ms, 6, "ms"),
		atMost("ADD, CPU of plugin and agent: half of a pair of ADD and DEL", float64(own.cpu(rounds))/2/ms, 6, "ms"),
		atMost("DEL, exec to exit, median", p50(own.del)/ms, 5, "ms"),
	}
	if ptp != nil {
		figures = append(figures,
			atMost("ADD, of ptp + host-local", p50(own.add)/p50(ptp.add), 1./3, "×").watched("less"),
			informs("DEL, of ptp + host-local", p50(own.del)/p50(ptp.del), "×").watched("less"),
			informs("CPU per pair, of ptp + host-local", float64(own.cpu(rounds))/float64(ptp.cpu(rounds)), "×").watched("less"))
	}
	if floor != nil {
		figures = append(figures,
			atMost("ADD, of the bare netlink program and one exec", p50(own.add)/(p50(floor.add)), 2, "×").watched("less"))
	}
	for _, n := range atOnce {
		figures = append(figures, atLeast(fmt.Sprintf("ADD, %d at once", n), own.many[n].add.rate(), 250, "/s"))
		if ptp != nil {
			figures = append(figures, informs(fmt.Sprintf("ADD, %d at once, rate, of ptp + host-local", n),
				own.many[n].add.rate()/ptp.many[n].add.rate(), "×").watched("more"))
		}
		if floor != nil {
			figures = append(figures, informs(fmt.Sprintf("ADD, %d at once, rate, of the bare netlink program", n),
				own.many[n].add.rate()/floor.many[n].add.rate(), "×").watched("more"))
		}
	}
	return figures
}

// compared says what the contenders do and do not do.
const compared = `
All make a veth pair, an address and routes in a namespace that is made before and closed after, unmeasured.
They promise different things. Ocicat and netlink set the same endpoint: per-device settings, permanent
neighbours, no bridge. netlink chooses the address from the container's id and forgets it: nobody can work
like that, it is the floor. ptp remembers the address in a file, host-local's, for this node alone. Ocicat's
answer stands in a journal that survives its agent, and the address stands in etcd before the ADD, for the
whole cluster; who got it is written behind the answer.

A DEL of Ocicat answers when the pod is unreachable and its release is written down; the link, which takes the
kernel longest, is destroyed behind the answer. ptp and netlink wait for that. So DEL's time is the caller's
wait, and the CPU of both sides is below.
`

// pluginDetails is everything measured, as tables.
func pluginDetails(rows []row, o options) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d sequential pairs of ADD and DEL of each contender, then batches.\n\n", o.rounds)
	for _, r := range rows {
		fmt.Fprintf(&b, "* **%s**: %s\n", r.contender.name(), r.contender.about())
	}
	b.WriteString(compared)
	b.WriteString("\n| one at a time | ADD p50 | p99 | min | CPU | DEL p50 | p99 | min | CPU |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", r.contender.name(), r.add.line(), r.del.line())
	}
	b.WriteString("\nCPU is of the plugin and what it executes, per call.\n")
	for _, n := range atOnce {
		fmt.Fprintf(&b, "\n| %d at once | ADD p50 | p99 | per second | DEL p50 | p99 | per second |\n|---|---|---|---|---|---|---|\n", n)
		for _, r := range rows {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", r.contender.name(), r.many[n].add.batchLine(), r.many[n].del.batchLine())
		}
	}
	resources(&b, rows, o.rounds)
	return b.String()
}

func (s series) line() string {
	return fmt.Sprintf("%s | %s | %s | %s", ms(s.percentile(50)), ms(s.percentile(99)), ms(s.percentile(0)), ms(s.cpu()))
}

func (s series) batchLine() string {
	return fmt.Sprintf("%s | %s | %.0f", ms(s.percentile(50)), ms(s.percentile(99)), s.rate())
}

func resources(b *strings.Builder, rows []row, rounds int) {
	b.WriteString("\n| cost | plugin, CPU per pair | daemon, CPU per pair | both | plugin, most RSS | daemon, most RSS |\n|---|---|---|---|---|---|\n")
	for _, r := range rows {
		plugin, daemon := r.add.cpu()+r.del.cpu(), r.daemonCPU/time.Duration(rounds)
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s |\n", r.contender.name(), ms(plugin), ms(daemon), ms(r.cpu(rounds)), mib(r.pluginRSS), mib(r.daemonRSS))
	}
	b.WriteString("\nA pair is one ADD and its DEL, with what the daemon did behind the answers. etcd is not counted: it serves a cluster.\n")
}

// cpu is the CPU time of a sequential pair, of plugin and daemon.
func (r row) cpu(rounds int) time.Duration {
	return r.add.cpu() + r.del.cpu() + r.daemonCPU/time.Duration(rounds)
}
