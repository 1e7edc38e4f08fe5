// SPDX-License-Identifier: Apache-2.0

package lab

import "time"

// Step is one finished step of work on a lab.
type Step struct {
	Name   string        // a word or two: "nodes", "bgp"
	Detail []string      // one line or more; what was made or found
	Took   time.Duration // wall clock
	Err    error         // nil when it succeeded
}

// Progress is told about each step: before it with only the name, and after
// it.
type Progress func(Step)

// step runs f as a step called name and reports it.
func (l *Lab) step(name string, f func() ([]string, error)) error {
	l.progress(Step{Name: name})
	begin := time.Now()
	detail, err := f()
	l.progress(Step{Name: name, Detail: detail, Took: max(time.Since(begin), 1), Err: err})
	return err
}
