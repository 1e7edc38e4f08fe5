// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/ocicat-net/ocicat/internal/core"
)

// borrowed are the addresses this node announces one by one, as far as known.
type borrowed struct{ atomic.Pointer[[]netip.Addr] }

// borrowedChanged reports whether pods got or lost borrowed addresses since it
// was last asked.
func (a *Agent) borrowedChanged() bool {
	now := core.Borrowed(a.feed.Snapshot())
	before := a.borrowed.Swap(&now)
	if before == nil {
		return len(now) > 0
	}
	return !slices.Equal(*before, now)
}
