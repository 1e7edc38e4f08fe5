// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"sync"
	"time"
)

// steps are what a long command does, one after the other, on standard error:
// on a terminal the one under way is shown as it goes on.
type steps struct {
	g     *globals
	mu    sync.Mutex
	name  string
	text  string
	begin time.Time
}

func (g *globals) newSteps() *steps { return &steps{g: g} }

// show is what the present step is and how far.
func (s *steps) show(name, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name != s.name {
		s.begin = time.Now()
	}
	s.name, s.text = name, text
	if isTerminal(s.g.stderr) {
		fmt.Fprintf(s.g.stderr, "\r\x1b[K %s %s %s", s.g.errPaint(dim, "…"), pad(name, stepWidth), text)
	}
}

// done ends the step.
func (s *steps) done() {
	s.mu.Lock()
	defer s.mu.Unlock()
	start := ""
	if isTerminal(s.g.stderr) {
		start = "\r\x1b[K"
	}
	fmt.Fprintf(s.g.stderr, "%s %s %s %s %6.1fs\n", start, s.g.errPaint(good, "✓"), pad(s.name, stepWidth), pad(s.text, detailWidth), time.Since(s.begin).Seconds())
	s.name = ""
}
