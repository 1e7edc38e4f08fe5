// SPDX-License-Identifier: Apache-2.0

package kubenode

import (
	"encoding/json"
	"errors"
	"os"

	"github.com/ocicat-net/ocicat/internal/statefile"
)

// remembered are the namespaces' annotations of ours and labels, when all were
// known: a pod that comes while the API server is away, after a restart, gets
// its address from the right pools.
type remembered struct {
	Namespaces map[string]map[string]string `json:"namespaces"` // annotations
	Labels     map[string]map[string]string `json:"labels,omitempty"`
}

// recall reads the file. None, or one that cannot be read, is as if nothing had
// been known.
func (n *Node) recall() {
	if n.cfg.File == "" {
		return
	}
	data, err := statefile.Namespaces.Read(n.cfg.File)
	var r remembered
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			n.cfg.Log.Warn("annotations of namespaces not recalled", "error", err)
		}
		return
	}
	n.namespaces.known = true
	for name, annotations := range r.Namespaces {
		n.namespaces.by[name] = note{annotations, r.Labels[name]}
	}
	for name, labels := range r.Labels {
		n.namespaces.by[name] = note{r.Namespaces[name], labels}
	}
}

// remember writes the file.
func (n *Node) remember() {
	if n.cfg.File == "" {
		return
	}
	r := remembered{Namespaces: map[string]map[string]string{}, Labels: map[string]map[string]string{}}
	n.mu.Lock()
	for name, kept := range n.namespaces.by {
		if len(kept.Annotations) > 0 {
			r.Namespaces[name] = kept.Annotations
		}
		if len(kept.Labels) > 0 {
			r.Labels[name] = kept.Labels
		}
	}
	n.mu.Unlock()
	data, err := json.Marshal(r)
	if err == nil {
		err = statefile.Namespaces.Write(n.cfg.File, data, false)
	}
	if err != nil {
		n.cfg.Log.Warn("annotations of namespaces not kept for a restart without the API server", "error", err)
	}
}
