// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

const run = `{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:1: quiet\n"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":0}
{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    a_test.go:2: loud\n"}
{"Action":"fail","Package":"p","Test":"TestB","Elapsed":0}
{"Action":"output","Package":"p","Test":"TestC","Output":"=== RUN   TestC\n"}
{"Action":"output","Package":"p","Test":"TestC","Output":"    a_test.go:3: needs root\n"}
{"Action":"skip","Package":"p","Test":"TestC","Elapsed":0}
{"Action":"fail","Package":"p","Elapsed":1.5}
`

const broken = `{"ImportPath":"q [q.test]","Action":"build-output","Output":"q.go:1: syntax error\n"}
{"Action":"start","Package":"q"}
{"Action":"fail","Package":"q","Elapsed":0,"FailedBuild":"q [q.test]"}
`

const hung = `{"Action":"output","Package":"h","Test":"TestH","Output":"panic: test timed out\n"}
{"Action":"fail","Package":"h","Elapsed":300}
`

func TestTally(t *testing.T) {
	for _, test := range []struct {
		name, events string
		strict       bool
		err          error
		want         []string
		last         string
		ok           bool
	}{
		{name: "results", events: run, last: "1 passed, 1 failed", want: []string{
			"FAIL p TestB\n    a_test.go:2: loud\n", "FAIL p (1 of 3 tests failed, 1.5s)\n", "skipped p TestC: a_test.go:3: needs root\n",
		}},
		{name: "root may not skip", events: run, strict: true, last: "1 passed, 2 failed"},
		{name: "no build", events: broken, last: "0 passed, 1 failed", want: []string{"q.go:1: syntax error\n", "FAIL q"}},
		{name: "timeout", events: hung, last: "0 passed, 1 failed", want: []string{"h TestH\npanic: test timed out\n"}},
		{name: "nothing", events: "", last: "0 passed, 1 failed"},
		{name: "interrupted", events: `{"Action":"pass","Package":"p","Test":"T"}`, err: errors.New("stopped"), last: "1 passed, 1 failed"},
		{name: "good", events: `{"Action":"pass","Package":"p","Test":"T"}`, last: "1 passed, 0 failed", ok: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out strings.Builder
			tally := newTally(&out, test.strict)
			if err := tally.read(strings.NewReader(test.events)); err != nil {
				t.Fatal(err)
			}
			if ok := tally.finish(test.err); ok != test.ok {
				t.Errorf("all is well: %t, want %t", ok, test.ok)
			}
			if !strings.HasSuffix("\n"+out.String(), "\n"+test.last+"\n") {
				t.Errorf("last line is not %q:\n%s", test.last, &out)
			}
			for _, want := range test.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in:\n%s", want, &out)
				}
			}
			if strings.Contains(out.String(), "quiet") {
				t.Errorf("a passed test is printed:\n%s", &out)
			}
		})
	}
}

func TestUnreadableEvents(t *testing.T) {
	if err := newTally(new(strings.Builder), false).read(strings.NewReader("panic")); err == nil {
		t.Error("no error")
	}
}

// TestSecondRunDecides: what failed counts as it went the second time, what
// passed before stays.
func TestSecondRunDecides(t *testing.T) {
	read := func(events string) *tally {
		tally := newTally(new(strings.Builder), false)
		if err := tally.read(strings.NewReader(events)); err != nil {
			t.Fatal(err)
		}
		return tally
	}
	const subtests = `{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p","Test":"TestB/one"}
{"Action":"pass","Package":"p","Test":"TestB/two"}
{"Action":"fail","Package":"p","Test":"TestB"}
{"Action":"fail","Package":"p"}
`
	const good = `{"Action":"pass","Package":"p","Test":"TestB/one"}
{"Action":"pass","Package":"p","Test":"TestB/two"}
{"Action":"pass","Package":"p","Test":"TestB"}
{"Action":"pass","Package":"p"}
`
	for _, test := range []struct {
		name, first, second string
		names               []string
		want                result
	}{
		{"mended", subtests, good, []string{"TestB"}, result{passed: 4}},
		{"failed again", subtests, subtests[strings.Index(subtests, "\n")+1:], []string{"TestB"}, result{passed: 2, failed: 2}},
		{"package died", hung, `{"Action":"pass","Package":"h","Test":"TestH"}`, nil, result{passed: 1}},
		{"second did not begin", subtests, "", []string{"TestB"}, result{passed: 1, failed: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			first := read(test.first)
			for pkg, names := range first.failures() {
				if !slices.Equal(names, test.names) {
					t.Errorf("failed: %q, want %q", names, test.names)
				}
				first.replace(pkg, names, read(test.second))
			}
			if got := first.sum(); got != test.want {
				t.Errorf("%+v, want %+v", got, test.want)
			}
		})
	}
}
