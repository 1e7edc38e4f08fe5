// SPDX-License-Identifier: Apache-2.0

package purge

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/install"
	"github.com/ocicat-net/ocicat/internal/kernel"
	"github.com/ocicat-net/ocicat/internal/nft"
	"github.com/ocicat-net/ocicat/internal/reconcile"
	"github.com/ocicat-net/ocicat/internal/seat"
)

// Options say how far to go.
type Options struct {
	Purge  bool // remove everything, not only the plugin and its configuration
	Force  bool // also what pods use, and routes that may be another speaker's
	DryRun bool // change nothing, say what would be
}

// Report is what was done, or would be.
type Report struct {
	DryRun  bool     `json:"dryRun"`
	Purge   bool     `json:"purge"`
	Pods    []Pod    `json:"pods"`    // that use, or used, this node's network
	Removed []string `json:"removed"` // in the order of removal
	Left    []string `json:"left"`    // what a purge would remove
	Kept    []Item   `json:"kept"`    // what might be taken for ours and stays
	Failed  []Item   `json:"failed"`  // what is still there although it should not
}

// Err joins what failed, nil for nothing.
func (r Report) Err() error {
	var errs []error
	for _, f := range r.Failed {
		errs = append(errs, fault.New(fault.Unavailable, "remove %s: %s", f.What, f.Why))
	}
	return errors.Join(errs...)
}

// ErrPods is in the chain of the refusal to purge under pods.
var ErrPods = errors.New("pods use this node's network")

// Uninstall removes from this node the plugin and its configuration and, to
// Purge, what else an agent left. It is Conflict, and nothing is changed, while
// an agent runs, and to Purge without Force while pods use what is there
// (ErrPods; the Report names them). What fails is in the Report; the rest goes on.
// To find nothing is no error.
func (n Node) Uninstall(ctx context.Context, o Options) (Report, error) {
	r := Report{DryRun: o.DryRun, Purge: o.Purge, Pods: []Pod{}, Removed: []string{}, Left: []string{}, Kept: []Item{}, Failed: []Item{}}
	place, err := n.sit()
	if err != nil {
		return r, err
	}
	defer place.Leave()
	k, filter, err := open()
	if err != nil {
		return r, err
	}
	defer k.Close()
	defer filter.Close()
	memory, err := n.remember()
	if err != nil {
		return r, err
	}
	seen, err := n.look(ctx, k, filter)
	if err != nil {
		return r, err
	}
	plan := Decide(seen, memory, o.Force)
	r.Pods = append(r.Pods, plan.Pods...)
	if o.Purge && len(plan.Pods) > 0 && !o.Force {
		return r, n.refusal(plan.Pods)
	}
	if err := n.uninstallPlugin(&r); err != nil {
		return r, err
	}
	switch {
	case !o.Purge:
		r.Left = append(r.Left, plan.Items()...)
	case o.DryRun:
		r.Removed, r.Kept = append(r.Removed, plan.Items()...), append(r.Kept, plan.Kept...)
	default:
		r.Kept = append(r.Kept, plan.Kept...)
		r.apply(ctx, plan, k, filter)
	}
	return r, nil
}

// sit keeps agents out. An agent of another network namespace that has our
// directory answers at its socket.
func (n Node) sit() (*seat.Seat, error) {
	place, err := seat.Take(n.Log)
	if err != nil {
		return nil, fault.Hint(fault.New(fault.KindOf(err), "uninstall: %w", err), "Stop the agent first, it would install all of it again; on Kubernetes delete its DaemonSet.")
	}
	socket := filepath.Join(n.RunDir, "cni.sock")
	if answers(socket) {
		place.Leave()
		return nil, fault.Hint(fault.New(fault.Conflict, "uninstall: an agent serves pods at %s", socket), "Stop it first: it would install the plugin again.")
	}
	return place, nil
}

// answers says whether somebody accepts connections at the plugin's socket. One
// that a dead agent left refuses them.
func answers(socket string) bool {
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

func (n Node) refusal(pods []Pod) error {
	names := make([]string, len(pods))
	for i, p := range pods {
		names[i] = p.String()
	}
	return fault.Hint(fault.New(fault.Conflict, "purge: %w: %s", ErrPods, strings.Join(names, ", ")),
		"Delete or drain them first, or wait for their end with --wait; --force cuts them off. Without --purge they keep their network.")
}

// uninstallPlugin takes the configuration and the plugins away.
func (n Node) uninstallPlugin(r *Report) error {
	paths, err := install.Leftovers(n.Install)
	if err != nil {
		return err
	}
	if !r.DryRun {
		err = install.Uninstall(n.Install, slog.New(slog.DiscardHandler))
	}
	for _, path := range paths {
		if _, statErr := os.Lstat(path); r.DryRun || errors.Is(statErr, fs.ErrNotExist) {
			r.Removed = append(r.Removed, "file "+path)
		}
	}
	if err != nil {
		r.Failed = append(r.Failed, Item{"the CNI plugin", err.Error()})
	}
	return nil
}

// apply removes what a plan says. What tells ours from others' goes last, and
// stays while something it is about does.
func (r *Report) apply(ctx context.Context, p Plan, k *kernel.Handle, filter *nft.Handle) {
	failures := reconcile.Failures(k.DestroyLinks(ctx, p.Links))
	for _, l := range p.Links {
		r.did("link "+l.Name, either(failures, kernel.LinkKey(l.Name)))
	}
	failures = reconcile.Failures(k.ApplyRoutes(ctx, nil, p.Routes))
	for _, route := range p.Routes {
		r.did("route "+route.String(), either(failures, kernel.RouteKey(route.Key())))
	}
	if len(r.Failed) > 0 {
		r.Left = append(r.Left, Plan{Table: p.Table, Files: p.Files}.Items()...)
		return
	}
	if p.Table {
		r.did("table inet "+core.FilterTable, filter.Delete(core.FilterTable))
	}
	for _, path := range p.Files {
		err := remove(path)
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EROFS) { // by who looks first
			r.Kept = append(r.Kept, Item{"file " + path, "it is mounted here, and empty"})
			continue
		}
		r.did("file "+path, err)
	}
}

// remove removes a file, an empty directory, or one that is an agent's own with
// all that is in it.
func remove(path string) error {
	err := os.Remove(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, unix.ENOTEMPTY) && slices.Contains(runDirs, filepath.Base(path)):
		return os.RemoveAll(path)
	}
	return err
}

// either is the failure of a key, or that of all of them.
func either(failures map[string]error, key string) error {
	if err := failures[key]; err != nil {
		return err
	}
	return failures[""]
}

func (r *Report) did(what string, err error) {
	if err != nil {
		r.Failed = append(r.Failed, Item{what, err.Error()})
		return
	}
	r.Removed = append(r.Removed, what)
}
