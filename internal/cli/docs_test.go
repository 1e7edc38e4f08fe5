// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/problem"
)

var update = flag.Bool("update", false, "rewrite the generated pages below docs")

// comparePage compares a page of docs with want; -update rewrites it.
func comparePage(t *testing.T, name, want string) {
	t.Helper()
	file := "../../docs/" + name
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(have)); diff != "" {
		t.Errorf("run go test ./internal/cli -update (-want +got):\n%s", diff)
	}
}

const troubleshootingHead = `# Troubleshooting

What can be wrong in a way an operator must know has a code, which never
changes its meaning. ` + "`ocicat status`" + ` lists the problems there are,
` + "`ocicat explain CODE`" + ` prints the entry below. 1xxx is about BGP, 2xxx about
addresses and pools, 3xxx about pods, 4xxx about the host, 5xxx about the
datastore and configuration.

This page is made from the table in ` + "`internal/problem/problem.go`" + `.
`

func TestTroubleshootingPage(t *testing.T) {
	var b strings.Builder
	b.WriteString(troubleshootingHead)
	for _, e := range problemTable() {
		fmt.Fprintf(&b, "\n## %s %s\n\n> %s\n\n%s\n", e.Code, e.Title, readable(e.Text), strings.TrimSuffix(e.Remedy, ".")+".")
	}
	comparePage(t, "troubleshooting.md", b.String())
}

func TestProblemTable(t *testing.T) {
	seen := map[problem.Code]bool{}
	for _, e := range problem.Table {
		if seen[e.Code] || !strings.HasPrefix(string(e.Code), "OC") || e.Title == "" || e.Text == "" || e.Remedy == "" {
			t.Errorf("row %+v", e)
		}
		seen[e.Code] = true
	}
}

// TestExitCodesAreDocumented finds a row for every exit code in docs/cli.md.
func TestExitCodesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	codes := []int{ExitOK, ExitUsage, ExitProblems}
	for k := fault.Internal; k <= fault.Unavailable; k++ {
		codes = append(codes, k.ExitCode())
	}
	for _, code := range codes {
		if !strings.Contains(string(text), fmt.Sprintf("\n| %d | ", code)) {
			t.Errorf("docs/cli.md has no row for exit code %d", code)
		}
	}
}

// TestEveryCommandIsDescribed walks the command tree.
func TestEveryCommandIsDescribed(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") || c.Short[:1] != strings.ToUpper(c.Short[:1]) {
			t.Errorf("%s: short text %q: want a phrase that begins with a capital and has no full stop", c.CommandPath(), c.Short)
		}
		if !c.HasSubCommands() && c.Args == nil && c.Name() != "help" && c.Parent() != nil && c.Parent().Name() != "completion" {
			t.Errorf("%s does not say how many arguments it takes", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRoot(newGlobals(Config{Getenv: func(string) string { return "" }, Stdout: &strings.Builder{}, Stderr: &strings.Builder{}})))
}
