// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/agent"
	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/statefile"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// disk is a small file system that can be filled and made read-only.
type disk struct {
	t   *testing.T
	dir string
}

func newDisk(t *testing.T, options string) *disk {
	t.Helper()
	d := &disk{t, t.TempDir()}
	if err := unix.Mount("ocicat-test", d.dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(d.dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return d
}

// fill takes all space, and all inodes.
func (d *disk) fill() {
	d.t.Helper()
	f, err := os.Create(filepath.Join(d.dir, "filler"))
	if err != nil {
		d.t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if f.Close(); !errors.Is(err, unix.ENOSPC) {
		d.t.Fatal(err)
	}
	for i := 0; ; i++ {
		err := os.WriteFile(filepath.Join(d.dir, fmt.Sprint("filler-", i)), nil, 0o600)
		if errors.Is(err, unix.ENOSPC) {
			return
		}
		if err != nil {
			d.t.Fatal(err)
		}
	}
}

func (d *disk) free() {
	d.t.Helper()
	fillers, err := filepath.Glob(filepath.Join(d.dir, "filler*"))
	if err != nil {
		d.t.Fatal(err)
	}
	for _, path := range fillers {
		if err := os.Remove(path); err != nil {
			d.t.Fatal(err)
		}
	}
}

func (d *disk) readOnly(ro bool) {
	d.t.Helper()
	flags := uintptr(unix.MS_REMOUNT)
	if ro {
		flags |= unix.MS_RDONLY
	}
	if err := unix.Mount("ocicat-test", d.dir, "tmpfs", flags, ""); err != nil {
		d.t.Fatal(err)
	}
}

// says waits until the agent reports code, or reports it no more.
func (n *node) says(code string, want bool) {
	n.t.Helper()
	nstest.Eventually(n.t, 10*time.Second, func() bool {
		for _, p := range n.agent.Report().Status.Problems {
			if p.Code == code {
				return want
			}
		}
		return !want
	}, code, " reported: ", want)
}

// settled waits until the datastore holds as many pods' handles as there are
// pods, and returns how many are too many or too few in the end.
func (n *node) settled(pods int) int {
	n.t.Helper()
	nstest.Eventually(n.t, 10*time.Second, func() bool { return len(n.handles()) == pods }, pods, " handles in the datastore")
	return len(n.handles()) - pods
}

func TestFullRunDirectory(t *testing.T) {
	r := chaos.Begin(t, "A20", "run directory on a tmpfs of 256 KiB and 24 inodes, full", "ADD refused before it takes anything, DEL works, restart works, 0 leaked")
	d := newDisk(t, "size=256k,nr_inodes=24")
	n := newNode(t)
	n.cfg.RunDir = d.dir
	n.start()
	var pods []*pod
	var given []cniwire.AddResult
	for i := range 4 {
		p := n.pod(fmt.Sprint("p", i), fmt.Sprintf("before%d", i))
		given = append(given, n.add(p))
		pods = append(pods, p)
	}
	n.settled(len(pods))
	d.fill()
	refused := 0
	for i := range 200 {
		p := n.pod("late", fmt.Sprintf("late%03d", i))
		_, err := n.agent.Add(t.Context(), p.req)
		if err == nil {
			n.del(p)
			continue
		}
		if refused++; !fault.Is(err, fault.Unavailable) || !strings.Contains(fault.HintOf(err), "Free space") {
			t.Fatalf("ADD on a full disk: %v (%s)", err, fault.HintOf(err))
		}
		if refused == 3 {
			break
		}
	}
	if refused == 0 {
		t.Error("no ADD was refused")
	}
	n.del(pods[0])
	leaked := n.settled(len(pods) - 1)
	n.stop()
	n.start()
	if diff := cmp.Diff(given[1], n.add(pods[1]), cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
		t.Errorf("ADD repeated after the restart (-first +again):\n%s", diff)
	}
	n.del(pods[1])
	leaked += n.settled(len(pods) - 2)
	d.free()
	n.add(n.pod("after", "after"))
	leaked += n.settled(len(pods) - 1)
	r.Measuredf("%d of %d ADDs refused with what to do, %d of 2 DELs failed, restart on the full disk served, %d addresses leaked", refused, refused, 0, leaked)
}

func TestFullAndReadOnlyStateDirectory(t *testing.T) {
	for _, how := range []string{"full", "read-only"} {
		t.Run(how, func(t *testing.T) {
			r := chaos.Begin(t, "F6", "state directory on a tmpfs, "+how, "OC4011, ADD, DEL and restart work, over when there is room")
			d := newDisk(t, "size=64k,nr_inodes=6")
			n := newNode(t)
			n.cfg.StateDir = d.dir
			n.start()
			first := n.pod("a", "first")
			n.add(first)
			n.settled(1)
			if how == "full" {
				d.fill()
			} else {
				nstest.Eventually(t, 5*time.Second, func() bool { return unixReadOnly(d) == nil }, "no file open for writing")
			}
			second := n.pod("b", "second")
			n.add(second)
			n.agent.TouchCopy()
			n.says("OC4011", true)
			n.del(first)
			n.settled(1)
			n.stop()
			n.start()
			n.add(n.pod("c", "third"))
			n.del(second)
			n.settled(1)
			if how == "full" {
				d.free()
			} else {
				d.readOnly(false)
			}
			n.agent.TouchCopy()
			n.says("OC4011", false)
			if _, err := statefile.LocalCopy.Read(filepath.Join(d.dir, "datastore.json")); err != nil {
				t.Error(err)
			}
			r.Measuredf("OC4011 reported and taken back; 3 of 3 ADDs, 2 of 2 DELs, 1 of 1 restart served")
		})
	}
}

// unixReadOnly makes the disk read-only if nobody writes to it just now.
func unixReadOnly(d *disk) error {
	return unix.Mount("ocicat-test", d.dir, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

// TestFirstStartOnFullDisks says which directory is full.
func TestFirstStartOnFullDisks(t *testing.T) {
	r := chaos.Begin(t, "A20", "first start with run or state directory full or read-only", "one clear error, nothing left in the kernel")
	n := newNode(t)
	run, state := n.cfg.RunDir, n.cfg.StateDir
	clear := 0
	for _, spoil := range []func(*disk){(*disk).fill, func(d *disk) { d.readOnly(true) }} {
		d := newDisk(t, "size=64k,nr_inodes=6")
		spoil(d)
		for _, dirs := range [][2]string{{d.dir, state}, {run, d.dir}} {
			n.cfg.RunDir, n.cfg.StateDir = dirs[0], dirs[1]
			a, err := agent.New(n.cfg)
			if a != nil || err == nil || !strings.Contains(err.Error(), d.dir) || fault.HintOf(err) == "" {
				t.Errorf("start with %v: %v (%s)", dirs, err, fault.HintOf(err))
				continue
			}
			t.Logf("%v (%s)", err, fault.HintOf(err))
			clear++
		}
	}
	r.Measuredf("%d of 4 starts refused, each naming the directory and what to do", clear)
}
