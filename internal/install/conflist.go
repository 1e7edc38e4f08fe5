// SPDX-License-Identifier: Apache-2.0

package install

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
)

// What plugins are called in a configuration and in the runtime's directory.
const (
	pluginName    = "ocicat-cni"
	portmapName   = "ocicat-portmap"
	bandwidthName = "ocicat-bandwidth"
)

// Names that are used where a Conflist has none.
const (
	DefaultFile    = "10-ocicat.conflist"
	DefaultNetwork = "k8s-pod-network" // as Calico's: IPAM handles begin with it
)

// Conflist is what the configuration says that is not the same everywhere.
type Conflist struct {
	// File is its name in the directory, which ends in ".conflist".
	File string
	// Network is the network's name.
	Network string
	// MTU is that of the pods' links in bytes, 0 for the uplink's.
	MTU int
	// Socket is where the plugin finds the agent, "" for its default.
	Socket string
}

func (c Conflist) validate() error {
	switch {
	case c.File != filepath.Base(c.File) || !strings.HasSuffix(c.File, ".conflist") || strings.HasPrefix(c.File, "."):
		return fault.Hint(fault.New(fault.Invalid, "configuration's file %q: want a name that ends in .conflist", c.File), "Correct CNI_CONF_NAME, or unset it.")
	case c.Socket != "" && !filepath.IsAbs(c.Socket):
		return fault.Hint(fault.New(fault.Invalid, "agent's socket %q: want an absolute path", c.Socket), "Correct -run-dir.")
	}
	if err := cniwire.CheckNetwork(c.Network); err != nil {
		return fault.Hint(fault.New(fault.Invalid, "name of the CNI network %w", err), "Correct -cni-network.")
	}
	if err := cniwire.CheckMTU(c.MTU); err != nil {
		return fault.Hint(fault.New(fault.Invalid, "MTU of the pods' links %w", err), "Correct CNI_MTU; 0 is the uplink's.")
	}
	return nil
}

// list is a configuration as the runtime reads it.
type list struct {
	// Version is what runtimes read that do not know Versions; those that do
	// take the newest. 1.0.0 has no STATUS, for which runtimes from before it
	// infer from the file's being there that the node is ready; with 1.1.0
	// every plugin of the list must answer STATUS, and ours and the three we
	// install do.
	Version  string   `json:"cniVersion"`
	Versions []string `json:"cniVersions"`
	Name     string   `json:"name"`
	Mark     string   `json:"ocicat.net/installed-by,omitempty"`
	Plugins  []plugin `json:"plugins"`
}

type plugin struct {
	Type         string          `json:"type"`
	MTU          int             `json:"mtu,omitempty"`
	Socket       string          `json:"socket,omitempty"`
	SNAT         bool            `json:"snat,omitempty"`
	Capabilities map[string]bool `json:"capabilities"`
}

// mark is what a configuration says that an agent has written: it is then
// free to take it away.
const mark = "ocicatd"

// render is the file's content. Pods' annotations come with the runtime's
// call where it has that capability.
func (c Conflist) render() string {
	content := list{
		Version: "1.0.0", Versions: []string{"1.0.0", "1.1.0"}, Name: c.Network, Mark: mark,
		Plugins: []plugin{
			{Type: pluginName, MTU: c.MTU, Socket: c.Socket, Capabilities: map[string]bool{"mac": true, "ips": true, "io.kubernetes.cri.pod-annotations": true}},
			{Type: portmapName, SNAT: true, Capabilities: map[string]bool{"portMappings": true}},
			{Type: bandwidthName, Capabilities: map[string]bool{"bandwidth": true}},
		},
	}
	text, _ := json.MarshalIndent(content, "", "  ") // plain values always encode
	return string(text) + "\n"
}

// configurations are the files of a directory that runtimes read, in their
// order; none where the directory cannot be read.
func configurations(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name())) {
			names = append(names, e.Name())
		}
	}
	return names
}

// read reads a configuration; ok is false for what is none.
func read(path string) (c list, ok bool) {
	text, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(text, &c) != nil {
		return list{}, false
	}
	return c, true
}

// installedByUs says whether an agent wrote a configuration.
func installedByUs(path string) bool {
	c, ok := read(path)
	return ok && c.Mark == mark
}

// callsOurPlugin says whether pods get their network from us by a
// configuration, whoever wrote it.
func callsOurPlugin(path string) bool {
	c, ok := read(path)
	return ok && slices.ContainsFunc(c.Plugins, func(p plugin) bool { return p.Type == pluginName })
}
