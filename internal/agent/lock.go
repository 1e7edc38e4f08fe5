// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/problem"
)

// lockable is a datastore that somebody else may lock, as Calico's migration
// does. It refuses writes of addresses itself while it is locked.
type lockable interface {
	FollowLock(ctx context.Context, changed func(locked bool))
}

// watchLock follows the lock of the datastore.
func (a *Agent) watchLock(ctx context.Context) error {
	a.lock.FollowLock(ctx, func(locked bool) {
		if a.locked.Swap(locked) != locked {
			a.log.Info("datastore lock", "locked", locked)
			a.loop.Mark(sectionStatus)
		}
	})
	return nil
}

// unlocked refuses a pod that is new while the datastore is locked, also where
// the reserve has an address for it: nobody could write whose it is. A pod that
// has its address gets its answer again.
func (a *Agent) unlocked(req cniwire.AddRequest) error {
	if _, again := a.journal.Get(idOf(req)); again || !a.locked.Load() {
		return nil
	}
	locked := a.lockProblems()[0]
	return fault.Hint(fault.New(fault.Unavailable, "%s", locked.Text), "%s", locked.Remedy)
}

// lockProblems say that the datastore is locked.
func (a *Agent) lockProblems() []problem.Problem {
	if !a.locked.Load() {
		return nil
	}
	return []problem.Problem{problem.New(problem.StoreLocked, "datastore")}
}
