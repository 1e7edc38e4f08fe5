// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"strings"

	"github.com/ocicat-net/ocicat/internal/lab"
)

// Widths of a step's name and detail on the screen, in characters.
const (
	stepWidth   = 13
	detailWidth = 80
)

// progress prints each step of a lab as one line: a tick, its name, what was
// made, and the time it took. On a terminal a step under way is shown too.
func (g *globals) progress() lab.Progress {
	live := isTerminal(g.stdout)
	return func(s lab.Step) {
		if s.Took == 0 {
			if live {
				fmt.Fprintf(g.stdout, " %s %s", g.paint(dim, "…"), s.Name)
			}
			return
		}
		if live {
			fmt.Fprint(g.stdout, "\r\x1b[K")
		}
		fmt.Fprint(g.stdout, g.stepLines(s))
	}
}

func (g *globals) stepLines(s lab.Step) string {
	mark := g.paint(good, "✓")
	if s.Err != nil {
		mark = g.paint(bad, "✗")
	}
	detail := s.Detail
	if len(detail) == 0 {
		detail = []string{""}
	}
	var b strings.Builder
	for i, line := range detail {
		if i == 0 {
			fmt.Fprintf(&b, " %s %s %s %6.1fs\n", mark, pad(s.Name, stepWidth), pad(line, detailWidth), s.Took.Seconds())
			continue
		}
		fmt.Fprintf(&b, "   %s %s\n", pad("", stepWidth), line)
	}
	return b.String()
}

// pad fills text with spaces to n characters.
func pad(text string, n int) string { return text + strings.Repeat(" ", max(0, n-width(text))) }
