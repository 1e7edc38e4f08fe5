// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// tryer answers by target.
type tryer struct {
	mu      sync.Mutex
	answers map[string]func() (Answer, error)
	asked   map[string]int
}

func (y *tryer) Try(_ context.Context, _ string, a Attempt) (Answer, error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.asked[a.Target]++
	if answer := y.answers[a.Target]; answer != nil {
		return answer()
	}
	return Answer{Micros: 7, MTU: 1500}, nil
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		y := &tryer{asked: map[string]int{}, answers: map[string]func() (Answer, error){
			"bad":    func() (Answer, error) { return Answer{Error: "no answer"}, nil },
			"silent": func() (Answer, error) { return Answer{}, errors.New("gone") },
			"late": func() (Answer, error) {
				if time.Since(begin) < 5*time.Second {
					return Answer{Error: "no route to host"}, nil
				}
				return Answer{Micros: 9}, nil
			},
		}}
		try := func(targets ...string) (list []Attempt) {
			for _, target := range targets {
				list = append(list, Attempt{Network: "tcp", Target: target})
			}
			return list
		}
		told := 0
		outcomes := Run(t.Context(), y, []Check{
			{Kind: PodToPod, From: "n1", Attempts: try("good", "good")},
			{Kind: PodToPod, From: "n2", Attempts: try("bad", "never")},
			{Kind: PodToService, From: "n1", Attempts: try("late")},
			{Kind: PodToService, From: "n2", Attempts: try("bad")},
			{Kind: PodToAPI, From: "n2", Attempts: try("silent")},
		}, func(Outcome) { told++ })
		if len(outcomes) != 5 || told != 5 {
			t.Fatalf("%d outcomes, told of %d", len(outcomes), told)
		}
		for i, want := range []Outcome{
			{OK: true, Micros: 7, MTU: 1500}, {Error: "tcp: no answer"}, {OK: true, Micros: 9}, {Error: "tcp: no answer"}, {Error: "gone", Unknown: true},
		} {
			got := outcomes[i]
			if got.OK != want.OK || got.Error != want.Error || got.Micros != want.Micros || got.MTU != want.MTU || got.Unknown != want.Unknown {
				t.Errorf("%d: %+v, want %+v", i, got, want)
			}
		}
		if y.asked["never"] != 0 || y.asked["bad"] < 10 || y.asked["silent"] != 1 {
			t.Errorf("asked %v", y.asked)
		}
	})
}

// TestRunEndsWithItsContext: what is not done is left out.
func TestRunEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		y := &tryer{asked: map[string]int{}, answers: map[string]func() (Answer, error){
			"bad": func() (Answer, error) { return Answer{Error: "no answer"}, nil },
		}}
		time.AfterFunc(2*time.Second, cancel)
		outcomes := Run(ctx, y, []Check{
			{From: "n1", Attempts: []Attempt{{Target: "good"}}},
			{From: "n1", Attempts: []Attempt{{Target: "bad"}}},
			{From: "n1", Attempts: []Attempt{{Target: "good"}}},
		}, func(Outcome) {})
		if len(outcomes) != 1 || y.asked["good"] != 1 {
			t.Errorf("%d outcomes, asked %v", len(outcomes), y.asked)
		}
	})
}
