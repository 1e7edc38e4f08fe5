// SPDX-License-Identifier: Apache-2.0

// Package metrics is what an agent counts and measures, the text in which it
// says so to Prometheus, and the door where that is asked for. One table names
// every metric; docs/metrics.md is made from it. The package knows no agent:
// what is true at the moment of a scrape is asked of a Source.
//
// The text is written here, without Prometheus' client library: every scrape
// shows one moment as a whole, and metrics that are read off the agent's state
// need no second copy of it.
package metrics

import (
	"errors"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// Source fills a page with what is true now.
type Source interface {
	// Collect adds its metrics to p. It may be called from any goroutine.
	Collect(p *Page)
}

// Page is one answer to a scrape. The zero value is an empty page.
type Page struct {
	families map[string][]sample
	errs     []error
}

// sample is one line: what stands behind the family's name, and the value.
type sample struct {
	suffix string // "_bucket", "_sum", "_count" or ""
	labels []label
	value  float64
}

type label struct{ name, value string }

// Set adds a gauge's or counter's value, with the values of its labels in the
// order of the table. A metric the table does not have, or another number of
// labels, is the error of WriteTo.
func (p *Page) Set(name string, value float64, labels ...string) {
	m, ok := find(name)
	if !ok || m.Kind == Histogram || len(m.Labels) != len(labels) {
		p.errs = append(p.errs, fault.New(fault.Internal, "metric %s with %d labels: not in the table", name, len(labels)))
		return
	}
	p.add(name, sample{labels: pair(m.Labels, labels), value: value})
}

func (p *Page) add(name string, s sample) {
	if p.families == nil {
		p.families = map[string][]sample{}
	}
	p.families[name] = append(p.families[name], s)
}

func pair(names, values []string) []label {
	labels := make([]label, len(names))
	for i, name := range names {
		labels[i] = label{name, values[i]}
	}
	return labels
}

// WriteTo writes the page in Prometheus' text format, version 0.0.4, the
// metrics in the order of the table.
func (p *Page) WriteTo(w io.Writer) (int64, error) {
	var b strings.Builder
	for _, m := range Table() {
		samples, ok := p.families[m.Name]
		if !ok {
			continue
		}
		b.WriteString("# HELP " + m.Name + " " + escapeHelp.Replace(m.Help) + "\n# TYPE " + m.Name + " " + string(m.Kind) + "\n")
		for _, s := range samples {
			s.write(&b, m.Name)
		}
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), errors.Join(append(slices.Clone(p.errs), err)...)
}

// Escapes of the format: in a label's value also quotes.
var (
	escapeHelp  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	escapeValue = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

func (s sample) write(b *strings.Builder, name string) {
	b.WriteString(name + s.suffix)
	for i, l := range s.labels {
		b.WriteByte("{,"[min(i, 1)])
		b.WriteString(l.name + `="` + escapeValue.Replace(strings.ToValidUTF8(l.value, "\uFFFD")) + `"`)
	}
	if len(s.labels) > 0 {
		b.WriteByte('}')
	}
	b.WriteString(" " + number(s.value) + "\n")
}

func number(v float64) string {
	switch {
	case math.IsInf(v, 1):
		return "+Inf"
	case math.IsInf(v, -1):
		return "-Inf"
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}
