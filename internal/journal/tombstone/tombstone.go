// SPDX-License-Identifier: Apache-2.0

// Package tombstone is how a DEL reaches an agent that does not answer: an
// empty file named after the attachment. The plugin writes it and answers
// success; the agent honours it later. An empty file is made in one step and
// cannot be half written.
//
// The plugin links it: it depends on nothing but the file system.
package tombstone

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
)

// dirName is the directory of tombstones below the run directory.
const dirName = "tombstones"

// separator stands between container id and interface name in a file's name;
// neither can hold it.
const separator = ":"

// Dir is the directory of tombstones of the agent whose files are in run,
// usually /run/ocicat.
func Dir(run string) string { return filepath.Join(run, dirName) }

// Tombstone says that an attachment was deleted while nobody served it.
type Tombstone struct {
	ID   cniwire.ID
	Time time.Time // of the last DEL
}

// Write leaves a tombstone for id in dir and makes dir if need be. Writing it
// again renews its time.
func Write(dir string, id cniwire.ID) error {
	if err := errors.Join(cniwire.CheckContainerID(id.ContainerID), cniwire.CheckIfName(id.IfName)); err != nil {
		return fault.New(fault.Invalid, "leave a tombstone for %q: %w", cniwire.Short(id.String()), err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fault.New(fault.Unavailable, "leave a tombstone: %w", err)
	}
	path := filepath.Join(dir, id.ContainerID+separator+id.IfName)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fault.New(fault.Unavailable, "leave a tombstone: %w", err)
	}
	// The file's being there is what counts; its time is for the reader.
	now := time.Now()
	_ = os.Chtimes(path, now, now)
	return f.Close()
}

// List returns the tombstones in dir, sorted by name. A directory that
// does not exist has none; files of other names are left alone.
func List(dir string) ([]Tombstone, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.New(fault.Internal, "list tombstones: %w", err)
	}
	var found []Tombstone
	for _, e := range entries {
		id, ok := parse(e.Name())
		if !ok {
			continue
		}
		t := Tombstone{ID: id}
		if info, err := e.Info(); err == nil {
			t.Time = info.ModTime()
		}
		found = append(found, t)
	}
	return found, nil
}

// Has reports whether id has a tombstone in dir.
func Has(dir string, id cniwire.ID) bool {
	_, err := os.Lstat(filepath.Join(dir, id.ContainerID+separator+id.IfName))
	return err == nil
}

// Remove takes the tombstone of id away; that there is none is no error. Do
// it once the deletion is in the journal and before an ADD of the same id is
// served: a later tombstone has the same name.
func Remove(dir string, id cniwire.ID) error {
	err := os.Remove(filepath.Join(dir, id.ContainerID+separator+id.IfName))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fault.New(fault.Internal, "remove tombstone: %w", err)
	}
	return nil
}

func parse(name string) (cniwire.ID, bool) {
	container, ifName, ok := strings.Cut(name, separator)
	id := cniwire.ID{ContainerID: container, IfName: ifName}
	ok = ok && cniwire.CheckContainerID(container) == nil && cniwire.CheckIfName(ifName) == nil
	return id, ok
}
