// SPDX-License-Identifier: Apache-2.0

package selector

import (
	"bufio"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// vectors reads testdata/name, one recorded vector of Calico's a line.
func vectors[T any](t testing.TB, name string) []T {
	t.Helper()
	f, err := os.Open("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []T
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var v T
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all = append(all, v)
	}
	if lines.Err() != nil || len(all) == 0 {
		t.Fatalf("%s: %d vectors, %v", name, len(all), lines.Err())
	}
	return all
}

type vector struct {
	Selector, Normalised, UniqueID string
	Valid                          bool
	Matches                        []int
}

func TestVectors(t *testing.T) {
	labels := vectors[map[string]string](t, "labels.jsonl")
	for _, v := range vectors[vector](t, "selectors.jsonl") {
		s, err := Parse(v.Selector)
		if !v.Valid {
			if !fault.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
				t.Errorf("Parse(%q) = %s, %v, want invalid with a hint", v.Selector, s, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("Parse: %v", err)
			continue
		}
		if s.String() != v.Normalised || s.UniqueID() != v.UniqueID {
			t.Errorf("Parse(%q) = %s %s, want %s %s", v.Selector, s, s.UniqueID(), v.Normalised, v.UniqueID)
		}
		matches := []int{}
		for i, l := range labels {
			if s.Matches(l) {
				matches = append(matches, i)
			}
		}
		if !slices.Equal(matches, v.Matches) {
			t.Errorf("%q matches %v, want %v", v.Selector, matches, v.Matches)
		}
	}
}

func TestErrorsNameThePlace(t *testing.T) {
	for in, want := range map[string]string{
		"a = 'b'":                       `at byte 3: "= 'b'" where one of ==`,
		"a == ":                         "ends where a text in quotes should follow",
		"a == 'b":                       "at byte 6: the quote is never closed",
		"has(a":                         "ends where a closing parenthesis should follow",
		"a == 'b' c":                    `at byte 10: "c" where &&, || or the end`,
		strings.Repeat("(", 300) + "x":  "nested more than 256 deep",
		strings.Repeat("x", 513) + "==": "a label of 513 bytes",
		"a not 'b'":                     `"'b'" where "in" should stand`,
	} {
		if _, err := Parse(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%.20q): %v, want %q", in, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range vectors[vector](f, "selectors.jsonl") {
		f.Add(v.Selector)
	}
	labels := vectors[map[string]string](f, "labels.jsonl")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(s.String())
		if err != nil {
			if strings.Contains(err.Error(), "nested more than") {
				return // normal form may need one level more
			}
			t.Fatalf("%q has the normal form %q: %v", text, s, err)
		}
		for _, l := range labels {
			if s.Matches(l) != again.Matches(l) {
				t.Errorf("%q and its normal form %q differ on %v", text, s, l)
			}
		}
	})
}
