// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// The kernel's limits of neighbour entries that may go: it looks for old ones
// from the soft limit on and refuses new ones at the hard limit. They are the
// first namespace's, and hold for all namespaces together (Linux 6.18).
const (
	softLimit = "/proc/sys/net/ipv4/neigh/default/gc_thresh2"
	hardLimit = "/proc/sys/net/ipv4/neigh/default/gc_thresh3"
)

// makeRoomForNeighbours raises the limits where a lab of so many nodes would
// exceed them: every node has an entry for every other and the gateway, and
// without one for a peer there is no session. They are never lowered, as
// others may have come to need them.
func makeRoomForNeighbours(nodes int) error {
	need := 2 * nodes * (nodes + 1)
	for _, limit := range []struct {
		path string
		need int
	}{{softLimit, need}, {hardLimit, 2 * need}} {
		text, err := os.ReadFile(limit.path)
		if err != nil {
			return fault.New(fault.Internal, "read limit of neighbour entries: %w", err)
		}
		have, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err == nil && have >= limit.need {
			continue
		}
		if err := os.WriteFile(limit.path, []byte(strconv.Itoa(limit.need)), 0o644); err != nil {
			return fault.Hint(fault.New(fault.Unsupported, "raise limit of neighbour entries to %d: %w", limit.need, err),
				"%s", fmt.Sprintf("A lab of %d nodes needs it: write %d to %s, or make a smaller lab.", nodes, limit.need, limit.path))
		}
	}
	return nil
}
