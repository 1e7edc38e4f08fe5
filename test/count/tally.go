// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
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

	passed, failed, skipped int
	counts                  map[string]int      // tests of a package that ended
	faults                  map[string]int      // of those, the failed ones
	texts                   map[test][]string   // output of tests not ended; of their packages with no name
	builds                  map[string][]string // output of builds
	skips                   []string
}

func newTally(out io.Writer, strict bool) *tally {
	return &tally{
		out: out, strict: strict,
		counts: map[string]int{}, faults: map[string]int{}, texts: map[test][]string{}, builds: map[string][]string{},
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
		t.passed++
	case "fail":
		t.fail(at)
	case "skip":
		t.skipped++
		t.skips = append(t.skips, fmt.Sprintf("%s %s: %s", at.pkg, at.name, reason(t.texts[at])))
		if t.strict {
			t.fail(at)
		}
	}
}

func (t *tally) fail(at test) {
	t.failed++
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
			t.failed++
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
		t.failed++
		fmt.Fprintln(t.out, "count:", err)
	}
	if t.passed+t.failed == 0 {
		t.failed++
		fmt.Fprintln(t.out, "count: no test ran")
	}
	fmt.Fprintf(t.out, "%d passed, %d failed\n", t.passed, t.failed)
	return t.failed == 0
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
