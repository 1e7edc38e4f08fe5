// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"encoding/json"
	"slices"

	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
)

// chained is the result of the plugins before ours in the list, key by key:
// what we do not know of it is passed on as it came. Nil is for none.
type chained map[string]json.RawMessage

// parseChained reads ADD's prevResult. The interface asked for must not be in
// it: that one is ours to make.
func parseChained(stdin []byte, ifName string) (chained, error) {
	var conf struct {
		PrevResult chained `json:"prevResult"`
	}
	if err := unmarshal(stdin, &conf); err != nil {
		return nil, err
	}
	c := conf.PrevResult
	var made []netIf
	for key, list := range map[string]any{"interfaces": &made, "ips": &[]json.RawMessage{}, "routes": &[]json.RawMessage{}} {
		if text, ok := c[key]; ok {
			if err := json.Unmarshal(text, list); err != nil {
				return nil, decodeError("configuration: prevResult.%s: %w", key, err)
			}
		}
	}
	if slices.ContainsFunc(made, func(i netIf) bool { return i.Name == ifName && i.Sandbox != "" }) {
		return nil, fault.Hint(invalid("prevResult has interface %s in the pod already: a plugin before ocicat-cni made it", cniwire.Short(ifName)),
			`A list has one plugin that makes the pod's interface. Put "ocicat-cni" first in the conflist's plugins, and take the other one out.`)
	}
	return c, nil
}

// interfaces is how many interfaces were made before ours.
func (c chained) interfaces() int { return len(c.list("interfaces")) }

func (c chained) list(key string) (items []json.RawMessage) {
	_ = json.Unmarshal(c[key], &items) // parseChained has seen that it is a list, or missing
	return items
}

// with is the result of all plugins up to ours: what was there stays as it is
// and where it is, ours comes behind.
func (c chained) with(ours []byte) ([]byte, error) {
	var own chained
	if err := json.Unmarshal(ours, &own); err != nil {
		return nil, fault.New(fault.Internal, "read the own result: %w", err)
	}
	for _, key := range []string{"interfaces", "ips", "routes"} {
		items := append(c.list(key), own.list(key)...)
		if len(items) == 0 {
			continue
		}
		text, err := json.Marshal(items)
		if err != nil {
			return nil, fault.New(fault.Internal, "print the result: %w", err)
		}
		c[key] = text
	}
	c["cniVersion"] = own["cniVersion"]
	if _, ok := c["dns"]; !ok {
		c["dns"] = own["dns"]
	}
	text, err := json.Marshal(c)
	if err != nil {
		return nil, fault.New(fault.Internal, "print the result: %w", err)
	}
	return text, nil
}
