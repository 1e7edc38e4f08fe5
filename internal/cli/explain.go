// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/api/meta"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/spf13/cobra"
)

// explained is a row of the problem table as -o json prints it.
type explained struct {
	Code   problem.Code `json:"code"`
	Title  string       `json:"title"`
	Text   string       `json:"text"`
	Remedy string       `json:"remedy"`
}

func newExplainCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "explain [CODE]",
		Short: "Explain a problem's code, or list all codes",
		Long:  "explain says what a problem means and what to do about it. Without a code it\nlists all of them.",
		Example: `  ocicat explain OC1003
  ocicat explain`,
		Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return codes(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return g.listProblems()
			}
			return g.explain(args[0])
		},
	}
}

// problemTable is the table of problems by code.
func problemTable() []problem.Entry {
	return slices.SortedFunc(slices.Values(problem.Table), func(a, b problem.Entry) int { return cmp.Compare(a.Code, b.Code) })
}

func codes() []string {
	var list []string
	for _, e := range problemTable() {
		list = append(list, string(e.Code))
	}
	return list
}

func (g *globals) listProblems() error {
	var all []explained
	t := newTable("CODE", "PROBLEM")
	for _, e := range problemTable() {
		all = append(all, explained{e.Code, e.Title, e.Text, e.Remedy})
		t.add(string(e.Code), e.Title)
	}
	return g.show(all, codes(), func(bool) *table { return t })
}

func (g *globals) explain(word string) error {
	e := problem.Find(problem.Code(strings.ToUpper(word)))
	if e.Title == "" {
		err := fault.New(fault.NotFound, "explain %q: no problem has this code", word)
		if near := meta.DidYouMean(word, codes()); near != "" {
			return fault.Hint(err, "%s", near)
		}
		return fault.Hint(err, "\"ocicat explain\" lists the codes.")
	}
	if g.output == "json" || g.output == "yaml" {
		return g.show(explained{e.Code, e.Title, e.Text, e.Remedy}, nil, nil)
	}
	_, err := fmt.Fprintf(g.stdout, "%s %s\n\nIt reads:   %s\nWhat to do: %s\n",
		g.paint(strong, string(e.Code)), e.Title, readable(e.Text), e.Remedy)
	return err
}

// readable is the text of a problem with dots for its particulars.
func readable(text string) string {
	return strings.NewReplacer("%s", "…", "%q", "\"…\"", "%d", "…", "%v", "…").Replace(text)
}
