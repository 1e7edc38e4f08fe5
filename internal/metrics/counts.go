// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// Counts are the counters and histograms of a process. Its methods may be
// called from any goroutine. The zero value is ready.
type Counts struct {
	mu       sync.Mutex
	counters map[series]float64
	times    map[series]*histogram
}

// series is one line or one histogram: metric and label values.
type series struct {
	name   string
	labels [2]string
}

// histogram counts observations; buckets[i] are those up to the metric's i-th
// bound and above the one before.
type histogram struct {
	buckets []uint64
	count   uint64
	sum     float64
}

// Add adds n to a counter of the table.
func (c *Counts) Add(name string, n float64, labels ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counters == nil {
		c.counters = map[series]float64{}
	}
	c.counters[key(name, labels)] += n
}

// Observe puts a time into a histogram of the table. One that the table does
// not have is left out.
func (c *Counts) Observe(name string, took time.Duration, labels ...string) {
	m, ok := find(name)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.times == nil {
		c.times = map[series]*histogram{}
	}
	h := c.times[key(name, labels)]
	if h == nil {
		h = &histogram{buckets: make([]uint64, len(m.Buckets))}
		c.times[key(name, labels)] = h
	}
	seconds := took.Seconds()
	h.count++
	h.sum += seconds
	if i, _ := slices.BinarySearch(m.Buckets, seconds); i < len(h.buckets) {
		h.buckets[i]++
	}
}

func key(name string, labels []string) series {
	s := series{name: name}
	copy(s.labels[:], labels)
	return s
}

// Verb counts a request of the CNI plugin.
func (c *Counts) Verb(verb string, took time.Duration, err error) {
	c.Add("ocicat_cni_requests_total", 1, verb, result(err))
	c.Observe("ocicat_cni_request_duration_seconds", took, verb)
}

// Pass counts a pass of the reconcile loop.
func (c *Counts) Pass(section string, took time.Duration, err error) {
	outcome := "ok"
	if err != nil {
		outcome = "error"
	}
	c.Add("ocicat_reconcile_passes_total", 1, section, outcome)
	c.Observe("ocicat_reconcile_pass_duration_seconds", took, section)
}

// result is an outcome as a label: few values, whatever happens.
func result(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, context.Canceled):
		return "canceled"
	}
	return fault.KindOf(err).String()
}

// Collect adds everything counted to a page, sorted by labels.
func (c *Counts) Collect(p *Page) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range sortedSeries(c.counters) {
		m, _ := find(s.name)
		p.Set(s.name, c.counters[s], s.labels[:min(len(m.Labels), len(s.labels))]...)
	}
	for _, s := range sortedSeries(c.times) {
		c.times[s].collect(p, s)
	}
}

func sortedSeries[V any](of map[series]V) []series {
	list := make([]series, 0, len(of))
	for s := range of {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b series) int {
		return strings.Compare(a.name+"\x00"+strings.Join(a.labels[:], "\x00"), b.name+"\x00"+strings.Join(b.labels[:], "\x00"))
	})
	return list
}

func (h *histogram) collect(p *Page, s series) {
	m, _ := find(s.name)
	labels := pair(m.Labels, s.labels[:len(m.Labels)])
	var below uint64
	for i, bound := range append(slices.Clone(m.Buckets), math.Inf(1)) {
		if i < len(h.buckets) {
			below += h.buckets[i]
		} else {
			below = h.count
		}
		p.add(s.name, sample{suffix: "_bucket", labels: append(slices.Clone(labels), label{"le", number(bound)}), value: float64(below)})
	}
	p.add(s.name, sample{suffix: "_sum", labels: labels, value: h.sum})
	p.add(s.name, sample{suffix: "_count", labels: labels, value: float64(h.count)})
}
