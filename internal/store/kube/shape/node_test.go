// SPDX-License-Identifier: Apache-2.0

package shape

import (
	"strings"
	"testing"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/resource"
	"github.com/ocicat-net/ocicat/internal/store"

	v3 "github.com/ocicat-net/ocicat/api/v3"
)

const coreNodeJSON = `{
	"apiVersion": "v1", "kind": "Node",
	"metadata": {
		"name": "k8s-node-1", "uid": "u-1", "resourceVersion": "77", "creationTimestamp": "2026-11-22T10:00:00Z",
		"labels": {"rack": "a"},
		"annotations": {
			"node.alpha.kubernetes.io/ttl": "0",
			"projectcalico.org/IPv4Address": "192.168.0.11/24", "projectcalico.org/ASNumber": "64513",
			"projectcalico.org/RouteReflectorClusterID": "244.0.0.1", "projectcalico.org/IPv4IPIPTunnelAddr": "172.16.109.64",
			"projectcalico.org/WireguardPublicKey": "key", "projectcalico.org/unknown": "kept"
		}
	},
	"spec": {"podCIDRs": ["10.244.0.0/24"], "taints": []},
	"status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.11"}, {"type": "Hostname", "address": "k8s-node-1"}]}
}`

func TestNodeValue(t *testing.T) {
	e, err := resourceOf(t, "Node").Decode([]byte(coreNodeJSON))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "value", []byte(`{
		"apiVersion": "projectcalico.org/v3", "kind": "Node",
		"metadata": {"name": "k8s-node-1", "uid": "u-1", "creationTimestamp": "2026-11-22T10:00:00Z", "labels": {"rack": "a"}, "annotations": {"projectcalico.org/unknown": "kept"}},
		"spec": {
			"bgp": {"asNumber": 64513, "ipv4Address": "192.168.0.11/24", "ipv4IPIPTunnelAddr": "172.16.109.64", "routeReflectorClusterID": "244.0.0.1"},
			"addresses": [{"address": "192.168.0.11/24", "type": "CalicoNodeIP"}, {"address": "192.168.0.11", "type": "InternalIP"}],
			"orchRefs": [{"nodeName": "k8s-node-1", "orchestrator": "k8s"}]
		},
		"status": {"wireguardPublicKey": "key", "podCIDRs": ["10.244.0.0/24"]}
	}`), e.Value)
	if _, err := resource.Decode(e); err != nil {
		t.Errorf("the value is no Node: %v", err)
	}
}

// edited is the value of the core Node after a change.
func edited(t *testing.T, change func(*v3.Node)) []byte {
	t.Helper()
	e, err := resourceOf(t, "Node").Decode([]byte(coreNodeJSON))
	if err != nil {
		t.Fatal(err)
	}
	o, err := resource.Decode(e)
	if err != nil {
		t.Fatal(err)
	}
	change(o.(*v3.Node))
	value, err := resource.Encode(o, e.Value)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func TestNodePatch(t *testing.T) {
	as := v3.ASNumber(64999)
	for _, test := range []struct {
		name   string
		change func(*v3.Node)
		want   string // annotations, "" is no patch
	}{
		{"nothing", func(*v3.Node) {}, ""},
		{"address", func(n *v3.Node) { n.Spec.BGP.IPv4Address = "192.168.0.12/24" }, `{"projectcalico.org/IPv4Address": "192.168.0.12/24"}`},
		{"AS number", func(n *v3.Node) { n.Spec.BGP.ASNumber = &as }, `{"projectcalico.org/ASNumber": "64999"}`},
		{"no AS number", func(n *v3.Node) { n.Spec.BGP.ASNumber = nil }, `{"projectcalico.org/ASNumber": null}`},
		{"annotation", func(n *v3.Node) { n.Metadata.Annotations = map[string]string{"ocicat.net/x": "1"} }, `{"ocicat.net/x": "1", "projectcalico.org/unknown": null}`},
		{"no BGP", func(n *v3.Node) { n.Spec.BGP = nil }, `{"projectcalico.org/IPv4Address": null, "projectcalico.org/ASNumber": null, "projectcalico.org/RouteReflectorClusterID": null, "projectcalico.org/IPv4IPIPTunnelAddr": null}`},
	} {
		patch, err := NodePatch([]byte(coreNodeJSON), edited(t, test.change), 77)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if test.want == "" {
			if patch != nil {
				t.Errorf("%s: %s, want no patch", test.name, patch)
			}
			continue
		}
		same(t, test.name, []byte(`{"metadata": {"resourceVersion": "77", "annotations": `+test.want+`}}`), patch)
	}
}

func TestNodePatchRefuses(t *testing.T) {
	for name, change := range map[string]func(*v3.Node){
		"labels": func(n *v3.Node) { n.Metadata.Labels["rack"] = "b" },
		"name":   func(n *v3.Node) { n.Metadata.Name = "other" },
	} {
		if patch, err := NodePatch([]byte(coreNodeJSON), edited(t, change), store.AnyRevision); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %s, %v, want invalid", name, patch, err)
		}
	}
	_, err := NodePatch([]byte(coreNodeJSON), edited(t, func(n *v3.Node) { n.Metadata.Labels = nil }), 1)
	if !strings.Contains(fault.HintOf(err), "kubectl label node k8s-node-1") {
		t.Errorf("labels: hint %q", fault.HintOf(err))
	}
}
