// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/ocicat-net/ocicat/internal/fault"
	"go.yaml.in/yaml/v3"
)

// YAML prints a value the way its JSON would be: the same names, the same
// order, two spaces of indentation. It is what Parse reads.
func YAML(value any) ([]byte, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return nil, fault.New(fault.Internal, "print as YAML: %w", err)
	}
	var node yaml.Node
	if err := yaml.Unmarshal(text, &node); err != nil {
		return nil, fault.New(fault.Internal, "print as YAML: %w", err)
	}
	block(&node)
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(&node); err != nil {
		return nil, fault.New(fault.Internal, "print as YAML: %w", err)
	}
	return out.Bytes(), nil
}

// block turns the flow style of JSON into YAML's block style. Strings stay
// quoted only where they would be read as something else.
func block(n *yaml.Node) {
	if n.Kind != yaml.ScalarNode {
		empty := len(n.Content) == 0
		if !empty {
			n.Style = 0
		}
		for _, child := range n.Content {
			block(child)
		}
		return
	}
	if n.Tag == "!!str" && !ambiguous(n.Value) {
		n.Style = 0
	}
}

// ambiguous says that other YAML readers take the plain text for something
// else than a string: words for booleans, and numbers of base 60.
func ambiguous(s string) bool {
	switch strings.ToLower(s) {
	case "y", "n", "yes", "no", "on", "off":
		return true
	}
	return strings.Trim(s, "0123456789:._+-") == "" && strings.Contains(s, ":")
}
