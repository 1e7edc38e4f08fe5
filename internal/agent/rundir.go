// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// runDirCheck is how often the run directory is looked at.
const runDirCheck = 2 * time.Second

// watchRunDir ends the agent when what it works with in the run directory was
// taken away: nobody reaches its doors any more, and what it records is lost.
// The next one finds its pods in the kernel; peers notice nothing.
func (a *Agent) watchRunDir(ctx context.Context) error {
	tick := time.NewTicker(runDirCheck)
	defer tick.Stop()
	seen := map[string]bool{"journal": true} // the doors open a little later
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, name := range []string{"journal", "cni.sock", "admin.sock"} {
			path := filepath.Join(a.cfg.RunDir, name)
			switch _, err := os.Lstat(path); {
			case err == nil:
				seen[name] = true
			case errors.Is(err, os.ErrNotExist) && seen[name] && ctx.Err() == nil:
				return fault.Hint(fault.New(fault.Unavailable, "%s is gone", path), "Start ocicatd again: it finds its pods in the kernel. Find who cleans the run directory.")
			}
		}
	}
}
