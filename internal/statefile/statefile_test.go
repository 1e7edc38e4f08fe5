// SPDX-License-Identifier: Apache-2.0

package statefile

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// TestEveryByte cuts a file off behind every byte, and flips every bit: what
// is read is what was written, or an error that says so.
func TestEveryByte(t *testing.T) {
	r := chaos.Begin(t, "A21", "small state file cut off behind every byte, every bit flipped", "0 taken for good, 0 taken for newer")
	path := filepath.Join(t.TempDir(), "lease")
	body := []byte(`{"version":1,"held":["172.16.196.1"],"counter":17}`)
	if err := Lease.Write(path, body, false); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tried, wrong, bare := 0, 0, 0
	try := func(content []byte) {
		tried++
		if _, err := Lease.parse(content); !errors.Is(err, ErrDamaged) {
			wrong++
			t.Errorf("%q: %v", content, err)
		}
		// The twin: JSON without the first line, as it was before.
		if _, after, _ := bytes.Cut(content, []byte("\n")); len(after) > 0 && !bytes.Equal(after, body) && isJSON(after) {
			bare++
		}
	}
	for n := range good {
		try(good[:n])
		for bit := range 8 {
			flipped := bytes.Clone(good)
			flipped[n] ^= 1 << bit
			try(flipped)
		}
	}
	r.Measuredf("%d of %d taken for good or newer", wrong, tried)
	r.Twinf("without the checksum %d of %d taken for good", bare, tried)
	if bare == 0 {
		t.Error("the twin does not show the fault")
	}
	if got, err := Lease.Read(path); err != nil || !bytes.Equal(got, body) {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestVersions(t *testing.T) {
	r := chaos.Begin(t, "A21", "small state files of a newer and of the first version", "newer refused with a remedy, older read")
	dir := t.TempDir()
	for _, f := range []Format{Instance, LocalCopy, Lease, Restart} {
		path := filepath.Join(dir, f.Name)
		if _, err := f.Read(path); !errors.Is(err, fs.ErrNotExist) || f.Check(path) != nil {
			t.Errorf("%s: nothing there: %v", f.Name, err)
		}
		newer := f
		newer.Version++
		if err := newer.Write(path, []byte("tomorrow's"), true); err != nil {
			t.Fatal(err)
		}
		err := f.Check(path)
		if !fault.Is(err, fault.Unsupported) || !strings.Contains(err.Error(), path+": its version is 3, this ocicatd understands 2") || !strings.Contains(fault.HintOf(err), "delete the file") {
			t.Errorf("newer %s: %v (%s)", f.Name, err, fault.HintOf(err))
		}
		old := `{"version":1}`
		if f.Name == "instance" {
			old = strings.Repeat("a1", 16) + "\n"
		}
		if err := os.WriteFile(path, []byte(old), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := f.Read(path); err != nil || string(got) != old || f.Check(path) != nil {
			t.Errorf("older %s: %q, %v", f.Name, got, err)
		}
	}
	r.Measuredf("4 of 4 newer refused, 4 of 4 older read")
}

// TestWriteFails keeps the old content on a full disk, and leaves nothing.
func TestWriteFails(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	r := chaos.Begin(t, "A20", "small state file on a tmpfs of 64 KiB and 6 inodes, full", "old content kept, 0 torn, 0 left behind")
	dir := t.TempDir()
	if err := unix.Mount("ocicat-test", dir, "tmpfs", 0, "size=64k,nr_inodes=6"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "lease")
	if err := Lease.Write(path, []byte("old"), false); err != nil {
		t.Fatal(err)
	}
	if err := Lease.Write(path, make([]byte, 128<<10), false); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("too large: %v", err)
	}
	for _, name := range []string{"a", "b", "c", "d"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Lease.Write(path, []byte("new"), false); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("no inode: %v", err)
	}
	if got, err := Lease.Read(path); err != nil || string(got) != "old" {
		t.Errorf("read %q, %v", got, err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 5 {
		t.Errorf("left: %v, %v", left, err)
	}
	r.Measuredf("old content read after 2 of 2 failures, 0 files left behind")
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("ocicat-lease 2 00000000\n{}"))
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		body, err := Lease.parse(content)
		if err == nil && !bytes.HasSuffix(content, body) {
			t.Errorf("%q read as %q", content, body)
		}
	})
}
