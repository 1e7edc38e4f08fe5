// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// base is what time.Now adds to the seconds since 1970: those from 1885 on,
// which it counts from. In the machine code it stands as a number of 32 bits.
const base = 2682288000

// wall is the wall clock of a running agent. It jumps by another base in the
// code of the agent's time.Now: the kernel's own clock, everybody's, stays.
type wall struct {
	t       *testing.T
	pid     int
	address int64 // of the number
}

// newWall finds the number in the program of a running process.
func newWall(t *testing.T, program string, pid int) *wall {
	t.Helper()
	file, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	symbols, err := file.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	for _, symbol := range symbols {
		if symbol.Name != "time.Now" {
			continue
		}
		w := &wall{t, pid, int64(symbol.Value)}
		code := make([]byte, symbol.Size)
		memory := w.memory(os.O_RDONLY)
		defer memory.Close()
		if _, err := memory.ReadAt(code, w.address); err != nil {
			t.Fatal(err)
		}
		number := binary.LittleEndian.AppendUint32(nil, base)
		at := bytes.Index(code, number)
		if at < 0 || bytes.Count(code, number) != 1 {
			t.Fatalf("time.Now does not hold %d once: % x", base, code)
		}
		w.address += int64(at)
		return w
	}
	t.Fatalf("%s: no symbol time.Now", program)
	return nil
}

func (w *wall) memory(flag int) *os.File {
	w.t.Helper()
	memory, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", w.pid), flag, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	return memory
}

// jump makes the clock differ by that much from the true one. The process
// stands still for the moment of the change.
func (w *wall) jump(by time.Duration) {
	w.t.Helper()
	memory := w.memory(os.O_RDWR)
	defer memory.Close()
	if err := syscall.Kill(w.pid, syscall.SIGSTOP); err != nil {
		w.t.Fatal(err)
	}
	_, err := memory.WriteAt(binary.LittleEndian.AppendUint32(nil, uint32(base+int64(by.Seconds()))), w.address)
	if err := syscall.Kill(w.pid, syscall.SIGCONT); err != nil {
		w.t.Fatal(err)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// TestClockJumps has the agent's wall clock jump while it works.
func TestClockJumps(t *testing.T) {
	rounds := chaos.Scale(0, 11)
	r := chaos.Begin(t, "F3", fmt.Sprintf("wall clock of the running agent jumps by +1 h, -1 h, -10 years and back, over %d keepalives", 4*rounds+1), "0 flaps, 0 lost, lease right, ADD and DEL work")
	s := newScene(t)
	before, f := s.session(), s.flow()
	client := admin.Dial(s.AdminSocket(master))
	w := newWall(t, filepath.Join(s.Bin, "ocicatd"), s.agentPID())
	report := func() (clock time.Time, lease float64) {
		status, err := client.Report(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return status.Status.Heartbeat, status.Status.Counts.ReserveLeaseSeconds
	}
	_, first := report()
	start := time.Now()
	lowest, highest := first, first
	for i, by := range []time.Duration{time.Hour, -time.Hour, -10 * 365 * 24 * time.Hour, 0} {
		w.jump(by)
		clock, _ := report()
		if seen := time.Until(clock).Round(time.Minute); seen != by {
			t.Errorf("the agent's clock differs by %s, want %s", seen, by)
		}
		name := fmt.Sprint("jump", i)
		if err := s.add(name); err != nil {
			t.Errorf("ADD after a jump to %s: %v", by, err)
		}
		s.del(name)
		s.heard(rounds)
		_, lease := report()
		lowest, highest = min(lowest, lease), max(highest, lease)
	}
	s.heard(1)
	if lowest < first-time.Since(start).Seconds()-60 || highest > 3600 {
		t.Errorf("lease between %.0f and %.0f s, began with %.0f", lowest, highest, first)
	}
	flaps := s.same(before)
	sent, lost := f.End()
	if lost != 0 {
		t.Errorf("%d of %d packets lost", lost, sent)
	}
	r.Measuredf("%d flaps; %d of %d packets lost; lease %.0f to %.0f s; 4 of 4 ADDs and DELs", flaps, lost, sent, lowest, highest)
	r.Twinf("the times the agent reports jumped by as much")
}
