// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Outcome is what came of a check.
type Outcome struct {
	Check
	OK bool `json:"ok"`
	// Error is what the first attempt that failed says.
	Error string `json:"error,omitempty"`
	// Micros is the median of the attempts' times, in microseconds.
	Micros int64 `json:"micros"`
	// MTU is that of the device packets left by, where it was tested.
	MTU int `json:"mtu,omitempty"`
	// Unknown says that the probe did not answer: nothing is known of the
	// network.
	Unknown bool `json:"unknown,omitempty"`
	// Cause is what was found out about a failure.
	Cause string `json:"cause,omitempty"`
}

// Tryer has a node's probe make attempts; *Site does.
type Tryer interface {
	// Try has the probe of a node make an attempt. An error means that the
	// probe did not answer.
	Try(ctx context.Context, node string, a Attempt) (Answer, error)
}

// Limits of a run.
const (
	sources   = 8                // nodes that test at once
	soonLimit = 10 * time.Second // after the begin of a run
)

// Run makes checks, those from one node one after the other, and returns their
// outcomes in the same order. told hears of each, one at a time. Where ctx ends
// before, what is not done is left out.
func Run(ctx context.Context, probes Tryer, checks []Check, told func(Outcome)) []Outcome {
	begin := time.Now()
	outcomes := make([]*Outcome, len(checks))
	slots := make(chan struct{}, sources)
	var mu sync.Mutex
	var running sync.WaitGroup
	byNode := map[string][]int{}
	var nodes []string
	for i, c := range checks {
		if byNode[c.From] == nil {
			nodes = append(nodes, c.From)
		}
		byNode[c.From] = append(byNode[c.From], i)
	}
	for _, node := range nodes {
		running.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			for _, i := range byNode[node] {
				o := check(ctx, probes, checks[i], begin)
				if ctx.Err() != nil {
					return
				}
				mu.Lock()
				outcomes[i] = &o
				told(o)
				mu.Unlock()
			}
		})
	}
	running.Wait()
	var done []Outcome
	for _, o := range outcomes {
		if o != nil {
			done = append(done, *o)
		}
	}
	return done
}

// check makes the attempts of one check, until one fails. In the first seconds
// after begin it is tried again: routes and services are made for pods that
// came a moment ago.
func check(ctx context.Context, probes Tryer, c Check, begin time.Time) Outcome {
	for {
		o := once(ctx, probes, c)
		if o.OK || o.Unknown || time.Since(begin) > soonLimit || pause(ctx) != nil {
			return o
		}
	}
}

func once(ctx context.Context, probes Tryer, c Check) Outcome {
	o := Outcome{Check: c}
	var times []int64
	for _, a := range c.Attempts {
		answer, err := probes.Try(ctx, c.From, a)
		if err != nil {
			o.Error, o.Unknown = err.Error(), true
			return o
		}
		o.MTU = max(o.MTU, answer.MTU)
		if answer.Error != "" {
			o.Error = a.Network + ": " + answer.Error
			return o
		}
		times = append(times, answer.Micros)
	}
	slices.Sort(times)
	o.OK, o.Micros = true, times[len(times)/2]
	return o
}
