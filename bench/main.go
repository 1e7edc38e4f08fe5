// SPDX-License-Identifier: Apache-2.0

// Command bench measures what a container runtime waits for: plugins from
// exec to exit, ADD and DEL, one at a time and several at once. Ocicat runs
// beside ptp with host-local and beside a bare netlink program that does the
// same kernel work, interleaved in one run, because only ratios of one run
// mean anything on a machine with neighbours.
//
// It runs as root in namespaces of its own and leaves nothing behind. The
// result goes to bench/RESULTS.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
)

// options are the command line.
type options struct {
	rounds   int    // sequential pairs of ADD and DEL of each contender
	batches  int    // concurrent batches of each contender
	parallel int    // calls of one batch
	only     string // comma-separated contenders, "" for all
	out      string // file of the report, "-" for standard output
	bin      string // directory of the built programs
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 100, "sequential `pairs` of ADD and DEL of each contender")
	flag.IntVar(&o.batches, "batches", 20, "concurrent `batches` of each contender")
	flag.IntVar(&o.parallel, "parallel", 8, "`calls` of one batch at once")
	flag.StringVar(&o.only, "only", "", "comma-separated `contenders`: ocicat, ptp, netlink; all if empty")
	flag.StringVar(&o.out, "out", "bench/RESULTS.md", "`file` of the report, - for standard output")
	flag.StringVar(&o.bin, "bin", "", "`directory` of built programs; built anew if empty")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: error:", err)
		os.Exit(1)
	}
}

// run prepares outside of the namespaces what only can be there, then runs
// the program again inside.
func run(ctx context.Context, o options) error {
	if o.rounds < 1 || o.batches < 1 || o.parallel < 1 {
		return errors.New("-rounds, -batches and -parallel: want at least 1 of each")
	}
	if os.Getenv(insideVar) != "" {
		return measureAll(ctx, o)
	}
	dir, err := os.MkdirTemp("", "ocicat-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if o.bin == "" {
		o.bin = dir + "/bin"
		if err := build(ctx, o.bin); err != nil {
			return err
		}
	}
	err = inside(ctx, o, dir)
	if err != nil {
		showLogs(dir)
	}
	return err
}

// showLogs prints the ends of the daemons' logs, for whoever must find out
// why a run failed.
func showLogs(dir string) {
	const end = 64 << 10
	logs, _ := filepath.Glob(dir + "/*.log")
	for _, log := range logs {
		text, _ := os.ReadFile(log)
		fmt.Fprintf(os.Stderr, "--- %s\n%s\n", filepath.Base(log), text[max(0, len(text)-end):])
	}
}

// measureAll runs inside the namespaces.
func measureAll(ctx context.Context, o options) error {
	dir := os.Getenv(insideVar)
	if err := prepareNode(ctx); err != nil {
		return err
	}
	all := []contender{newOcicat(o.bin, dir), newNetlink(o.bin), newPTP(dir)}
	var chosen []contender
	for _, c := range all {
		if o.only == "" || strings.Contains(","+o.only+",", ","+c.name()+",") {
			chosen = append(chosen, c)
		}
	}
	var rows []row
	for _, c := range chosen {
		if _, err := os.Stat(c.program()); err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s is left out: %v\n", c.name(), err)
			continue
		}
		if err := c.start(ctx); err != nil {
			return fmt.Errorf("start %s: %w", c.name(), err)
		}
		defer c.stop()
		r := row{contender: c}
		if err := r.warmUp(ctx); err != nil {
			return err
		}
		rows = append(rows, r)
	}
	if len(rows) == 0 {
		return errors.New("no contender is left")
	}
	if err := sequential(ctx, rows, o.rounds); err != nil {
		return err
	}
	if err := concurrent(ctx, rows, o.batches, o.parallel); err != nil {
		return err
	}
	for i := range rows {
		if err := rows[i].weigh(ctx); err != nil {
			return err
		}
	}
	return report(rows, o)
}
