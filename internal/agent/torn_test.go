// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ocicat-net/ocicat/internal/agent"
	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/statefile"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// stateFiles are all files an agent leaves, sockets and locks aside.
func (n *node) stateFiles() []string {
	return []string{
		filepath.Join(n.cfg.RunDir, "journal"), filepath.Join(n.cfg.RunDir, "lease"), filepath.Join(n.cfg.RunDir, "gr", "restart.json"),
		filepath.Join(n.cfg.StateDir, "instance"), filepath.Join(n.cfg.StateDir, "datastore.json"),
	}
}

// routes are the pods' routes in the kernel, and the blackholes.
func (n *node) routes() string {
	var ours []string
	for line := range strings.Lines(ip(n.t, "route show")) {
		if strings.Contains(line, "cali") || strings.HasPrefix(line, "blackhole") {
			ours = append(ours, strings.TrimSpace(line))
		}
	}
	slices.Sort(ours)
	return strings.Join(ours, "\n")
}

// TestTornStateFiles starts an agent again and again with each of its files
// cut off or damaged, and with pods that came and went: their routes,
// addresses and answers stay the same.
func TestTornStateFiles(t *testing.T) {
	seed := chaos.Seed(t)
	rounds := chaos.Scale(6, 200)
	r := chaos.Begin(t, "A21", fmt.Sprintf("each of 5 state files cut off at %d places, and as many bits flipped; agent started on it", rounds), "0 wrong routes, 0 other answers, 0 leaks")
	rnd := rand.New(rand.NewPCG(seed, 0))
	n := newNode(t)
	n.start()
	kept := []*pod{n.pod("a", "kept-a"), n.pod("b", "kept-b")}
	var answers []cniwire.AddResult
	for _, p := range kept {
		answers = append(answers, n.add(p))
	}
	gone := n.pod("c", "gone")
	n.add(gone)
	n.del(gone)
	n.settled(len(kept))
	want := n.routes()
	tried := 0
	for _, path := range n.stateFiles() {
		for i := range 2 * rounds {
			n.stop()
			spoil(t, path, rnd, i%2 == 0)
			n.start()
			tried++
			for i, p := range kept {
				if diff := cmp.Diff(answers[i], n.add(p), cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
					t.Fatalf("%s spoiled, ADD repeated (-first +again):\n%s", path, diff)
				}
			}
			nstest.Eventually(t, 5*time.Second, func() bool { return n.routes() == want }, "routes after ", path, " was spoiled:\n", want)
			n.settled(len(kept))
			if known := len(n.agent.Endpoints()); known != len(kept) {
				t.Fatalf("%s spoiled: %d pods known", path, known)
			}
		}
	}
	r.Measuredf("seed %d: %d starts, 0 wrong routes, 0 other answers, 0 addresses leaked", seed, tried)
}

// spoil cuts a file off somewhere, or flips a bit of it.
func spoil(t *testing.T, path string, rnd *rand.Rand, cut bool) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := rnd.IntN(len(content))
	if cut {
		if at > 0 && content[at-1] == '\n' {
			at++ // a whole record fewer is an earlier journal, not a damaged one
		}
		content = content[:at]
	} else {
		content[at] ^= 1 << rnd.IntN(8)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestStateOfOtherVersions has an agent start on what the first version left,
// and refuse what a newer one did.
func TestStateOfOtherVersions(t *testing.T) {
	r := chaos.Begin(t, "A21", "all state files of the first version; each of a newer one", "older read: nothing lost; newer refused and untouched")
	n := newNode(t)
	n.start()
	p := n.pod("a", "kept")
	answer := n.add(p)
	n.settled(1)
	n.stop()
	for _, path := range n.stateFiles() {
		content := mustRead(t, path)
		_, body, _ := bytes.Cut(content, []byte("\n"))
		if filepath.Base(path) == "journal" {
			body = append([]byte("ocicat-journal 1\n"), body...)
		}
		mustWrite(t, path, body)
	}
	instance := string(mustRead(t, filepath.Join(n.cfg.StateDir, "instance")))
	n.start()
	if diff := cmp.Diff(answer, n.add(p), cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
		t.Errorf("ADD repeated on state of the first version (-first +again):\n%s", diff)
	}
	if got := n.agent.Report().Status.Agent.Instance; got != strings.TrimSpace(instance) {
		t.Errorf("instance %s, before %s", got, instance)
	}
	n.stop()
	refused := 0
	for _, f := range []struct {
		format statefile.Format
		path   string
	}{
		{statefile.Instance, n.stateFiles()[3]}, {statefile.LocalCopy, n.stateFiles()[4]}, {statefile.Lease, n.stateFiles()[1]}, {statefile.Restart, n.stateFiles()[2]},
	} {
		before := mustRead(t, f.path)
		f.format.Version = 99
		if err := f.format.Write(f.path, []byte("tomorrow's"), false); err != nil {
			t.Fatal(err)
		}
		newer := mustRead(t, f.path)
		a, err := agent.New(n.cfg)
		if a != nil || !fault.Is(err, fault.Unsupported) || !strings.Contains(err.Error(), f.path+": its version is 99") || !bytes.Equal(mustRead(t, f.path), newer) {
			t.Errorf("newer %s: %v", f.path, err)
			continue
		}
		refused++
		mustWrite(t, f.path, before)
	}
	n.start()
	r.Measuredf("5 of 5 older files read, 1 of 1 pod kept; %d of 4 newer refused", refused)
}

// TestLostInstance finds the machine's instance again in the lease of this
// boot: nobody takes the node for another machine.
func TestLostInstance(t *testing.T) {
	r := chaos.Begin(t, "F6", "state directory lost while /run stays", "same instance, ADD at once")
	n := newNode(t)
	n.start()
	before := n.agent.Report().Status.Agent.Instance
	n.stop()
	n.cfg.StateDir = t.TempDir()
	n.start()
	start := time.Now()
	n.add(n.pod("a", "after"))
	if after := n.agent.Report().Status.Agent.Instance; after != before {
		t.Errorf("instance %s, before %s", after, before)
	}
	r.Measuredf("same instance; ADD after %d ms", time.Since(start).Milliseconds())
}

// TestSecondAgent refuses one that was given other directories.
func TestSecondAgent(t *testing.T) {
	r := chaos.Begin(t, "F7", "second agent in the node's network namespace, with directories of its own", "refused, naming the first's process id")
	n := newNode(t)
	n.start()
	other := n.cfg
	other.RunDir, other.StateDir = t.TempDir(), t.TempDir()
	a, err := agent.New(other)
	if a != nil || !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), fmt.Sprintf("process %d,", os.Getpid())) {
		t.Errorf("second agent: %v", err)
	}
	r.Measuredf("refused: %v", err)
	n.stop()
	n.cfg = other
	n.start() // the place is free again
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func mustWrite(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestStaleRecordIsGivenUp cuts the journal off in the record of a pod's end.
func TestStaleRecordIsGivenUp(t *testing.T) {
	r := chaos.Begin(t, "A21", "journal cut off in the record of a DEL, agent started on it", "0 addresses leaked")
	n := newNode(t)
	n.start()
	kept, gone := n.pod("a", "kept"), n.pod("b", "gone")
	n.add(kept)
	n.add(gone)
	n.settled(2)
	before := len(mustRead(t, n.stateFiles()[0]))
	n.del(gone)
	n.settled(1)
	n.stop()
	journal := n.stateFiles()[0]
	mustWrite(t, journal, mustRead(t, journal)[:before+40])
	n.start()
	if known := len(n.agent.Endpoints()); known != 1 {
		t.Errorf("%d pods known, want 1", known)
	}
	r.Measuredf("%d leaked", n.settled(1))
	n.add(kept)
}

// TestRunDirectoryLost takes the run directory's content from a live agent: it
// ends, and the next one has its pods.
func TestRunDirectoryLost(t *testing.T) {
	r := chaos.Begin(t, "F6", "content of /run removed under a live agent", "the agent ends saying so; the next has every pod, 0 routes changed, 0 leaked")
	n := newNode(t)
	n.start()
	p := n.pod("a", "kept")
	n.add(p)
	n.settled(1)
	want := n.routes()
	n.stop()
	a, err := agent.New(n.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- a.Run(t.Context()) }()
	nstest.Eventually(t, 10*time.Second, func() bool { return a.Ready() == nil }, "agent ready")
	entries, err := os.ReadDir(n.cfg.RunDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(n.cfg.RunDir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	select {
	case err = <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the agent works on without its run directory")
	}
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), n.cfg.RunDir) {
		t.Errorf("the agent ended with %v", err)
	}
	took := time.Since(start)
	n.start()
	n.add(p)
	if got := n.routes(); got != want {
		t.Errorf("routes:\n%s\nwant:\n%s", got, want)
	}
	r.Measuredf("ended after %.1f s; 1 of 1 pod kept, 0 routes changed, %d leaked", took.Seconds(), n.settled(1))
}
