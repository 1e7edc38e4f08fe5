// SPDX-License-Identifier: Apache-2.0

// Package localcopy is what an agent knows of the datastore as it lies on disk:
// with it the agent starts, speaks BGP and serves pods while the datastore is
// away, and who removes an agent's routes knows which these can be.
package localcopy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/statefile"
	"github.com/ocicat-net/ocicat/internal/store"
)

// version is the version of what the file says.
const version = 1

// Copy is the content of the file.
type Copy struct {
	Version   int             `json:"version"`
	Node      string          `json:"node"`      // whose it is
	Entries   []Entry         `json:"entries"`   // the resources
	Blocks    []cluster.Block `json:"blocks"`    // the node's own
	PastPools []netip.Prefix  `json:"pastPools"` // of every pool the node ever saw
}

// Entry is a resource as the datastore has it.
type Entry struct {
	Kind  store.Kind      `json:"kind"`
	Name  string          `json:"name"`
	Value json.RawMessage `json:"value"`
}

// Path is the file in an agent's state directory.
func Path(stateDir string) string { return filepath.Join(stateDir, "datastore.json") }

// Read reads the file; ok is false when there is none, or a damaged one: the
// datastore replaces it. A newer one is Unsupported.
func Read(path string) (c Copy, ok bool, err error) {
	raw, err := statefile.LocalCopy.Read(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, statefile.ErrDamaged) {
		return Copy{}, false, nil
	}
	if err != nil {
		return Copy{}, false, fmt.Errorf("read local copy: %w", err)
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return Copy{}, false, nil
	}
	return c, true, nil
}

// Write replaces the file in one step: what is read back is the old copy or
// the new one, never half of either.
func Write(path string, c Copy) error {
	c.Version = version
	raw, err := json.Marshal(c)
	if err != nil {
		return fault.New(fault.Internal, "write local copy: %w", err)
	}
	if err := statefile.LocalCopy.Write(path, raw, true); err != nil {
		return fault.New(fault.Internal, "write local copy: %w", err)
	}
	return nil
}
