// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// history is what clients did with addresses, with the times at which they
// began and were answered.
type history struct {
	begin time.Time
	mu    sync.Mutex
	ops   []porcupine.Operation
}

func newHistory() *history { return &history{begin: time.Now()} }

// holding is the input of an operation on one address.
type holding struct {
	addr    netip.Addr
	handle  string
	release bool
}

func (h *history) now() int64 { return int64(time.Since(h.begin)) }

// note adds an operation of a client that began at the given time and ends
// now.
func (h *history) note(client int, what holding, began int64) {
	ended := h.now()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: what, Call: began, Return: ended})
}

// owner is what an address is: free, "", or held under one handle. It is
// assigned only while free, and released only by its holder.
var owner = porcupine.Model{
	Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
		byAddr := map[netip.Addr][]porcupine.Operation{}
		for _, op := range all {
			addr := op.Input.(holding).addr
			byAddr[addr] = append(byAddr[addr], op)
		}
		parts := make([][]porcupine.Operation, 0, len(byAddr))
		for _, part := range byAddr {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, input, _ any) (bool, any) {
		in := input.(holding)
		if in.release {
			return state == in.handle, ""
		}
		return state == "", in.handle
	},
	DescribeOperation: func(input, _ any) string {
		in := input.(holding)
		if in.release {
			return fmt.Sprintf("release %s of %s", in.addr, in.handle)
		}
		return fmt.Sprintf("assign %s to %s", in.addr, in.handle)
	},
}

// linearizable says whether every address had one holder at a time.
func (h *history) linearizable() porcupine.CheckResult {
	h.mu.Lock()
	defer h.mu.Unlock()
	return porcupine.CheckOperationsTimeout(owner, h.ops, 2*time.Minute)
}

// TestHistoryChecker checks the checker with histories made by hand.
func TestHistoryChecker(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.1")
	assign := func(handle string, from, to int64) porcupine.Operation {
		return porcupine.Operation{Input: holding{addr, handle, false}, Call: from, Return: to}
	}
	release := func(handle string, from, to int64) porcupine.Operation {
		return porcupine.Operation{Input: holding{addr, handle, true}, Call: from, Return: to}
	}
	for name, c := range map[string]struct {
		ops  []porcupine.Operation
		good bool
	}{
		"one after the other":            {[]porcupine.Operation{assign("a", 0, 1), release("a", 2, 3), assign("b", 4, 5)}, true},
		"given while its release runs":   {[]porcupine.Operation{assign("a", 0, 1), release("a", 2, 9), assign("b", 4, 5)}, true},
		"given while held":               {[]porcupine.Operation{assign("a", 0, 1), assign("b", 4, 5), release("a", 6, 7)}, false},
		"given twice at once":            {[]porcupine.Operation{assign("a", 0, 9), assign("b", 0, 9)}, false},
		"given before its release began": {[]porcupine.Operation{assign("a", 0, 1), release("a", 6, 9), assign("b", 4, 5)}, false},
	} {
		if got := porcupine.CheckOperations(owner, c.ops); got != c.good {
			t.Errorf("%s: %v, want %v", name, got, c.good)
		}
	}
}
