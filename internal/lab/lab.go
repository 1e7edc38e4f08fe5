// SPDX-License-Identifier: Apache-2.0

// Package lab is a cluster of real agents on one machine. A node of a lab is
// a network, mount and UTS namespace with a boot id of its own; in it runs
// the same ocicatd as on a real node, pods come by the same CNI plugin, and
// the datastore is a real etcd server on the nodes' network. Nothing of a lab
// is simulated, and nothing in it but this package knows that it is a lab.
//
// All that a lab has carries its name: network namespaces "LAB.NODE" and
// "LAB.NAMESPACE.POD" in /run/netns, files below /run/ocicat-lab/LAB, and
// OCICAT_LAB_MEMBER=LAB in the environment of each process. Down finds everything by
// that name alone, so that a lab whose record was lost is removed as well.
package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// DefaultName is the lab used when none is named.
const DefaultName = "article"

// DefaultRoot is where labs keep their files.
const DefaultRoot = "/run/ocicat-lab"

// Environment variable that marks every process of a lab with the lab's name.
// Nothing else may use it: whoever carries it is killed by Down.
const envMark = "OCICAT_LAB_MEMBER"

// Config says which lab is meant and where things lie.
type Config struct {
	Name   string // DefaultName when empty
	Root   string // DefaultRoot when empty
	BinDir string // where ocicatd, ocicat-cni and ocicat-etcd are; empty: beside this program, then $PATH
	// Progress is told about each step of Up; nil for nobody.
	Progress Progress
}

// Lab is one lab, existing or not. Its methods may be called from several
// processes at the same time: those that change it exclude each other by a
// lock on the file system.
type Lab struct {
	name     string
	root     string
	binDir   string
	progress Progress
}

// Short enough for the names of files and namespaces, and without the dot
// that ends it there.
var validName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$`)

// New returns the lab cfg names without touching anything. A name that cannot
// be one is Invalid.
func New(cfg Config) (*Lab, error) {
	l := &Lab{name: cfg.Name, root: cfg.Root, binDir: cfg.BinDir, progress: cfg.Progress}
	if l.name == "" {
		l.name = DefaultName
	}
	if l.root == "" {
		l.root = DefaultRoot
	}
	if l.progress == nil {
		l.progress = func(Step) {}
	}
	if !validName.MatchString(l.name) {
		return nil, fault.Hint(fault.New(fault.Invalid, "lab name %q: not a name of lower-case letters, digits and dashes, 32 at most", l.name),
			"Choose a name like %q.", DefaultName)
	}
	return l, nil
}

// Name is the lab's name.
func (l *Lab) Name() string { return l.name }

// Names are the labs that exist below root (DefaultRoot when empty), sorted.
func Names(root string) ([]string, error) {
	if root == "" {
		root = DefaultRoot
	}
	entries, err := os.ReadDir(root)
	if err != nil && !os.IsNotExist(err) {
		return nil, fault.New(fault.Internal, "list labs: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && validName.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// dir is the lab's directory or a path below it.
func (l *Lab) dir(parts ...string) string {
	return filepath.Join(append([]string{l.root, l.name}, parts...)...)
}

// EtcdSocket is the unix socket on which the lab's datastore answers on this
// machine; agents reach it over their network.
func (l *Lab) EtcdSocket() string { return l.dir("etcd.sock") }

// AdminSocket is the admin socket of a node's agent as seen from outside the
// node.
func (l *Lab) AdminSocket(node string) string { return l.dir("nodes", node, "run", "admin.sock") }

// AgentLog is the file a node's agent writes its log to.
func (l *Lab) AgentLog(node string) string { return l.dir("nodes", node, "log", "ocicatd.log") }

// requireRoot refuses what only root can do.
func requireRoot(what string) error {
	if os.Geteuid() == 0 {
		return nil
	}
	return fault.Hint(fault.New(fault.Invalid, "%s: needs root", what),
		"A lab is made of network namespaces: run the command with sudo.")
}

// locked runs f while no other process changes the lab.
func (l *Lab) locked(ctx context.Context, what string, f func() error) error {
	if err := requireRoot(what); err != nil {
		return err
	}
	unlock, err := l.lock(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer unlock()
	return f()
}
