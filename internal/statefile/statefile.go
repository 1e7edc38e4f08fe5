// SPDX-License-Identifier: Apache-2.0

// Package statefile is how an agent keeps what must outlive it in small files
// that are replaced whole: with a format, a version and a checksum, so that a
// later agent can tell its own file from a damaged one and from a newer one.
// What is in them is their owners' business.
package statefile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// Format is a kind of file. Its first line is "ocicat-NAME VERSION SUM", SUM
// being eight hex digits of CRC-32C over "ocicat-NAME VERSION" and all that
// follows the line; this line is the same in all versions.
type Format struct {
	// Name is a word.
	Name string
	// Version is the one written, and the newest that is read.
	Version int
	// IfNewer says what to do about a file of a newer version.
	IfNewer string
	// Legacy reads what was written before there was a first line, and says
	// whether it is that; nil for never.
	Legacy func(content []byte) bool
}

const newerRan = "A newer Ocicat ran on this node: start that one again, or "

// The formats.
var (
	Instance   = Format{Name: "instance", Version: 2, IfNewer: newerRan + "delete the file; the node then takes its name over again after 3 minutes.", Legacy: isInstance}
	LocalCopy  = Format{Name: "datastore", Version: 2, IfNewer: newerRan + "delete the file while the datastore answers.", Legacy: isJSON}
	Lease      = Format{Name: "lease", Version: 2, IfNewer: newerRan + "delete the file while the datastore answers.", Legacy: isJSON}
	Namespaces = Format{Name: "namespaces", Version: 1, IfNewer: newerRan + "delete the file while the API server answers."}
	Restart    = Format{Name: "restart", Version: 2, IfNewer: newerRan + "delete the file; peers then drop this node's routes until its sessions are up again.", Legacy: isJSON}
)

// ErrDamaged is in the chain of errors about files that are not what was
// written.
var ErrDamaged = errors.New("damaged")

func isInstance(content []byte) bool {
	line := strings.TrimSuffix(string(content), "\n")
	return len(line) == 32 && strings.Trim(line, "0123456789abcdef") == ""
}

// isJSON accepts the first version of files that were JSON alone.
func isJSON(content []byte) bool {
	var head struct {
		Version int `json:"version"`
	}
	return json.Unmarshal(content, &head) == nil && head.Version == 1
}

// Read reads a file. A file that is not there is fs.ErrNotExist; a damaged one
// ErrDamaged; a newer one is Unsupported, with what to do.
func (f Format) Read(path string) ([]byte, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	body, err := f.parse(content)
	if err != nil {
		return nil, fault.Hint(fault.New(fault.KindOf(err), "read state %s: %w", path, err), "%s", fault.HintOf(err))
	}
	return body, nil
}

// Check is the error of a newer file, and nil for every other, damaged ones
// too.
func (f Format) Check(path string) error {
	if _, err := f.Read(path); fault.Is(err, fault.Unsupported) {
		return err
	}
	return nil
}

func (f Format) parse(content []byte) ([]byte, error) {
	if f.Legacy != nil && f.Legacy(content) {
		return content, nil
	}
	line, body, whole := bytes.Cut(content, []byte("\n"))
	fields := strings.Split(string(line), " ")
	if !whole || len(fields) != 3 || fields[0] != "ocicat-"+f.Name {
		return nil, ErrDamaged
	}
	version, err := strconv.Atoi(fields[1])
	if err != nil || fields[2] != sum(fields[0]+" "+fields[1], body) {
		return nil, ErrDamaged
	}
	if version > f.Version {
		return nil, fault.Hint(fault.New(fault.Unsupported, "its version is %d, this ocicatd understands %d", version, f.Version), "%s", f.IfNewer)
	}
	return body, nil
}

func sum(head string, body []byte) string {
	crc := crc32.MakeTable(crc32.Castagnoli)
	return fmt.Sprintf("%08x", crc32.Update(crc32.Checksum([]byte(head), crc), crc, body))
}

// Write replaces a file in one step: what is read back is the old content or
// the new, never half of either. With durable it also outlives a crash of the
// machine when Write has returned.
func (f Format) Write(path string, body []byte, durable bool) error {
	head := "ocicat-" + f.Name + " " + strconv.Itoa(f.Version)
	content := append([]byte(head+" "+sum(head, body)+"\n"), body...)
	if err := replace(path, content, durable); err != nil {
		return fault.New(fault.Internal, "write state: %w", err)
	}
	return nil
}

func replace(path string, content []byte, durable bool) error {
	fresh := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new") // its owner writes a file once at a time
	err := fill(fresh, content, durable)
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		_ = os.Remove(fresh) // what keeps it from going has kept us from writing
		return err
	}
	if !durable {
		return nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func fill(path string, content []byte, durable bool) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if durable {
		err = errors.Join(err, f.Sync())
	}
	return errors.Join(err, f.Close())
}
