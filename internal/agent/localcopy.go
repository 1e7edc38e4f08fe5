// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/statefile"
	"github.com/ocicat-net/ocicat/internal/store"
)

// localCopyVersion is the version of what the file says.
const localCopyVersion = 1

// localCopy is what the agent knew of the datastore, kept on disk so that it
// can start, speak BGP and serve pods while the datastore is away.
type localCopy struct {
	Version   int             `json:"version"`
	Node      string          `json:"node"`
	Entries   []copiedEntry   `json:"entries"`
	Blocks    []cluster.Block `json:"blocks"`
	PastPools []netip.Prefix  `json:"pastPools"`
}

type copiedEntry struct {
	Kind  store.Kind      `json:"kind"`
	Name  string          `json:"name"`
	Value json.RawMessage `json:"value"`
}

// readLocalCopy reads the file; ok is false when there is none. A damaged
// file, or one of another node, is no copy: the datastore replaces it.
func readLocalCopy(path, node string) (c localCopy, ok bool, err error) {
	raw, err := statefile.LocalCopy.Read(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, statefile.ErrDamaged) {
		return localCopy{}, false, nil
	}
	if err != nil {
		return localCopy{}, false, fmt.Errorf("read local copy: %w", err)
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return localCopy{}, false, nil
	}
	return c, c.Node == node, nil
}

// writeLocalCopy replaces the file in one step: what is read back is the old
// copy or the new one, never half of either.
func writeLocalCopy(path string, c localCopy) error {
	c.Version = localCopyVersion
	raw, err := json.Marshal(c)
	if err != nil {
		return fault.New(fault.Internal, "write local copy: %w", err)
	}
	if err := statefile.LocalCopy.Write(path, raw, true); err != nil {
		return fault.New(fault.Internal, "write local copy: %w", err)
	}
	return nil
}
