// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
)

// TestNamespacePools: a pool of a namespace comes beside the pools of all.
func TestNamespacePools(t *testing.T) {
	pool := func(name, text, selector string) cluster.Pool {
		return cluster.Pool{Name: name, CIDR: netip.MustParsePrefix(text), BlockSize: 26, NamespaceSelector: selector}
	}
	everyone, team := pool("everyone", "10.0.0.0/24", ""), pool("team", "10.0.1.0/24", "team == 'x'")
	manual, disabled := team, team
	manual.Manual, disabled.Disabled = true, true
	elsewhere := team
	elsewhere.NodeSelector = "zone == 'b'"
	x, y := map[string]string{"team": "x"}, map[string]string{}
	for _, test := range []struct {
		name      string
		pools     []cluster.Pool
		namespace map[string]string // nil: must not be asked for
		want      []string
		problem   string
	}{
		{"no pool of a namespace", []cluster.Pool{everyone}, nil, nil, ""},
		{"only by name", []cluster.Pool{everyone, manual}, nil, nil, ""},
		{"disabled", []cluster.Pool{everyone, disabled}, nil, nil, ""},
		{"selected", []cluster.Pool{team, everyone}, x, []string{"everyone", "team"}, ""},
		{"selected alone", []cluster.Pool{team}, x, []string{"team"}, ""},
		{"not selected", []cluster.Pool{team, everyone}, y, nil, ""},
		{"selected, of other nodes", []cluster.Pool{elsewhere, everyone}, x, nil, ""},
		{"no other pool", []cluster.Pool{team}, y, nil, "team has namespaceSelector team == 'x', which does not select the namespace"},
	} {
		c := NewClient(ClientConfig{Pools: func(context.Context) ([]cluster.Pool, error) { return test.pools, nil }, NodeLabels: noLabels})
		got, err := c.NamespacePools(t.Context(), "n1", func() (map[string]string, error) {
			if test.namespace == nil {
				t.Errorf("%s: labels are asked for", test.name)
			}
			return test.namespace, nil
		})
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
		if (err != nil) != (test.problem != "") || err != nil && (!fault.Is(err, fault.Exhausted) || !strings.Contains(err.Error(), test.problem)) {
			t.Errorf("%s: %v, want %q", test.name, err, test.problem)
		}
	}
	c := NewClient(ClientConfig{Pools: func(context.Context) ([]cluster.Pool, error) { return []cluster.Pool{everyone, team}, nil }, NodeLabels: noLabels})
	if _, err := c.NamespacePools(t.Context(), "n1", func() (map[string]string, error) {
		return nil, fault.New(fault.Unavailable, "nobody answers")
	}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("labels not known: %v", err)
	}
}
