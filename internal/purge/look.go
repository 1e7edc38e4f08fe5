// SPDX-License-Identifier: Apache-2.0

package purge

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/ocicat-net/ocicat/api/v1"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/convert"
	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/install"
	"github.com/ocicat-net/ocicat/internal/journal"
	"github.com/ocicat-net/ocicat/internal/kernel"
	"github.com/ocicat-net/ocicat/internal/localcopy"
	"github.com/ocicat-net/ocicat/internal/nft"
	"github.com/ocicat-net/ocicat/internal/resource"
	"github.com/ocicat-net/ocicat/internal/store"
)

// Node is where an agent has its things on this machine. The kernel is that of
// the calling thread's network namespace.
type Node struct {
	// Install is where the plugin and its configuration were installed.
	Install install.Config
	// RunDir and StateDir are the agent's directories.
	RunDir, StateDir string
	// Log gets what is neither an answer nor an error.
	Log *slog.Logger
}

// What an agent keeps in its directories: files, and directories that are its
// own whatever is in them. A file may have its successor beside it.
var (
	runFiles   = []string{"admin.sock", "cni.sock", "cni.sock.lock", "journal", "journal.lock", "journal.damaged", "lease", cniwire.ServedFile}
	runDirs    = []string{"gr", "tombstones"}
	stateFiles = []string{"instance", "datastore.json", "namespaces.json"}
)

// successors are what a file is called until it takes its place.
func successors(name string) []string { return []string{name + ".new", "." + name + ".new"} }

// remember reads what the agent's files say. Of a newer agent's they say
// nothing: Unsupported.
func (n Node) remember() (Memory, error) {
	m := Memory{Protocol: host.ProtoBird, Pods: map[cluster.EndpointID]string{}}
	attached, err := journal.Read(n.RunDir)
	if err != nil {
		return m, err
	}
	for _, a := range attached {
		if a.Endpoint.Pod != "" {
			m.Pods[a.ID()] = a.Endpoint.Namespace + "/" + a.Endpoint.Pod
		}
	}
	known, _, err := localcopy.Read(localcopy.Path(n.StateDir))
	if err != nil {
		return m, err
	}
	m.Pools = known.PastPools
	for _, e := range known.Entries {
		key := store.Key{Kind: e.Kind, Name: e.Name}
		if object, err := resource.Decode(store.Entry{Key: key, Value: e.Value}); err == nil {
			if config, ok := object.(*v1.OcicatConfiguration); ok {
				m.Protocol = convert.Settings(config, cluster.Settings{RouteProtocol: m.Protocol}).RouteProtocol
			}
		}
	}
	return m, nil
}

// look reads what the node holds.
func (n Node) look(ctx context.Context, k *kernel.Handle, filter *nft.Handle) (Seen, error) {
	state, err := k.Observe(ctx)
	if err != nil {
		return Seen{}, err
	}
	seen := Seen{Links: state.Links, Routes: state.SortedRoutes(), Forwarding: state.Sysctls[core.Forwarding] == "1"}
	if seen.Unfinished, err = k.Unfinished(ctx); err != nil {
		return Seen{}, err
	}
	if seen.Table, err = filter.Has(core.FilterTable); err != nil && !fault.Is(err, fault.Unsupported) { // a kernel without nftables has no table
		return Seen{}, err
	}
	if seen.Table {
		if seen.FilterPools, err = filter.Prefixes(core.FilterTable, core.PoolsSet); err != nil {
			return Seen{}, err
		}
	}
	if seen.Speaker, err = listens(bgpPort); err != nil {
		return Seen{}, err
	}
	for _, dir := range []struct {
		path        string
		files, dirs []string
	}{{n.RunDir, runFiles, runDirs}, {n.StateDir, stateFiles, nil}} {
		if err := seen.files(dir.path, dir.files, dir.dirs); err != nil {
			return Seen{}, err
		}
	}
	return seen, nil
}

// files adds what is in a directory of the agent's, and last the directory
// itself unless others have something there.
func (s *Seen) files(dir string, files, dirs []string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fault.New(fault.Internal, "read the agent's files: %w", err)
	}
	var ours []string
	for _, name := range files {
		ours = append(append(ours, name), successors(name)...)
	}
	alien := false
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.IsDir() && slices.Contains(dirs, e.Name()) || !e.IsDir() && slices.Contains(ours, e.Name()) {
			s.Files = append(s.Files, path)
			continue
		}
		alien = true
		s.AlienFiles = append(s.AlienFiles, path)
	}
	if !alien {
		s.Files = append(s.Files, dir)
	}
	return nil
}

// bgpPort is where BGP speakers listen, RFC 4271.
const bgpPort = 179

// listens says whether somebody in this network namespace listens on a TCP
// port, by the kernel's table of sockets.
func listens(port uint16) (bool, error) {
	for _, name := range []string{"tcp", "tcp6"} {
		table, err := os.Open("/proc/thread-self/net/" + name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return false, fault.New(fault.Internal, "read open sockets: %w", err)
		}
		found := listed(bufio.NewScanner(table), port)
		_ = table.Close() // only read
		if found {
			return true, nil
		}
	}
	return false, nil
}

// listed finds a listening socket in lines as "0: 00000000:00B3 00000000:0000
// 0A …": number, local and remote address, state, all in hexadecimal digits.
func listed(lines *bufio.Scanner, port uint16) bool {
	const listening = "0A"
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) > 3 && fields[3] == listening && strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", port)) {
			return true
		}
	}
	return false
}

// open reaches the kernel of the calling thread's network namespace.
func open() (*kernel.Handle, *nft.Handle, error) {
	k, err := kernel.Open()
	if err != nil {
		return nil, nil, err
	}
	filter, err := nft.Open()
	if err != nil {
		return nil, nil, cmp.Or(err, k.Close())
	}
	return k, filter, nil
}
