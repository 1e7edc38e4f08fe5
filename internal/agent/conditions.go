// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ocicat-net/ocicat/api/meta"
	v1 "github.com/ocicat-net/ocicat/api/v1"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// The reasons of a node's conditions where nothing is wrong, or nothing is
// known to be; else it is the code of the first problem.
const (
	reasonServing     = "Serving"
	reasonStarting    = "Starting"
	reasonEstablished = "AllEstablished"
	reasonNoPeers     = "NoPeers"
	reasonConnecting  = "Connecting"
	reasonUsable      = "Usable"
	reasonHeld        = "BlocksHeld"
	reasonNoneHeld    = "NoneHeld"
)

// poolCodes and blockCodes are the problems that make PoolsUsable and
// BlocksAvailable false.
var (
	poolCodes  = []problem.Code{problem.PoolOverlap, problem.PoolsOverlap, problem.NoPool, problem.PoolSelector, problem.EncapUnsupported}
	blockCodes = []problem.Code{problem.NoFreeAddress, problem.AddressTaken}
)

// conditionsOf sums a report up, after what was said before. notReady is why
// the node cannot take pods, nil if it can.
func conditionsOf(r v1.NodeReport, notReady error, before []meta.Condition, now time.Time) []meta.Condition {
	ready := meta.Condition{Type: v1.ConditionReady, Status: meta.ConditionTrue, Reason: reasonServing, Message: "the node can take pods"}
	if notReady != nil {
		ready.Status, ready.Reason, ready.Message = meta.ConditionFalse, reasonStarting, notReady.Error()
	}
	pools := meta.Condition{Type: v1.ConditionPools, Status: meta.ConditionTrue, Reason: reasonUsable, Message: "every pool for this node can be used"}
	fail(&pools, r.Problems, poolCodes)
	blocks := meta.Condition{Type: v1.ConditionBlocks, Status: meta.ConditionTrue, Reason: reasonHeld, Message: fmt.Sprintf("%d held", len(r.Blocks))}
	if len(r.Blocks) == 0 {
		blocks.Reason, blocks.Message = reasonNoneHeld, "none held yet"
	}
	fail(&blocks, r.Problems, blockCodes)
	conditions := []meta.Condition{ready, sessionsCondition(r), pools, blocks}
	for i, wanted := range conditions {
		_, conditions[i], _ = meta.WithCondition(before, wanted, now)
	}
	return conditions
}

func sessionsCondition(r v1.NodeReport) meta.Condition {
	c := meta.Condition{Type: v1.ConditionSessions, Status: meta.ConditionTrue, Reason: reasonEstablished}
	var down []string
	for _, s := range r.Sessions {
		if s.State != string(speaker.Established) {
			down = append(down, strings.TrimSpace(s.Name+" "+s.Peer))
		}
	}
	c.Message = fmt.Sprintf("%d of %d established", len(r.Sessions)-len(down), len(r.Sessions))
	switch {
	case len(r.Sessions) == 0:
		c.Reason, c.Message = reasonNoPeers, "no peer is configured"
	case len(down) > 0:
		c.Status, c.Reason = meta.ConditionFalse, reasonConnecting
		c.Message += "; not: " + strings.Join(down, ", ")
		if slices.ContainsFunc(r.Problems, func(p v1.Problem) bool { return p.Code == string(problem.SessionDown) }) {
			c.Reason = string(problem.SessionDown)
		}
	}
	return c
}

// fail makes a condition false if there is a problem of one of codes.
func fail(c *meta.Condition, problems []v1.Problem, codes []problem.Code) {
	var texts []string
	for _, p := range problems {
		if !slices.Contains(codes, problem.Code(p.Code)) {
			continue
		}
		if len(texts) == 0 {
			c.Status, c.Reason = meta.ConditionFalse, p.Code
		}
		texts = append(texts, p.Code+": "+p.Text+". "+p.Remedy)
	}
	if len(texts) > 0 {
		c.Message = strings.Join(texts, " ")
	}
}
