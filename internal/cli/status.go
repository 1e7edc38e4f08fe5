// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/ocicat-net/ocicat/api/v1"
	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

func newStatusCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show nodes, sessions, routes and problems of the cluster",
		Long: `Show one line for each node and one for each problem.

The datastore's reports are shown, so every node appears, also one whose agent
does not answer: its line says how old the report is. When the datastore does
not answer, the agents within reach are asked instead.

Exit code 10 means that there are problems.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return g.status(c.Context()) },
	}
}

func (g *globals) status(ctx context.Context) error {
	list, err := g.statuses(ctx)
	if err != nil {
		asked, askErr := g.reports(ctx)
		if askErr != nil || len(asked) == 0 {
			return err
		}
		g.warn("%v: showing what the agents within reach say", err)
		list = asked
	}
	if err := g.printStatus(list); err != nil {
		return err
	}
	if countProblems(list) > 0 {
		return errProblems
	}
	return nil
}

// printStatus prints the nodes, and in the formats for people what is wrong.
func (g *globals) printStatus(list []*v1.NodeStatus) error {
	if err := g.show(list, nodeNames(list), func(wide bool) *table { return g.statusTable(list, wide) }); err != nil {
		return err
	}
	if g.output == "wide" {
		if err := g.printAddresses(g.stdout, list); err != nil {
			return err
		}
	}
	if g.output == "" || g.output == "wide" {
		g.printProblems(g.stdout, list)
	}
	return nil
}

// reports asks the agents themselves.
func (g *globals) reports(ctx context.Context) ([]*v1.NodeStatus, error) {
	all, err := askAll(ctx, g, func(ctx context.Context, agent *admin.Client) (*v1.NodeStatus, error) { return agent.Report(ctx) })
	var list []*v1.NodeStatus
	for _, said := range all {
		list = append(list, said.value)
	}
	return list, err
}

func nodeNames(list []*v1.NodeStatus) []string {
	names := []string{}
	for _, s := range list {
		names = append(names, "node/"+s.Metadata.Name)
	}
	return names
}

func (g *globals) statusTable(list []*v1.NodeStatus, wide bool) *table {
	ready := 0
	for _, s := range list {
		if s.Status.Ready && !s.Stale(g.Now()) {
			ready++
		}
	}
	if len(list) > 0 {
		st := list[0].Status
		mode := "mode " + st.Mode
		if st.Mesh {
			mode += ", node-to-node mesh"
		}
		fmt.Fprintf(g.stdout, "%d/%d nodes ready   %s   AS %d\n", ready, len(list), mode, st.AS)
	}
	header := []string{"NODE", "ADDRESS", "BLOCKS", "PODS", "SESSIONS", "ROUTES", "DRIFT", "AGENT"}
	if wide {
		header = append(header, "UPLINK", "RESERVE", "MEMORY", "DATASTORE")
	}
	t := newTable(header...)
	for _, s := range list {
		t.add(g.statusRow(s, wide)...)
	}
	return t
}

func (g *globals) statusRow(s *v1.NodeStatus, wide bool) []string {
	st := s.Status
	up := 0
	for _, session := range st.Sessions {
		if session.State == string(speaker.Established) {
			up++
		}
	}
	address, _, _ := strings.Cut(st.Address, "/")
	agent := st.Agent.Version
	switch {
	case s.Stale(g.Now()):
		agent = g.paint(bad, "stale "+g.age(st.Heartbeat))
	case !st.Ready:
		agent = g.paint(warned, agent+" not ready")
	}
	row := []string{
		s.Metadata.Name, dash(address), dash(joined(st.Blocks)), strconv.Itoa(st.Counts.Pods),
		g.ratio(up, len(st.Sessions)) + " up", g.ratio(st.Counts.RoutesInstalled, st.Counts.RoutesWanted),
		strconv.Itoa(st.Counts.Drift), agent,
	}
	if wide {
		row = append(row, dash(st.Uplink), strconv.Itoa(st.Counts.ReserveHeld), fmt.Sprintf("%d MiB", st.Agent.MemoryBytes>>20), okOr(st.Store))
	}
	return row
}

func (g *globals) ratio(have, want int) string {
	text := fmt.Sprintf("%d/%d", have, want)
	if have < want {
		return g.paint(bad, text)
	}
	return text
}

func countProblems(list []*v1.NodeStatus) int {
	n := 0
	for _, s := range list {
		n += len(s.Status.Problems)
	}
	return n
}

// printProblems prints each problem once with the nodes that see it.
func (g *globals) printProblems(w io.Writer, list []*v1.NodeStatus) {
	type seen struct {
		problem v1.Problem
		nodes   []string
	}
	var problems []*seen
	byText := map[string]*seen{}
	for _, s := range list {
		for _, p := range s.Status.Problems {
			key := p.Code + p.Text
			if byText[key] == nil {
				byText[key] = &seen{problem: p}
				problems = append(problems, byText[key])
			}
			byText[key].nodes = append(byText[key].nodes, s.Metadata.Name)
		}
	}
	if len(problems) == 0 {
		fmt.Fprintln(w, "No problems.")
		return
	}
	shown := map[string]int{} // by code
	for _, p := range problems {
		code := p.problem.Code
		if shown[code]++; shown[code] > sameCode {
			continue
		}
		fmt.Fprintf(w, "%s %s: %s\n", g.paint(warned, code), someOf(p.nodes), p.problem.Text)
		if p.problem.Remedy != "" {
			fmt.Fprintf(w, "       %s\n", p.problem.Remedy)
		}
	}
	for _, code := range slices.Sorted(maps.Keys(shown)) {
		if more := shown[code] - sameCode; more > 0 {
			fmt.Fprintf(w, "%s … and %d more: ocicat status -o yaml\n", g.paint(warned, code), more)
		}
	}
}

// sameCode and sameText are how many problems of one code, and how many nodes
// of one problem, are shown: a large cluster that lost its switch has
// thousands.
const (
	sameCode = 5
	sameText = 5
)

// someOf lists nodes, the rest as a number.
func someOf(nodes []string) string {
	if len(nodes) <= sameText {
		return joined(nodes)
	}
	return fmt.Sprintf("%s and %d more nodes", joined(nodes[:sameText]), len(nodes)-sameText)
}

func joined(words []string) string { return strings.Join(words, ", ") }

// dash is s, or a dash in an empty cell.
func dash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

func okOr(s string) string {
	if s == "" {
		return "ok"
	}
	return s
}
