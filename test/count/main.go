// SPDX-License-Identifier: Apache-2.0

// Command count runs go test and counts. Packages that start programs or watch
// the clock of a real network are run one by one after the others, so that
// nothing but themselves makes them slow. It prints a line for each package,
// the output of what failed, every skipped test with its reason, and at last a
// line "N passed, N failed" with the numbers of tests and subtests. As root it
// counts a skipped test as failed: everything can run then. With -again a test
// that failed is run once more by itself, and that decides: for tests that
// measure time on a machine that others use.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// stopGrace is how long go test may take to end after the limit.
const stopGrace = 10 * time.Second

// alone are the packages that are run one by one.
var alone = regexp.MustCompile(`/internal/(agent|bgp|cniplugin|kernel|lab|probe|store/etcd)$|/test/`)

func main() {
	var (
		perPackage = flag.Duration("timeout", 5*time.Minute, "`time` the tests of one package may take")
		limit      = flag.Duration("limit", 25*time.Minute, "`time` all may take, building included")
		race       = flag.Bool("race", false, "test with the race detector")
		run        = flag.String("run", "", "only tests matching `regexp`")
		again      = flag.Bool("again", false, "run what failed once more, and let that decide")
		except     = flag.String("except", "^$", "no packages matching `regexp`")
	)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()

	args := []string{"test", "-json", "-count=1", "-timeout", perPackage.String()}
	if *race {
		args = append(args, "-race")
	}
	left, err := regexp.Compile(*except)
	if err != nil {
		fmt.Fprintln(os.Stderr, "count: -except:", err)
		os.Exit(2)
	}
	first := args
	if *run != "" {
		first = append(slices.Clone(args), "-run", *run)
	}
	tally := newTally(os.Stdout, os.Geteuid() == 0)
	err = testAll(ctx, first, flag.Args(), left, tally)
	if *again && err == nil {
		err = testAgain(ctx, args, *run, tally)
	}
	if !tally.finish(err) {
		os.Exit(1)
	}
}

// testAgain runs what failed once more, one package after the other, and puts
// the results in the place of the first. Subtests run with their whole test.
func testAgain(ctx context.Context, args []string, run string, tally *tally) error {
	failed := tally.failures()
	for _, pkg := range slices.Sorted(maps.Keys(failed)) {
		names := failed[pkg]
		fmt.Printf("once more: %s %s\n", pkg, strings.Join(names, " "))
		only := run
		if len(names) > 0 {
			only = "^(" + strings.Join(names, "|") + ")$"
		}
		second := newTally(os.Stdout, os.Geteuid() == 0)
		if err := goTest(ctx, append(slices.Clone(args), "-run", only, pkg), second); err != nil {
			return err
		}
		tally.replace(pkg, names, second)
	}
	return nil
}

// testAll runs the tests of all packages the patterns name but those left out.
func testAll(ctx context.Context, args, patterns []string, left *regexp.Regexp, tally *tally) error {
	list := exec.CommandContext(ctx, "go", append([]string{"list"}, patterns...)...)
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		return fmt.Errorf("list packages: %w", err)
	}
	var together, oneByOne []string
	for _, pkg := range strings.Fields(string(out)) {
		switch {
		case left.MatchString(pkg):
		case alone.MatchString(pkg):
			oneByOne = append(oneByOne, pkg)
		default:
			together = append(together, pkg)
		}
	}
	if len(together) > 0 {
		err = goTest(ctx, append(slices.Clone(args), together...), tally)
	}
	if len(oneByOne) > 0 {
		err = errors.Join(err, goTest(ctx, append(append(slices.Clone(args), "-p=1"), oneByOne...), tally))
	}
	return err
}

// goTest runs go test and feeds its events to tally. An error is returned only
// where the events do not tell of it. All processes of the run are killed when
// ctx ends.
func goTest(ctx context.Context, args []string, tally *tally) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = stopGrace
	before := tally.sum().failed
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	readErr := tally.read(out)
	waitErr := cmd.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("stopped: %w", context.Cause(ctx))
	}
	var exit *exec.ExitError
	if errors.As(waitErr, &exit) && exit.Exited() && tally.sum().failed > before {
		waitErr = nil // the events said it
	}
	return errors.Join(readErr, waitErr)
}
