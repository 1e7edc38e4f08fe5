// SPDX-License-Identifier: Apache-2.0

// Package install puts the CNI plugin and its configuration on the host an
// agent runs on in a container, and keeps them there: a container runtime
// finds a plugin that works whenever it finds the configuration, and never
// half a file of either. It also takes them away again.
//
// The order is that of what depends on what: the binaries, then, once the
// agent serves pods, the configuration, which makes the node Ready. On the
// way out the configuration goes first.
package install

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/problem"
)

// Times. What is installed is compared with what should be when somebody
// changes a directory, and every resync, which sees what the kernel does not
// report. Someone who undoes our work again and again is met at ever longer
// intervals.
const (
	retry    = 5 * time.Second
	resync   = time.Minute
	firstGap = 50 * time.Millisecond
	lastGap  = 30 * time.Second
	peace    = 2 * time.Minute // without a repair, after which the interval is the first again
)

// Config says what is installed from where to where.
type Config struct {
	// Source is the directory of the binaries to install, in the image
	// /opt/ocicat/bin.
	Source string
	// BinDir is the runtime's directory of plugins, as this process sees it.
	BinDir string
	// NetDir is the runtime's directory of configurations, as this process
	// sees it.
	NetDir string
	// Conflist is the configuration.
	Conflist Conflist
	// Skip names binaries that are left to others, as they are called in
	// BinDir.
	Skip []string
}

// Validate says what of a Config cannot be right, as Invalid.
func (c Config) Validate() error {
	if c.BinDir == "" || c.NetDir == "" || c.Source == "" {
		return fault.Hint(fault.New(fault.Invalid, "install the CNI plugin: want all of the directories to install from and to"), "Set -cni-bin-dir and -cni-net-dir, or neither.")
	}
	return c.Conflist.validate()
}

// program is a file of Source and what it is called in BinDir.
type program struct {
	source, name string
	// shared is a name that is not ours alone: a file of that name stays as
	// it is.
	shared bool
}

// binaries are what is installed. The reference plugins behind ours in the
// chain get names of our own: one of the distribution's that does not answer
// STATUS would keep the node from being Ready, and ours replaces nobody's.
// The runtime itself calls loopback, under that name alone.
func (c Config) binaries() []program {
	all := []program{
		{source: "loopback", name: "loopback", shared: true},
		{source: "portmap", name: portmapName},
		{source: "bandwidth", name: bandwidthName},
		{source: pluginName, name: pluginName},
	}
	return slices.DeleteFunc(all, func(b program) bool { return slices.Contains(c.Skip, b.name) || slices.Contains(c.Skip, b.source) })
}

// Options are what an Installer works with.
type Options struct {
	Config
	// Ready returns nil once pods can be served, and an error only when ctx
	// ends before.
	Ready func(ctx context.Context) error
	// Changed is called when Problems or Installed may say something else.
	Changed func()
	Log     *slog.Logger
}

// Installer is a task that installs and keeps installed. Make one with New.
type Installer struct {
	Options
	steps    func(step string) // called before each change of the disk; tests crash in it
	done     chan struct{}     // closed when all was in place once
	problems atomic.Pointer[[]problem.Problem]
	verified map[string]stamp // installed files that were compared
}

// New returns an installer, or Invalid for what cannot be right.
func New(o Options) (*Installer, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	return &Installer{Options: o, steps: func(string) {}, done: make(chan struct{}), verified: map[string]stamp{}}, nil
}

// String names the task.
func (i *Installer) String() string { return "CNI installation in " + i.NetDir }

// Installed is closed once binaries and configuration were in place.
func (i *Installer) Installed() <-chan struct{} { return i.done }

// Problems are what keeps the runtime from using what was installed; those of
// a nil Installer, which installs nothing, are none.
func (i *Installer) Problems() []problem.Problem {
	if i == nil {
		return nil
	}
	if p := i.problems.Load(); p != nil {
		return slices.Clone(*p)
	}
	return nil
}

// Run installs and repairs until ctx ends. What is installed then stays: pods
// keep their network, and the plugin leaves word for the next agent. It ends
// with Unavailable where a directory was deleted under its mount: only a new
// container sees the one that took its place.
func (i *Installer) Run(ctx context.Context) error {
	hints := make(chan struct{}, 1)
	hint := func() {
		select {
		case hints <- struct{}{}:
		default:
		}
	}
	var background sync.WaitGroup
	defer background.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, dir := range []string{i.BinDir, i.NetDir} {
		background.Go(func() { watch(ctx, dir, i.Log, hint) })
	}
	serving, ready := false, make(chan struct{})
	background.Go(func() {
		if i.Ready(ctx) == nil {
			close(ready)
		}
	})
	for tempo := (pace{}); ; {
		repaired, err := i.pass(serving)
		next := resync
		if err != nil {
			if err := errors.Join(mounted(i.BinDir), mounted(i.NetDir)); err != nil {
				return err
			}
			next = retry
		}
		if !sleep(ctx, tempo.after(repaired, time.Now())) {
			return nil
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
		case <-ready:
			serving, ready = true, nil
		case <-hints:
		case <-timer.C:
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

// whole says whether all was in place once: what is written then is a repair.
func (i *Installer) whole() bool {
	select {
	case <-i.done:
		return true
	default:
		return false
	}
}

// pass brings the host to what it should be; serving says whether the
// configuration may be there. It reports whether it undid what somebody did.
func (i *Installer) pass(serving bool) (repaired bool, err error) {
	before, wrote := i.whole(), false
	err = errors.Join(os.MkdirAll(i.BinDir, 0o755), os.MkdirAll(i.NetDir, 0o755))
	if err == nil {
		wrote, err = i.installBinaries()
	}
	if err == nil && serving {
		var more bool
		more, err = i.installConflist()
		wrote = wrote || more
	}
	if err == nil && serving && !before {
		close(i.done)
		i.Log.Info("CNI plugin installed", "binaries", i.BinDir, "configuration", filepath.Join(i.NetDir, i.Conflist.File))
		i.Changed()
	}
	if repaired = before && wrote; repaired {
		i.Log.Warn("somebody changed what is installed of the CNI plugin: put back", "binaries", i.BinDir, "configuration", filepath.Join(i.NetDir, i.Conflist.File))
	}
	i.tell(err, serving)
	return repaired, err
}

// tell makes what is wrong now the problems.
func (i *Installer) tell(err error, serving bool) {
	var found []problem.Problem
	if err != nil {
		found = append(found, problem.New(problem.NotInstalled, i.NetDir, err))
	}
	if serving {
		for _, name := range i.shadows() {
			found = append(found, problem.New(problem.ConflistShadowed, name, filepath.Join(i.NetDir, name), i.Conflist.File))
		}
	}
	before := i.problems.Swap(&found)
	if before == nil && len(found) == 0 || before != nil && slices.Equal(*before, found) {
		return
	}
	for _, p := range found {
		i.Log.Warn(p.Text, "code", p.Code)
	}
	i.Changed()
}

// installBinaries puts the binaries in place. A shared one is installed only
// where none is.
func (i *Installer) installBinaries() (wrote bool, err error) {
	var errs []error
	for _, b := range i.binaries() {
		target := filepath.Join(i.BinDir, b.name)
		if b.shared {
			if _, err := os.Stat(target); err == nil {
				continue
			}
		}
		source := filepath.Join(i.Source, b.source)
		done, err := i.put(target, 0o755, func() (io.ReadCloser, error) { return os.Open(source) })
		wrote = wrote || done
		if err != nil {
			errs = append(errs, fault.New(fault.Unavailable, "install %s: %w", target, err))
		}
	}
	return wrote, errors.Join(errs...)
}

// installConflist puts the configuration in place and then takes away those
// an agent installed under another name.
func (i *Installer) installConflist() (wrote bool, err error) {
	content := i.Conflist.render()
	target := filepath.Join(i.NetDir, i.Conflist.File)
	wrote, err = i.put(target, 0o600, func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil })
	if err != nil {
		return wrote, fault.New(fault.Unavailable, "install %s: %w", target, err)
	}
	for _, name := range configurations(i.NetDir) {
		if name == i.Conflist.File || !installedByUs(filepath.Join(i.NetDir, name)) {
			continue
		}
		if err := os.Remove(filepath.Join(i.NetDir, name)); err != nil {
			return wrote, fault.New(fault.Unavailable, "remove an earlier configuration: %w", err)
		}
		i.Log.Info("earlier configuration of ours removed", "file", filepath.Join(i.NetDir, name))
	}
	return wrote, nil
}

// shadows are the configurations a runtime takes before ours: it reads the
// first by name alone.
func (i *Installer) shadows() []string {
	var found []string
	for _, name := range configurations(i.NetDir) {
		if name < i.Conflist.File && !callsOurPlugin(filepath.Join(i.NetDir, name)) {
			found = append(found, name)
		}
	}
	return found
}

// pace is how fast repairs follow one another.
type pace struct {
	gap  time.Duration
	last time.Time // of the last repair
}

// after is how long to wait after a pass.
func (p *pace) after(repaired bool, now time.Time) time.Duration {
	if !repaired {
		return firstGap
	}
	p.gap = min(2*p.gap, lastGap)
	if p.gap == 0 || now.Sub(p.last) > peace {
		p.gap = firstGap
	}
	p.last = now
	return p.gap
}

// mounted is an error for a directory that lives on in its mount alone.
func mounted(dir string) error {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil || st.Nlink > 0 {
		return nil
	}
	return fault.Hint(fault.New(fault.Unavailable, "%s was deleted on the host", dir), "Start ocicatd again: the directory is then mounted anew. Find who deletes it.")
}

// sleep waits for d and reports whether ctx lives.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
