// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// stamp is what tells that a file was not touched since it was compared.
type stamp struct {
	dev, ino      uint64
	size          int64
	mode          fs.FileMode
	changed, made time.Duration // ctime and mtime since the epoch
}

// stampOf is the stamp of a regular file; ok is false for none and for what
// is no regular file.
func stampOf(path string) (s stamp, ok bool) {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return stamp{}, false
	}
	return stamp{
		dev: uint64(st.Dev), ino: st.Ino, size: st.Size, mode: fs.FileMode(st.Mode & 0o7777),
		changed: time.Duration(st.Ctim.Nano()), made: time.Duration(st.Mtim.Nano()),
	}, true
}

// fresh is the name under which a file is made before it is moved to path: in
// the same directory, as rename(2) needs it and as runtimes only then notice
// it, and with a name that is neither a configuration's nor a plugin's.
func fresh(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".ocicat-new")
}

// put makes path a regular file of the given content and mode, in one step:
// who opens path gets what was there or the new file whole, also after a
// crash anywhere in between. A program that runs from the old file goes on
// with it. What is right already is not written.
func (i *Installer) put(path string, mode fs.FileMode, content func() (io.ReadCloser, error)) (wrote bool, err error) {
	now, there := stampOf(path)
	if there && now == i.verified[path] {
		return false, nil
	}
	source, err := content()
	if err != nil {
		return false, err
	}
	same := there && now.mode == mode && equal(path, source)
	if err := source.Close(); err != nil {
		return false, err
	}
	if !same {
		return true, i.replace(path, mode, content)
	}
	// A file just changed may change again within the same tick of the clock.
	if time.Now().UnixNano()-int64(now.changed) > int64(clockTick) {
		i.verified[path] = now
	}
	return false, nil
}

// clockTick is longer than two changes of a file can have the same time.
const clockTick = 20 * time.Millisecond

// equal compares a file with a source.
func equal(path string, source io.Reader) bool {
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer file.Close()
	const piece = 64 << 10
	a, b := bufio.NewReaderSize(file, piece), bufio.NewReaderSize(source, piece)
	one, other := make([]byte, piece), make([]byte, piece)
	for {
		n, errA := io.ReadFull(a, one)
		m, errB := io.ReadFull(b, other)
		if !bytes.Equal(one[:n], other[:m]) || ended(errA) != ended(errB) {
			return false
		}
		if errA != nil || errB != nil {
			return ended(errA) && ended(errB)
		}
	}
}

func ended(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// replace writes a new file beside path and moves it there. What a crash left
// of an earlier one is taken away first.
func (i *Installer) replace(path string, mode fs.FileMode, content func() (io.ReadCloser, error)) error {
	temporary := fresh(path)
	i.steps("remove leftover " + path)
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := i.fill(temporary, path, mode, content)
	if err == nil {
		i.steps("rename " + path)
		err = os.Rename(temporary, path)
	}
	if err != nil {
		_ = os.Remove(temporary) // what keeps it from going has kept us from writing
		return err
	}
	i.steps("sync directory of " + path)
	return syncDir(filepath.Dir(path))
}

// fill makes the file temporary and has the disk hold it.
func (i *Installer) fill(temporary, path string, mode fs.FileMode, content func() (io.ReadCloser, error)) error {
	source, err := content()
	if err != nil {
		return err
	}
	defer source.Close()
	i.steps("create " + path)
	file, err := os.OpenFile(temporary, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	i.steps("write " + path)
	_, err = io.Copy(pieces{file, func() { i.steps("write on " + path) }}, source)
	if err == nil {
		i.steps("chmod " + path)
		err = file.Chmod(mode) // whatever the umask
	}
	if err == nil {
		i.steps("sync " + path)
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// pieces writes a file in pieces and says when one is written.
type pieces struct {
	file    *os.File
	written func()
}

// Write writes one piece.
func (p pieces) Write(b []byte) (int, error) {
	n, err := p.file.Write(b)
	p.written()
	return n, err
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
