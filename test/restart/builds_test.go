// SPDX-License-Identifier: Apache-2.0

package restart

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/statefile"
	"github.com/ocicat-net/ocicat/test/chaos"
	"github.com/ocicat-net/ocicat/test/flow"
	"github.com/ocicat-net/ocicat/test/labtest"
)

// olderRevision is a commit of this project whose agents those of today must
// work beside, and go back to. When a release is made it becomes that one.
const olderRevision = "66a6e3ed32b2eeaa19860a30bba5ad5286266c13"

// older returns the lab with the agents of olderRevision instead of its own,
// built from the history of this checkout, and what they are. A checkout without
// history has nothing older: there it is another build of the same sources.
func older(t *testing.T, l *labtest.Lab) (*lab.Lab, string) {
	t.Helper()
	dir := t.TempDir()
	what, sources := "commit "+olderRevision[:12], dir
	if err := checkOut(dir); err != nil {
		t.Logf("%s: %v", what, err)
		what, sources = "another build of the same sources", "."
	}
	build := exec.Command("go", "-C", sources, "build", "-ldflags=-buildid=older", "-o", filepath.Join(dir, "bin")+"/", "github.com/ocicat-net/ocicat/cmd/ocicatd", "github.com/ocicat-net/ocicat/cmd/ocicat-cni")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", what, err, out)
	}
	other, err := lab.New(lab.Config{Name: l.Name(), Root: l.Root, BinDir: filepath.Join(dir, "bin")})
	if err != nil {
		t.Fatal(err)
	}
	return other, what
}

// checkOut puts the sources of olderRevision into dir.
func checkOut(dir string) error {
	root, err := exec.Command("git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		return fmt.Errorf("find the history: %w", err)
	}
	archive := filepath.Join(dir, "source.tar")
	out, err := exec.Command("git", "-C", strings.TrimSpace(string(root)), "archive", "-o", archive, olderRevision).CombinedOutput()
	if err == nil {
		out, err = exec.Command("tar", "-x", "-f", archive, "-C", dir).CombinedOutput()
	}
	if err != nil {
		return fmt.Errorf("take it from the history: %w: %s", err, out)
	}
	return nil
}

// TestTwoBuilds goes back to the older build on one node after the other and
// forward again, as a rolling update does, while two pods talk that were there
// from the beginning; with every mixture of builds a pod is added on each node,
// and all reach each other.
func TestTwoBuilds(t *testing.T) {
	r := chaos.Begin(t, "E12", "an older build beside this one, 10,000 packets/s: back to it on one node after the other, and forward again", "0 packets lost, pods of each reach pods of the other, 0 addresses given twice")
	l, to := up(t)
	old, what := older(t, l)
	var pods []lab.Pod
	mixture := func(name string) {
		for _, node := range []string{stable, dying} {
			pod, err := l.AddPod(t.Context(), lab.PodSpec{Namespace: "devops", Name: name + "-" + node, Node: node})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if slices.ContainsFunc(pods, func(p lab.Pod) bool { return p.Address == pod.Address }) {
				t.Errorf("%s: address %s is given twice", name, pod.Address)
			}
			pods = append(pods, pod)
		}
		for _, p := range pods {
			l.Pod(sender, "ping -c 1 -W 2 "+p.Address.Addr().String())
			l.Pod(receiver, "ping -c 1 -W 2 "+p.Address.Addr().String())
		}
	}
	lost, events := measure(t, l, to, func(*flow.Flow) {
		for _, step := range []struct {
			name string
			by   *lab.Lab
			node string
		}{{"one-older", old, dying}, {"both-older", old, stable}, {"one-newer", l.Lab, dying}, {"both-newer", l.Lab, stable}} {
			if err := step.by.RestartAgent(t.Context(), step.node); err != nil {
				t.Fatalf("%s: %v", step.name, err)
			}
			established(t, l)
			mixture(step.name)
		}
	})
	r.Measuredf("%s: %d packets lost, %d route events, %d of 8 pods added in 4 mixtures, all reached", what, lost, events, len(pods))
	if lost != 0 || events != 0 {
		t.Errorf("%d packets lost, %d route events: want none", lost, events)
	}
	lost, events = measure(t, l, to, func(*flow.Flow) {
		if err := admin.Dial(l.AdminSocket(dying)).Drain(t.Context(), "twin"); err != nil {
			t.Fatal(err)
		}
	})
	r.Twinf("drained: %d packets lost, %d route events", lost, events)
	if lost == 0 || events == 0 {
		t.Errorf("drained: %d packets lost, %d route events: the meter sees nothing", lost, events)
	}
}

// TestDowngradeRefused goes back to a build that does not understand a file of
// the newer one: it says so before it touches anything, the pods talk on, and
// the newer one takes over again.
func TestDowngradeRefused(t *testing.T) {
	r := chaos.Begin(t, "E12", "an agent is started on the state of a newer version", "it refuses, naming the file and the way out, and touches nothing; 0 packets lost")
	l, to := up(t)
	file := filepath.Join(l.Root, l.Name(), "nodes", dying, "var", "datastore.json")
	var refused bool
	lost, events := measure(t, l, to, func(f *flow.Flow) {
		body, err := statefile.LocalCopy.Read(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.KillAgent(t.Context(), dying); err != nil {
			t.Fatal(err)
		}
		newer := statefile.LocalCopy
		newer.Version = 99
		if err := newer.Write(file, body, true); err != nil {
			t.Fatal(err)
		}
		written, _ := os.ReadFile(file)
		err = l.RestartAgent(t.Context(), dying)
		log, _ := os.ReadFile(l.AgentLog(dying))
		refused = err != nil && strings.Contains(string(log), "/datastore.json: its version is 99, this ocicatd understands 2") && strings.Contains(string(log), "hint: A newer Ocicat ran on this node")
		if after, _ := os.ReadFile(file); !refused || string(after) != string(written) {
			t.Errorf("the older agent was not refused, or touched the file: %v\n%s", err, log)
		}
		f.AwaitSent(t, perSecond/2)
		if err := errors.Join(statefile.LocalCopy.Write(file, body, true), l.RestartAgent(t.Context(), dying)); err != nil {
			t.Fatal(err)
		}
		nstest.Eventually(t, 10*time.Second, func() bool {
			_, err := admin.Dial(l.AdminSocket(dying)).Sessions(t.Context())
			return err == nil
		}, "the newer agent is back")
		established(t, l)
	})
	r.Measuredf("%s; %d packets lost, %d route events", map[bool]string{true: "refused, file and way out named, nothing touched", false: "not refused"}[refused], lost, events)
	if lost != 0 || events != 0 {
		t.Errorf("%d packets lost, %d route events: want none", lost, events)
	}
}
