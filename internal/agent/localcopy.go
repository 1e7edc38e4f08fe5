// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
)

// localCopyVersion is the version of the file's format. A reader refuses a
// newer one.
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
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return localCopy{}, false, nil
	}
	if err != nil {
		return localCopy{}, false, fault.New(fault.Internal, "read local copy: %w", err)
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return localCopy{}, false, nil
	}
	if c.Version > localCopyVersion {
		return localCopy{}, false, fault.Hint(fault.New(fault.Unsupported, "local copy %s has version %d, this agent reads up to %d", path, c.Version, localCopyVersion),
			"A newer version of Ocicat wrote it. Install that version again, or delete the file while the datastore answers.")
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
	if err := replaceFile(path, raw); err != nil {
		return fault.New(fault.Internal, "write local copy: %w", err)
	}
	return nil
}

// replaceFile writes a temporary file beside path, syncs and renames it.
func replaceFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
