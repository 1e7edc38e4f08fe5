// SPDX-License-Identifier: Apache-2.0

package agent

import "time"

// Telling reports whether a kernel event would start a pass.
var Telling = (*Agent).telling

// ReplaceFilter puts another edge in the place of nftables, before Run.
func (a *Agent) ReplaceFilter(other func(nftables) nftables) { a.filter.nft = other(a.filter.nft) }

// Nftables is the edge that holds the packet filter.
type Nftables = nftables

// TouchCopy has the local copy of the datastore written again.
func (a *Agent) TouchCopy() { a.resources.wantCopy() }

// StartGate holds readiness back at the start, for StartWindow at most.
type StartGate struct{ gate startGate }

// Pass is the gate's answer at an age of the agent.
func (g *StartGate) Pass(age time.Duration, converging func() error) error {
	return g.gate.pass(age, converging)
}

// StartWindow is how long the start may hold readiness back.
const StartWindow = startWindow

// StuckAfter has loops count as stuck after d, before Run.
func (a *Agent) StuckAfter(d time.Duration) { a.beats.StuckAfter = d }

// HintFilter starts a pass over the packet filter.
func (a *Agent) HintFilter() { a.loop.Mark(sectionFilter) }
