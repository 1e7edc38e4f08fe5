// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/statefile"
)

// restartFile lies in the state directory, which is on a tmpfs: what it tells
// of, the kernel's routes, does not outlive the kernel either. So it needs no
// fsync; the rename keeps it whole.
const (
	restartFile    = "restart.json"
	restartVersion = 1
)

// restartState is what a speaker leaves for the one after it.
type restartState struct {
	Version int    `json:"version"`
	BootID  string `json:"bootID"` // the boot in which a speaker ran
}

// takeOver says whether a speaker ran before us in this boot, and leaves word
// that we do. A file that cannot be read or understood counts as none: peers
// then drop and relearn our routes, which is right for any past.
func takeOver(dir, bootID string) (restarting bool, err error) {
	if dir == "" || bootID == "" {
		return false, nil
	}
	path := filepath.Join(dir, restartFile)
	restarting, readErr := ranBefore(path, bootID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return restarting, errors.Join(readErr, fault.New(fault.Internal, "make restart state directory: %w", err))
	}
	data, err := json.Marshal(restartState{Version: restartVersion, BootID: bootID})
	if err != nil {
		return restarting, errors.Join(readErr, fmt.Errorf("write restart state: %w", err))
	}
	if err := statefile.Restart.Write(path, data, false); err != nil {
		return restarting, errors.Join(readErr, fmt.Errorf("write restart state: %w", err))
	}
	return restarting, readErr
}

func ranBefore(path, bootID string) (bool, error) {
	data, err := statefile.Restart.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read restart state: %w", err)
	}
	var last restartState
	if err := json.Unmarshal(data, &last); err != nil {
		return false, fmt.Errorf("read restart state %s: %w", path, err)
	}
	return last.Version == restartVersion && last.BootID == bootID, nil
}
