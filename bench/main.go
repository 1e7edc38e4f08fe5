// SPDX-License-Identifier: Apache-2.0

// Command bench measures what operators wait and pay for, each beside its
// peer or the kernel's floor in the same run, because only ratios of one run
// mean anything on a machine with neighbours. A suite runs as root in a
// process of its own, in namespaces of its own, and leaves nothing behind.
//
// What was measured goes to bench/results.json, and from there to
// bench/RESULTS.md. With -check nothing is written: the ratios are compared
// with those recorded.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

const (
	resultsFile = "bench/results.json"
	reportFile  = "bench/RESULTS.md"
)

// suite is a group of figures measured together.
type suite struct {
	name, title string
	// isolated suites run in new network, mount and PID namespaces.
	isolated bool
	run      func(context.Context, options) (result, error)
}

// suites are in the order of the report. It is a variable that nobody changes.
var suites = []suite{
	{"plugins", "Plugins, exec to exit", true, plugins},
	{"node", "One node: memory, idle, start, repair", true, node},
	{"first", "First reply from another node", false, firstReply},
	{"routes", "Routes learned, into the kernel", false, learned},
	{"labs", "Labs: everything up, every route on every node", false, labs},
	{"sizes", "Sizes of the programs", false, sizes},
}

// options are the command line.
type options struct {
	suites   string // comma-separated
	rounds   int    // sequential pairs of ADD and DEL of each contender
	batches  int    // concurrent batches of each contender
	only     string // comma-separated contenders of suite plugins, "" for all
	bin      string // directory of the built programs
	quick    bool   // fewer and smaller, for bench-check and CI
	check    bool
	one, dir string // of the process of one suite: its name, its directory
}

func main() {
	var o options
	flag.StringVar(&o.suites, "suites", "", "comma-separated `suites`, all if empty: "+strings.Join(suiteNames(), ", "))
	flag.IntVar(&o.rounds, "rounds", 100, "sequential `pairs` of ADD and DEL of each contender")
	flag.IntVar(&o.batches, "batches", 20, "concurrent `batches` of each contender")
	flag.StringVar(&o.only, "only", "", "comma-separated `contenders`: ocicat, ptp, netlink; all if empty")
	flag.StringVar(&o.bin, "bin", "", "`directory` of built programs; built anew if empty")
	flag.BoolVar(&o.quick, "quick", false, "fewer rounds, smaller labs; writes nothing")
	flag.BoolVar(&o.check, "check", false, "compare the ratios with those recorded; writes nothing")
	flag.StringVar(&o.one, "one", "", "what this program starts itself as: one suite, or a part of it")
	flag.StringVar(&o.dir, "dir", "", "directory of that process")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: error:", err)
		os.Exit(1)
	}
}

func suiteNames() []string {
	var all []string
	for _, s := range suites {
		all = append(all, s.name)
	}
	return all
}

func run(ctx context.Context, o options) error {
	if o.rounds < 1 || o.batches < 1 {
		return errors.New("-rounds and -batches: want at least 1 of each")
	}
	if o.one == peersProcess {
		return peers(ctx, o)
	}
	if o.one != "" {
		return runOne(ctx, o)
	}
	chosen, err := choose(o.suites)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "ocicat-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if o.bin == "" {
		o.bin = filepath.Join(dir, "bin")
		if err := build(ctx, o.bin); err != nil {
			return err
		}
	}
	if o.check {
		return check(ctx, o, dir)
	}
	fresh, err := measure(ctx, o, dir, chosen)
	if err != nil {
		return err
	}
	return publish(fresh, o.quick)
}

// publish prints the results and, unless they are only a quick look, keeps
// them.
func publish(fresh []result, quick bool) error {
	fmt.Print(report(fresh))
	if quick {
		return nil
	}
	kept, err := load(resultsFile)
	if err != nil {
		return err
	}
	all := merge(kept, fresh)
	if err := save(resultsFile, all); err != nil {
		return err
	}
	return os.WriteFile(reportFile, []byte(report(all)), 0o644)
}

// choose finds suites by their names.
func choose(list string) ([]suite, error) {
	if list == "" {
		return suites, nil
	}
	var chosen []suite
	for _, name := range strings.Split(list, ",") {
		i := slices.IndexFunc(suites, func(s suite) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-suites %s: expected of %s", name, strings.Join(suiteNames(), ", "))
		}
		chosen = append(chosen, suites[i])
	}
	return chosen, nil
}

// measure runs suites one after the other.
func measure(ctx context.Context, o options, dir string, chosen []suite) ([]result, error) {
	var all []result
	for _, s := range chosen {
		fmt.Fprintf(os.Stderr, "bench: %s\n", s.name)
		r, err := process(ctx, o, dir, s)
		if err != nil {
			showLogs(dir)
			return nil, fmt.Errorf("suite %s: %w", s.name, err)
		}
		all = append(all, r)
	}
	return all, nil
}

// showLogs prints the ends of the daemons' logs, for whoever must find out
// why a run failed.
func showLogs(dir string) {
	const end = 64 << 10
	logs, _ := filepath.Glob(dir + "/*/*.log")
	for _, log := range logs {
		text, _ := os.ReadFile(log)
		fmt.Fprintf(os.Stderr, "--- %s\n%s\n", filepath.Base(log), text[max(0, len(text)-end):])
	}
}

// runOne is the process of one suite.
func runOne(ctx context.Context, o options) error {
	chosen, err := choose(o.one)
	if err != nil {
		return err
	}
	s := chosen[0]
	r, err := s.run(ctx, o)
	if err != nil {
		return err
	}
	r.Suite, r.Title, r.Machine = s.name, s.title, machine()
	return save(resultOf(o.dir, s.name), r)
}

func resultOf(dir, suite string) string { return filepath.Join(dir, suite+".json") }
