// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// figure is one measured number with what it should be.
type figure struct {
	Name string `json:"name"`
	// Aim is the aim in words; empty where the number only informs.
	Aim string `json:"aim,omitempty"`
	// Value in Unit.
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Met says whether Value is what Aim asks for.
	Met bool `json:"met"`
	// Better is "less" or "more" for a ratio that bench-check watches: it was
	// made in one run of both sides and holds on other machines.
	Better string `json:"better,omitempty"`
}

// atMost is a figure whose aim is an upper bound.
func atMost(name string, value, bound float64, unit string) figure {
	return figure{Name: name, Aim: fmt.Sprintf("≤ %s", number(bound, unit)), Value: value, Unit: unit, Met: value <= bound}
}

// atLeast is a figure whose aim is a lower bound.
func atLeast(name string, value, bound float64, unit string) figure {
	return figure{Name: name, Aim: fmt.Sprintf("≥ %s", number(bound, unit)), Value: value, Unit: unit, Met: value >= bound}
}

// informs is a figure without an aim.
func informs(name string, value float64, unit string) figure {
	return figure{Name: name, Value: value, Unit: unit, Met: true}
}

// watched marks a ratio for bench-check.
func (f figure) watched(better string) figure {
	f.Better = better
	return f
}

// number prints a value with its unit, three digits or so.
func number(v float64, unit string) string {
	text := fmt.Sprintf("%.2f", v)
	switch {
	case v >= 100:
		text = fmt.Sprintf("%.0f", v)
	case v >= 10:
		text = fmt.Sprintf("%.1f", v)
	}
	if strings.Contains(text, ".") {
		text = strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
	}
	return strings.TrimSpace(text + " " + unit)
}

// result is what one suite measured.
type result struct {
	Suite   string   `json:"suite"`
	Title   string   `json:"title"`
	Machine []string `json:"machine"`
	Figures []figure `json:"figures"`
	// Details is Markdown below the figures.
	Details string `json:"details,omitempty"`
}

// load reads the results kept of earlier runs, none if there is no file.
func load(path string) ([]result, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var kept []result
	if err := json.Unmarshal(data, &kept); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return kept, nil
}

func save(path string, value any) error {
	data, err := json.MarshalIndent(value, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

// merge puts new results in the place of older ones of the same suite, in the
// order of the suites.
func merge(kept, fresh []result) []result {
	var all []result
	for _, s := range suites {
		is := func(r result) bool { return r.Suite == s.name }
		if i := slices.IndexFunc(fresh, is); i >= 0 {
			all = append(all, fresh[i])
		} else if i := slices.IndexFunc(kept, is); i >= 0 {
			all = append(all, kept[i])
		}
	}
	return all
}
