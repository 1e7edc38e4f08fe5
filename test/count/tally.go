// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// event is one line of go test -json; "go doc test2json" describes them.
type event struct {
	Action      string
	Package     string
	Test        string
	Output      string
	Elapsed     float64
	ImportPath  string // of a build
	FailedBuild string // the build that kept a package from being tested
}

// test names one test of one package.
type test struct{ pkg, name string }

// tally counts the results of go test.
type tally struct {
	out    io.Writer
	strict bool // a skipped test is a failed one

	results map[test]result     // of each test that is no subtest, its subtests included; of what killed a package with no name
	counts  map[string]int      // tests of a package that ended
	faults  map[string]int      // of those, the failed ones
	texts   map[test][]string   // output of tests not ended; of their packages with no name
	builds  map[string][]string // output of builds
	skips   []string
}

// result counts tests.
type result struct{ passed, failed int }

// whole is the test that at is a part of.
func (at test) whole() test {
	at.name, _, _ = strings.Cut(at.name, "/")
	return at
}

func newTally(out io.Writer, strict bool) *tally {
	return &tally{
		out: out, strict: strict,
		results: map[test]result{}, counts: map[string]int{}, faults: map[string]int{}, texts: map[test][]string{}, builds: map[string][]string{},
	}
}

// read counts the events of one run until its end.
func (t *tally) read(events io.Reader) error {
	for decoder := json.NewDecoder(events); ; {
		var ev event
		switch err := decoder.Decode(&ev); err {
		case nil:
			t.take(ev)
		case io.EOF:
			return nil
		default:
			return fmt.Errorf("read events of go test: %w", err)
		}
	}
}

func (t *tally) take(ev event) {
	at := test{ev.Package, ev.Test}
	switch ev.Action {
	case "output":
		t.texts[at] = append(t.texts[at], ev.Output)
	case "build-output":
		t.builds[ev.ImportPath] = append(t.builds[ev.ImportPath], ev.Output)
	case "pass", "fail", "skip":
		if ev.Test == "" {
			t.endPackage(ev)
		} else {
			t.endTest(ev.Action, at)
		}
		delete(t.texts, at)
	}
}

func (t *tally) endTest(action string, at test) {
	t.counts[at.pkg]++
	switch action {
	case "pass":
		t.add(at, result{passed: 1})
	case "fail":
		t.fail(at)
	case "skip":
		t.skips = append(t.skips, fmt.Sprintf("%s %s: %s", at.pkg, at.name, reason(t.texts[at])))
		if t.strict {
			t.fail(at)
		}
	}
}

// add counts a test, or a part of one.
func (t *tally) add(at test, r result) {
	sum := t.results[at.whole()]
	t.results[at.whole()] = result{sum.passed + r.passed, sum.failed + r.failed}
}

// sum is all results together.
func (t *tally) sum() (all result) {
	for _, r := range t.results {
		all.passed += r.passed
		all.failed += r.failed
	}
	return all
}

// failures are the names of the failed tests of each package; of a package that
// died, none.
func (t *tally) failures() map[string][]string {
	failed := map[string][]string{}
	for at, r := range t.results {
		if r.failed > 0 && at.pkg != "" {
			failed[at.pkg] = append(failed[at.pkg], at.name)
		}
	}
	for pkg, names := range failed {
		if slices.Contains(names, "") {
			failed[pkg] = nil
		}
	}
	return failed
}

// replace puts the results of a second run of one package in the place of the
// first's: those of the named tests, or of all if none are named.
func (t *tally) replace(pkg string, names []string, second *tally) {
	maps.DeleteFunc(t.results, func(at test, _ result) bool {
		return at.pkg == pkg && (len(names) == 0 || slices.Contains(names, at.name))
	})
	for at, r := range second.results {
		t.add(at, r)
	}
	if len(second.results) == 0 { // it did not even begin
		t.add(test{pkg: pkg}, result{failed: 1})
	}
}

func (t *tally) fail(at test) {
	t.add(at, result{failed: 1})
	t.faults[at.pkg]++
	fmt.Fprintf(t.out, "FAIL %s %s\n%s", at.pkg, at.name, strings.Join(t.texts[at], ""))
}

// endPackage prints a package's line. A package that failed without a failed
// test (it did not build, or died) counts as one failure, and shows what the
// tests that never ended had said.
func (t *tally) endPackage(ev event) {
	took := time.Duration(ev.Elapsed * float64(time.Second)).Round(time.Millisecond)
	switch {
	case ev.Action == "fail":
		if t.faults[ev.Package] == 0 {
			t.add(test{pkg: ev.Package}, result{failed: 1})
			t.faults[ev.Package]++
		}
		fmt.Fprint(t.out, strings.Join(t.builds[ev.FailedBuild], ""))
		for at, text := range t.texts {
			if at.pkg == ev.Package && (at.name != "" || t.counts[ev.Package] == 0) {
				fmt.Fprintf(t.out, "%s %s\n%s", at.pkg, at.name, strings.Join(text, ""))
			}
		}
		fmt.Fprintf(t.out, "FAIL %s (%d of %d tests failed, %v)\n", ev.Package, t.faults[ev.Package], t.counts[ev.Package], took)
	case t.counts[ev.Package] > 0:
		fmt.Fprintf(t.out, "ok   %s (%d tests, %v)\n", ev.Package, t.counts[ev.Package], took)
	}
}

// finish prints the summary and says whether all is well; err is what went
// wrong with the run as a whole.
func (t *tally) finish(err error) bool {
	for _, skip := range t.skips {
		fmt.Fprintln(t.out, "skipped", skip)
	}
	if err != nil {
		t.add(test{}, result{failed: 1})
		fmt.Fprintln(t.out, "count:", err)
	}
	if len(t.results) == 0 {
		t.add(test{}, result{failed: 1})
		fmt.Fprintln(t.out, "count: no test ran")
	}
	all := t.sum()
	fmt.Fprintf(t.out, "%d passed, %d failed\n", all.passed, all.failed)
	return all.failed == 0
}

// reason is what a skipped test said.
func reason(text []string) string {
	for _, line := range text {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "===") && !strings.HasPrefix(line, "---") {
			return line
		}
	}
	return "no reason given"
}
