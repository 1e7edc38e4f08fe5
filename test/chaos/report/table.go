// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/test/chaos"
)

const head = `# Reliability: what was provoked, and what was measured

Made by ` + "`make chaos`" + `: do not edit. Each row is a test that ran; its name tells where to look. "0" rows have a twin, the
same test with the guard off, which shows that the meter sees the fault. What failed, or has not been measured, is in bold.
A part of the suite in the numbers of CI: ` + "`make chaos-ci`" + `; one case: ` + "`go test -run NAME ./PACKAGE`" + `.
`

// groups are the headings, by the letter of the case.
var groups = []struct{ letter, title string }{
	{"A", "The CNI contract"},
	{"B", "Address management"},
	{"C", "BGP, and restarts of the agent"},
	{"D", "Routes and kernel"},
	{"E", "The datastore"},
	{"F", "The machine"},
	{"G", "Attacks from pods"},
}

// table is the page.
func table(records []*chaos.Record) string {
	byCase := map[string][]*chaos.Record{}
	for _, r := range records {
		byCase[r.ID] = append(byCase[r.ID], r)
	}
	var b strings.Builder
	b.WriteString(head)
	for _, g := range groups {
		fmt.Fprintf(&b, "\n## %s: %s\n| case | how it was provoked | aim | measured | result | test |\n|---|---|---|---|---|---|\n", g.letter, g.title)
		for _, c := range chaos.Catalogue() {
			if !strings.HasPrefix(c.ID, g.letter) {
				continue
			}
			for _, r := range byCase[c.ID] {
				row(&b, c, r)
			}
			if len(byCase[c.ID]) == 0 {
				fmt.Fprintf(&b, "| %s %s | | | | **not measured** | |\n", c.ID, c.Title)
			}
		}
	}
	return b.String()
}

func row(b *strings.Builder, c chaos.Case, r *chaos.Record) {
	if !r.Full && r.Package != "" && strings.HasPrefix(r.Package, "test/chaos") {
		r.Measured = append(slices.Clone(r.Measured), "(numbers of CI)")
	}
	result := "met"
	if r.Failed {
		result = "**failed**"
	}
	fmt.Fprintf(b, "| %s %s | %s | %s | %s | %s | `%s` in %s |\n",
		c.ID, c.Title, cell(r.Provoked), cell(r.Aim), cell(strings.Join(r.Measured, "; ")), result, r.Test, r.Package)
}

// cell keeps a text inside its cell.
func cell(text string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ").Replace(text)
}

// sorted are the records by case, in the order of the catalogue's numbers.
func sorted(kept map[string]*chaos.Record) []*chaos.Record {
	place := map[string]int{}
	for i, c := range chaos.Catalogue() {
		place[c.ID] = i
	}
	return slices.SortedFunc(maps.Values(kept), func(a, b *chaos.Record) int {
		return cmp.Or(place[a.ID]-place[b.ID], strings.Compare(a.Package, b.Package), strings.Compare(a.Test, b.Test))
	})
}
