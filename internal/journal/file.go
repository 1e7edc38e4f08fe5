// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
)

// The file starts with a line that names format and version, with eight hex
// digits of CRC-32C of both, and goes on with one line per record: the same of
// the JSON, a blank, the JSON. A record leaves in one write, so a crash leaves
// at most a last line without its end. The first line is the same in all
// versions; that of the first had no checksum.
const (
	magic   = "ocicat-journal "
	version = 2
	first   = magic + "1"
)

// Sizes, in bytes.
const (
	maxRecord = 64 << 10 // longer lines are damage
	// slack is set aside behind the end, and perRecord more for each live
	// attachment, so that their DELs can be written on a full disk.
	slack = 16 << 10
	// history is how long a file may become before compacting it is
	// considered, perRecord what a live record is reckoned with.
	history   = 256 << 10
	perRecord = 1 << 10
)

// record is one line's JSON: one of the two is set.
type record struct {
	Put    *Attachment         `json:"put,omitempty"`
	Forget *cluster.EndpointID `json:"forget,omitempty"`
}

// file is the journal's file, open for appending at size.
type file struct {
	path string
	f    *os.File
	size int64 // of the good content
}

// load reads the journal at path and opens it for appending. What cannot be
// read is copied to path.damaged before the file is rewritten without it.
func load(path string) (map[cluster.EndpointID]Attachment, *file, Condition, error) {
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, Missing, fault.New(fault.Internal, "read journal: %w", err)
	}
	state, condition, err := parse(content)
	if err != nil {
		return nil, nil, condition, fmt.Errorf("read journal %s: %w", path, err)
	}
	file := &file{path: path}
	if condition == Whole {
		err = file.reopen(int64(len(content)))
		return state, file, condition, err
	}
	if condition == Salvaged {
		// For whoever wants to see what happened; the agent goes on without it.
		_ = os.WriteFile(path+".damaged", content, 0o600)
	}
	if err := file.rewrite(sorted(state)); err != nil {
		return nil, nil, condition, err
	}
	return state, file, condition, nil
}

// parse reads a journal's content: what its records amount to, and how good
// they were. Its only error is a version it must not touch.
func parse(content []byte) (map[cluster.EndpointID]Attachment, Condition, error) {
	state := map[cluster.EndpointID]Attachment{}
	if len(content) == 0 {
		return state, Missing, nil
	}
	head, rest, whole := bytes.Cut(content, []byte("\n"))
	n, known := headVersion(string(head))
	if known && n > version {
		return nil, Salvaged, fault.Hint(fault.New(fault.Unsupported, "its version is %d, this ocicatd understands %d", n, version),
			"A newer Ocicat ran on this node: start that one again, or drain the node and remove the file.")
	}
	condition := Whole
	if !whole || !known {
		condition = Salvaged
	}
	for len(rest) > 0 {
		var line []byte
		line, rest, whole = bytes.Cut(rest, []byte("\n"))
		r, ok := decode(line)
		switch {
		case ok:
			r.apply(state)
			if !whole {
				condition = max(condition, Torn)
			}
		case whole:
			condition = Salvaged
		default:
			condition = max(condition, Torn)
		}
	}
	return state, condition, nil
}

// headVersion reads the first line, and says whether it is one.
func headVersion(line string) (int, bool) {
	if line == first {
		return 1, true
	}
	text, sum, ok := strings.Cut(strings.TrimPrefix(line, magic), " ")
	n, err := strconv.Atoi(text)
	return n, ok && err == nil && sum == checksum([]byte(magic+text))
}

func headLine(version int) string {
	text := magic + strconv.Itoa(version)
	return text + " " + checksum([]byte(text)) + "\n"
}

func (r record) apply(state map[cluster.EndpointID]Attachment) {
	if r.Put != nil {
		state[r.Put.ID()] = *r.Put
	} else {
		delete(state, *r.Forget)
	}
}

// decode reads one line without its end.
func decode(line []byte) (record, bool) {
	var r record
	sum, body, ok := bytes.Cut(line, []byte(" "))
	if !ok || len(line) > maxRecord || string(sum) != checksum(body) {
		return r, false
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return r, false
	}
	if (r.Put == nil) == (r.Forget == nil) {
		return r, false
	}
	return r, r.Put == nil || r.Put.check() == nil
}

func (r record) encode() ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fault.New(fault.Internal, "encode: %w", err)
	}
	line := append([]byte(checksum(body)+" "), body...)
	if len(line) > maxRecord {
		return nil, fault.New(fault.Invalid, "record has %d bytes, at most %d are possible", len(line), maxRecord)
	}
	return append(line, '\n'), nil
}

func checksum(body []byte) string {
	return fmt.Sprintf("%08x", crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
}

// append writes one record; unless spare is 0, only if as many bytes more
// could be written behind it. After an error the file holds what it held
// before.
func (f *file) append(line []byte, spare int64) error {
	if spare > 0 {
		if err := f.reserve(int64(len(line)) + spare); err != nil {
			return outOfSpace(err)
		}
	}
	if _, err := f.f.WriteAt(line, f.size); err != nil {
		// The half-written rest is cut off; where even that fails, the next
		// record overwrites it or a start drops it.
		_ = f.f.Truncate(f.size)
		return outOfSpace(err)
	}
	f.size += int64(len(line))
	return nil
}

// spare is how much to set aside while there are so many live attachments.
func spare(live int) int64 { return slack + perRecord*int64(live) }

// reserve makes sure that n bytes behind the end can be written. File systems
// that cannot reserve are none that /run is on.
func (f *file) reserve(n int64) error {
	err := unix.Fallocate(int(f.f.Fd()), unix.FALLOC_FL_KEEP_SIZE, f.size, n)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

func outOfSpace(err error) error {
	return fault.Hint(fault.New(fault.Unavailable, "%w", err), "Free space in the run directory, or make it writable: df /run; df -i /run.")
}

// worth says whether rewriting the file with live records would shrink it.
func (f *file) worth(live int) bool {
	return f.size > history && f.size > 4*perRecord*int64(live)
}

// rewrite replaces the file by one that holds just the given attachments, in
// one step. After an error the old file is still in use.
func (f *file) rewrite(attachments []Attachment) error {
	content := []byte(headLine(version))
	for _, a := range attachments {
		line, err := record{Put: &a}.encode()
		if err != nil {
			return err
		}
		content = append(content, line...)
	}
	fresh := f.path + ".new"
	if err := os.WriteFile(fresh, content, 0o600); err != nil {
		_ = os.Remove(fresh) // what keeps it from going has kept us from writing
		return outOfSpace(err)
	}
	next := &file{path: fresh}
	if err := next.reopen(int64(len(content))); err != nil {
		return err
	}
	// On a full disk the next Intent is refused for it, which is soon enough.
	_ = next.reserve(spare(len(attachments)))
	if err := os.Rename(fresh, f.path); err != nil {
		return fault.New(fault.Internal, "%w", errors.Join(err, next.close(), os.Remove(fresh)))
	}
	old := f.f
	f.f, f.size = next.f, next.size
	if old != nil {
		old.Close()
	}
	return nil
}

// reopen opens the file for writing behind its first size bytes.
func (f *file) reopen(size int64) error {
	opened, err := os.OpenFile(f.path, os.O_WRONLY, 0o600)
	if err != nil {
		return fault.New(fault.Internal, "open journal: %w", err)
	}
	f.f, f.size = opened, size
	return nil
}

func (f *file) close() error { return f.f.Close() }

func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", outOfSpace(err))
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		return nil, fault.Hint(fault.New(fault.Conflict, "another ocicatd on this node, process %s, holds %s", owner(f), path), "Stop the other one first.")
	}
	return f, nil
}

// owner is the process that holds the lock on f, as the kernel lists it
// (proc_locks(5)); "unknown" for one outside of our PID namespace.
func owner(f *os.File) string {
	var stat unix.Stat_t
	locks, err := os.ReadFile("/proc/locks")
	if err != nil || unix.Fstat(int(f.Fd()), &stat) != nil {
		return "unknown"
	}
	inode := ":" + strconv.FormatUint(stat.Ino, 10)
	for line := range strings.Lines(string(locks)) {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[1] != "FLOCK" || !strings.HasSuffix(fields[5], inode) {
			continue
		}
		if pid, err := strconv.Atoi(fields[4]); err == nil && pid > 0 {
			return fields[4]
		}
	}
	return "unknown"
}
