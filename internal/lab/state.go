// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
)

// stateVersion is the version of the record; another one is not read.
const stateVersion = 1

// State is the record of a lab, the file lab.json in its directory. It is
// written before the thing it names is made, so that what exists is in it;
// what is in it need not exist.
type State struct {
	Version   int       `json:"version"`
	Name      string    `json:"name"`
	Created   time.Time `json:"created"`
	Topology  Topology  `json:"topology"`
	Endpoints []string  `json:"etcd"`               // of the datastore, from this machine
	History   bool      `json:"history,omitempty"`  // tunnel addresses were assigned and released
	Datastore Process   `json:"datastore,omitzero"` // the last ocicat-etcd started
	Nodes     []Node    `json:"nodes"`              // as in the topology
	Pods      []Pod     `json:"pods,omitempty"`     // in order of creation
}

// Node is one node of a lab.
type Node struct {
	Name  string  `json:"name"`
	Netns string  `json:"netns"`          // name in /run/netns
	Admin string  `json:"admin"`          // its agent's admin socket, from this machine
	Agent Process `json:"agent,omitzero"` // the last ocicatd started
}

// Pod is one pod of a lab, attached or about to be.
type Pod struct {
	PodSpec
	ContainerID string       `json:"containerID"`
	Netns       string       `json:"netns"` // name in /run/netns
	Attached    bool         `json:"attached"`
	Address     netip.Prefix `json:"address,omitzero"` // set when attached
	HostIf      string       `json:"hostIf,omitempty"` // set when attached
	EthMAC      host.MAC     `json:"ethMAC,omitzero"`  // set when attached
}

// lock makes this process the one that changes the lab; the returned function
// ends that. It waits as long as ctx allows.
func (l *Lab) lock(ctx context.Context) (func(), error) {
	unlock, err := lockFile(ctx, l.lockPath())
	if err != nil {
		return nil, fault.Hint(fmt.Errorf("lock lab %s: %w", l.name, err), "Another command works on this lab: wait for it to end.")
	}
	return unlock, nil
}

func (l *Lab) lockPath() string { return filepath.Join(l.root, l.name+".lock") }

// lockFile locks a file, made if missing, which its holder may remove.
func lockFile(ctx context.Context, path string) (func(), error) {
	for {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, fault.New(fault.Internal, "make directory: %w", err)
		}
		file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if errors.Is(err, os.ErrNotExist) {
			continue // the directory went meanwhile
		}
		if err != nil {
			return nil, fault.New(fault.Internal, "open lock: %w", err)
		}
		err = await(ctx, func() (bool, error) {
			err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
			if errors.Is(err, unix.EWOULDBLOCK) {
				return false, nil
			}
			return err == nil, err
		})
		if err != nil {
			_ = file.Close()
			return nil, fault.New(fault.Unavailable, "%w", err)
		}
		if sameFile(file, path) { // else its holder removed it meanwhile
			return func() { _ = file.Close() }, nil
		}
		_ = file.Close()
	}
}

func sameFile(file *os.File, path string) bool {
	a, errA := file.Stat()
	b, errB := os.Stat(path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// State reads the record. A lab that does not exist is NotFound; a record
// that cannot be read is Internal and says how to start again.
func (l *Lab) State() (*State, error) {
	text, err := os.ReadFile(l.dir("lab.json"))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fault.Hint(fault.New(fault.NotFound, "lab %s: does not exist", l.name), "Make it: sudo ocicat lab up%s", l.nameFlag())
	case errors.Is(err, os.ErrPermission):
		return nil, requireRoot("read lab " + l.name)
	case err != nil:
		return nil, fault.New(fault.Internal, "read lab %s: %w", l.name, err)
	}
	var s State
	if err = json.Unmarshal(text, &s); err == nil && s.Version != stateVersion {
		err = fmt.Errorf("version %d, want %d", s.Version, stateVersion)
	}
	if err != nil {
		return nil, fault.Hint(fault.New(fault.Internal, "read record of lab %s: %w", l.name, err),
			"Remove the lab and make it anew: sudo ocicat lab down%s", l.nameFlag())
	}
	return &s, nil
}

// nameFlag is the flag that names this lab in a command line.
func (l *Lab) nameFlag() string {
	if l.name == DefaultName {
		return ""
	}
	return " --name " + l.name
}

// save writes the record so that a reader, or a crash, finds the old or the
// new one and nothing between.
func (l *Lab) save(s *State) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fault.New(fault.Internal, "write record of lab %s: %w", l.name, err)
	}
	fresh := l.dir("lab.json.new")
	if err := errors.Join(os.MkdirAll(l.dir(), 0o755), os.WriteFile(fresh, append(text, '\n'), 0o644)); err != nil {
		return fault.New(fault.Internal, "write record of lab %s: %w", l.name, err)
	}
	if err := os.Rename(fresh, l.dir("lab.json")); err != nil {
		return fault.New(fault.Internal, "write record of lab %s: %w", l.name, err)
	}
	return nil
}

// newState is the record of a lab that does not exist yet.
func (l *Lab) newState(t Topology) *State {
	s := &State{
		Version: stateVersion, Name: l.name, Created: time.Now().UTC(), Topology: t,
		Endpoints: []string{"unix://" + l.EtcdSocket()},
	}
	for _, n := range t.Nodes {
		s.Nodes = append(s.Nodes, Node{Name: n.Name, Netns: l.nodeNetns(n.Name), Admin: l.AdminSocket(n.Name)})
	}
	return s
}

// Node finds a node by its name; an unknown one is NotFound.
func (s *State) Node(name string) (*Node, error) {
	var names []string
	for i := range s.Nodes {
		if s.Nodes[i].Name == name {
			return &s.Nodes[i], nil
		}
		names = append(names, s.Nodes[i].Name)
	}
	return nil, fault.Hint(fault.New(fault.NotFound, "node %q: not in lab %s", name, s.Name), "Its nodes are %s.", strings.Join(names, ", "))
}

// Pod finds a pod by namespace/name, or by its name, or by the beginning or
// end of it, if only one fits. None is NotFound, several are Conflict.
func (s *State) Pod(name string) (*Pod, error) {
	var fits []int
	for i, p := range s.Pods {
		if p.String() == name {
			return &s.Pods[i], nil
		}
		if !strings.Contains(name, "/") && (strings.HasPrefix(p.Name, name) || strings.HasSuffix(p.Name, name)) {
			fits = append(fits, i)
		}
	}
	if exact := slices.DeleteFunc(slices.Clone(fits), func(i int) bool { return s.Pods[i].Name != name }); len(exact) > 0 {
		fits = exact
	}
	switch len(fits) {
	case 0:
		return nil, fault.Hint(fault.New(fault.NotFound, "pod %q: not in lab %s", name, s.Name), "Its pods are listed by: sudo ocicat lab status")
	case 1:
		return &s.Pods[fits[0]], nil
	}
	var names []string
	for _, i := range fits {
		names = append(names, s.Pods[i].String())
	}
	return nil, fault.Hint(fault.New(fault.Conflict, "pod %q: several pods fit", name), "Name one of %s.", strings.Join(names, ", "))
}

// IdlestNode is the node with the fewest pods, the first of several.
func (s *State) IdlestNode() string {
	pods := map[string]int{}
	for _, p := range s.Pods {
		pods[p.Node]++
	}
	best := ""
	for _, n := range s.Nodes {
		if best == "" || pods[n.Name] < pods[best] {
			best = n.Name
		}
	}
	return best
}
