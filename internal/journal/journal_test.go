// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/test/chaos"
)

func TestStateSurvivesReopening(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir, Missing)
	want := []Attachment{attachment("a", Intent), attachment("b", Attached), attachment("c", Detached)}
	for _, a := range want {
		mustPut(t, j, a)
	}
	mustPut(t, j, attachment("gone", Attached))
	if err := j.Forget(attachment("gone", "").ID()); err != nil {
		t.Fatal(err)
	}
	if err := j.Forget(cluster.EndpointID{ContainerID: "never", IfName: "eth0"}); err != nil {
		t.Errorf("forgetting the unknown: %v", err)
	}
	mustClose(t, j)

	j = mustOpen(t, dir, Whole)
	if diff := diffAttachments(want, j.List()); diff != "" {
		t.Errorf("after reopening (-want +got):\n%s", diff)
	}
	if a, ok := j.Get(want[1].ID()); !ok || a.State != Attached {
		t.Errorf("Get = %+v, %v; want the attached one", a, ok)
	}
	mustClose(t, j)
}

// TestCutAtEveryByte is a crash, or worse, at every place: what was whole
// before it is read, and nothing that was not written.
func TestCutAtEveryByte(t *testing.T) {
	r := chaos.Begin(t, "A21", "journal cut off behind every byte", "every whole record read, 0 others")
	dir := t.TempDir()
	j := mustOpen(t, dir, Missing)
	var ends []int64
	for i := range 4 {
		mustPut(t, j, attachment(fmt.Sprint("c", i), Attached))
		ends = append(ends, j.file.size)
	}
	mustClose(t, j)
	whole := mustRead(t, dir)
	for cut := range len(whole) + 1 {
		state, condition, err := parse(whole[:cut])
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		records, clean := 0, cut == len(headLine(version))
		for _, end := range ends {
			if int64(cut) >= end-1 { // the line's end itself may be missing
				records++
			}
			clean = clean || int64(cut) == end
		}
		if len(state) != records {
			t.Errorf("cut at %d: %d records, want %d", cut, len(state), records)
		}
		if clean != (condition == Whole) {
			t.Errorf("cut at %d: condition %v", cut, condition)
		}
	}
	r.Measuredf("%d cuts, each read up to its last whole record", len(whole)+1)
}

func TestDamageIsSkippedAndReported(t *testing.T) {
	r := chaos.Begin(t, "A21", "journal with every byte damaged in turn", "damage seen, other records read")
	dir := t.TempDir()
	j := mustOpen(t, dir, Missing)
	for i := range 4 {
		mustPut(t, j, attachment(fmt.Sprint("c", i), Attached))
	}
	mustClose(t, j)
	whole := mustRead(t, dir)
	// The last byte is the last line's end: without it the line is whole.
	for i := range len(whole) - 1 {
		damaged := bytes.Clone(whole)
		damaged[i] ^= 0x21
		state, condition, err := parse(damaged)
		if err != nil {
			t.Errorf("byte %d: %v", i, err)
			continue
		}
		if condition == Whole {
			t.Errorf("byte %d: damage was not seen", i)
		}
		if len(state) < 2 {
			t.Errorf("byte %d: %d of 4 records left", i, len(state))
		}
	}

	damaged := bytes.Clone(whole)
	damaged[len(whole)/2] ^= 1
	mustWrite(t, dir, damaged)
	mustClose(t, mustOpen(t, dir, Salvaged))
	if kept, err := os.ReadFile(filepath.Join(dir, "journal.damaged")); err != nil || !bytes.Equal(kept, damaged) {
		t.Errorf("the damaged file was not kept: %v", err)
	}
	mustClose(t, mustOpen(t, dir, Whole))
	r.Measuredf("%d of %d damages seen", len(whole)-1, len(whole)-1)
}

func TestTornTailIsDroppedFromTheFile(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir, Missing)
	mustPut(t, j, attachment("a", Attached))
	mustPut(t, j, attachment("b", Attached))
	mustClose(t, j)
	whole := mustRead(t, dir)
	mustWrite(t, dir, whole[:len(whole)-20])
	j = mustOpen(t, dir, Torn)
	mustPut(t, j, attachment("c", Attached))
	mustClose(t, j)
	j = mustOpen(t, dir, Whole)
	if diff := diffAttachments([]Attachment{attachment("a", Attached), attachment("c", Attached)}, j.List()); diff != "" {
		t.Error(diff)
	}
	mustClose(t, j)
}

func TestNewerVersionIsRefusedAndLeftAlone(t *testing.T) {
	dir := t.TempDir()
	content := []byte(headLine(version+1) + "whatever\n")
	mustWrite(t, dir, content)
	_, _, err := Open(dir)
	if !fault.Is(err, fault.Unsupported) || fault.HintOf(err) == "" {
		t.Errorf("Open = %v, want Unsupported with a hint", err)
	}
	if !bytes.Equal(mustRead(t, dir), content) {
		t.Error("the newer journal was changed")
	}
}

func TestSecondOpenIsRefused(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir, Missing)
	if _, _, err := Open(dir); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), fmt.Sprintf("process %d,", os.Getpid())) {
		t.Errorf("second Open = %v, want Conflict", err)
	}
	mustClose(t, j)
	mustClose(t, mustOpen(t, dir, Whole))
}

func TestBadAttachmentIsRefused(t *testing.T) {
	j := mustOpen(t, t.TempDir(), Missing)
	for _, a := range []Attachment{attachment("../x", Attached), attachment("a", "odd"), {}} {
		if err := j.Put(a); !fault.Is(err, fault.Invalid) {
			t.Errorf("Put(%q, %q) = %v, want Invalid", a.ID(), a.State, err)
		}
	}
	if len(j.List()) != 0 {
		t.Error("a refused attachment is listed")
	}
	mustClose(t, j)
}

func TestHistoryIsCompacted(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir, Missing)
	for i := range 2000 {
		a := attachment(fmt.Sprint("c", i), Attached)
		mustPut(t, j, a)
		if i >= 3 {
			if err := j.Forget(attachment(fmt.Sprint("c", i-3), "").ID()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if j.file.size > history+2*maxRecord {
		t.Errorf("file has %d bytes for 3 attachments", j.file.size)
	}
	want := j.List()
	mustClose(t, j)
	j = mustOpen(t, dir, Whole)
	if diff := diffAttachments(want, j.List()); diff != "" || len(want) != 3 {
		t.Errorf("%d attachments; after reopening (-want +got):\n%s", len(want), diff)
	}
	mustClose(t, j)
}

// TestFullDiskRefusesIntentsOnly fills a small tmpfs: ADDs are refused before
// they take anything, everything an ADD begun needs still goes through.
func TestFullDiskRefusesIntentsOnly(t *testing.T) {
	r := chaos.Begin(t, "A20", "journal on a full tmpfs", "ADD refused first; all DELs written")
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatalf("mount tmpfs: %v", err)
	}
	defer func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	j := mustOpen(t, dir, Missing)
	var took []Attachment
	var refused error
	for i := 0; refused == nil; i++ {
		a := attachment(fmt.Sprintf("container-%04d", i), Intent)
		if refused = j.Put(a); refused == nil {
			took = append(took, a)
		}
	}
	if !fault.Is(refused, fault.Unavailable) || fault.HintOf(refused) == "" {
		t.Errorf("intent on a full disk = %v, want Unavailable with a hint", refused)
	}
	last := took[len(took)-1]
	last.State = Attached
	mustPut(t, j, last)
	for _, a := range took[1:] { // every DEL of a node being drained
		a.State = Detached
		mustPut(t, j, a)
		if err := j.Forget(a.ID()); err != nil {
			t.Errorf("forget on a full disk: %v", err)
		}
	}
	mustClose(t, j)
	j = mustOpen(t, dir, Whole)
	if diff := diffAttachments(took[:1], j.List()); diff != "" {
		t.Errorf("after reopening (-want +got):\n%s", diff)
	}
	mustClose(t, j)
	r.Measuredf("intent %d refused; %d of %d DELs written on the full disk", len(took)+1, len(took)-1, len(took)-1)
}

func FuzzJournal(f *testing.F) {
	line, err := record{Put: new(attachment("a", Attached))}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("ocicat-journal 1\n"))
	f.Add(append([]byte("ocicat-journal 1\n"), line...))
	f.Add(append([]byte("ocicat-journal 1\n"), line[:len(line)-3]...))
	f.Add([]byte("ocicat-journal 9\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		state, _, err := parse(content)
		if err != nil {
			return
		}
		dir := t.TempDir()
		mustWrite(t, dir, content)
		j, _, err := Open(dir)
		if err != nil {
			t.Fatalf("parsed but not opened: %v", err)
		}
		if diff := diffAttachments(sorted(state), j.List()); diff != "" {
			t.Error(diff)
		}
		mustPut(t, j, attachment("new", Intent))
		want := j.List()
		mustClose(t, j)
		j = mustOpen(t, dir, Whole)
		if diff := diffAttachments(want, j.List()); diff != "" {
			t.Error(diff)
		}
		mustClose(t, j)
	})
}

func attachment(container string, state State) Attachment {
	addr := netip.MustParseAddr("172.16.196.1")
	return Attachment{
		Endpoint: cluster.Endpoint{
			ID:        cluster.EndpointID{ContainerID: container, IfName: "eth0"},
			Namespace: "devops", Pod: "busybox-77649b9c55-fv298",
			HostIf: "cali1dadcdd5b31", Addr: addr, MTU: 1500,
		},
		State:     state,
		Network:   "k8s-pod-network",
		Handle:    "k8s-pod-network." + container,
		NetNSPath: "/var/run/netns/cni-1",
		Result:    &cniwire.AddResult{HostIf: "cali1dadcdd5b31", MTU: 1500, Addresses: []netip.Prefix{netip.PrefixFrom(addr, 32)}},
	}
}

func diffAttachments(want, got []Attachment) string {
	return cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.EquateEmpty())
}

func mustOpen(t *testing.T, dir string, want Condition) *Journal {
	t.Helper()
	j, condition, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if condition != want {
		t.Errorf("journal is %v, want %v", condition, want)
	}
	return j
}

func mustPut(t *testing.T, j *Journal, a Attachment) {
	t.Helper()
	if err := j.Put(a); err != nil {
		t.Fatal(err)
	}
}

func mustClose(t *testing.T, j *Journal) {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func mustRead(t *testing.T, dir string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func mustWrite(t *testing.T, dir string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "journal"), content, 0o600); err != nil {
		t.Fatal(err)
	}
}
