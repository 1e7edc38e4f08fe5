// SPDX-License-Identifier: Apache-2.0

package shape

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/ocicat-net/ocicat/api/meta"
	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
)

// nodePrefixes begin the annotations of core Nodes that are ours to write.
var nodePrefixes = []string{"projectcalico.org/", "ocicat.net/"}

// node is the core Node: what Calico knows of it beyond Kubernetes stands in
// annotations.
type node struct{}

// nodeField is an annotation and the field of our Node it holds.
type nodeField struct {
	annotation string
	get        func(*v3.Node) string
	set        func(*v3.Node, string)
}

// nodeFields is the table of annotations, in Calico's words.
func nodeFields() []nodeField {
	text := func(name string, field func(*v3.Node) *string) nodeField {
		return nodeField{
			annotation: "projectcalico.org/" + name,
			get:        func(n *v3.Node) string { return *field(n) },
			set:        func(n *v3.Node, value string) { *field(n) = value },
		}
	}
	return []nodeField{
		text("IPv4Address", func(n *v3.Node) *string { return &n.Spec.BGP.IPv4Address }),
		text("IPv6Address", func(n *v3.Node) *string { return &n.Spec.BGP.IPv6Address }),
		text("IPv4IPIPTunnelAddr", func(n *v3.Node) *string { return &n.Spec.BGP.IPv4IPIPTunnelAddr }),
		text("RouteReflectorClusterID", func(n *v3.Node) *string { return &n.Spec.BGP.RouteReflectorClusterID }),
		{annotation: "projectcalico.org/ASNumber", get: asNumber, set: setASNumber},
		text("IPv4VXLANTunnelAddr", func(n *v3.Node) *string { return &n.Spec.IPv4VXLANTunnelAddr }),
		text("VXLANTunnelMACAddr", func(n *v3.Node) *string { return &n.Spec.VXLANTunnelMACAddr }),
		text("IPv6VXLANTunnelAddr", func(n *v3.Node) *string { return &n.Spec.IPv6VXLANTunnelAddr }),
		text("VXLANTunnelMACAddrV6", func(n *v3.Node) *string { return &n.Spec.VXLANTunnelMACAddrV6 }),
		text("IPv4WireguardInterfaceAddr", func(n *v3.Node) *string { return &n.Spec.Wireguard.InterfaceIPv4Address }),
		text("IPv6WireguardInterfaceAddr", func(n *v3.Node) *string { return &n.Spec.Wireguard.InterfaceIPv6Address }),
		text("WireguardPublicKey", func(n *v3.Node) *string { return &n.Status.WireguardPublicKey }),
		text("WireguardPublicKeyV6", func(n *v3.Node) *string { return &n.Status.WireguardPublicKeyV6 }),
	}
}

func asNumber(n *v3.Node) string {
	if n.Spec.BGP.ASNumber == nil {
		return ""
	}
	return fmt.Sprint(*n.Spec.BGP.ASNumber)
}

// setASNumber leaves out what is no number, as Calico does.
func setASNumber(n *v3.Node, value string) {
	var as v3.ASNumber
	if value != "" && as.UnmarshalText([]byte(value)) == nil {
		n.Spec.BGP.ASNumber = &as
	}
}

// coreNode is what we read of a core Node.
type coreNode struct {
	Metadata meta.Object `json:"metadata"`
	Spec     struct {
		PodCIDRs []string `json:"podCIDRs"`
	} `json:"spec"`
	Status struct {
		Addresses []v3.NodeAddress `json:"addresses"`
	} `json:"status"`
}

func (node) value(name string, o object) (string, []byte, error) {
	var core coreNode
	if err := json.Unmarshal(marshal(o), &core); err != nil {
		return "", nil, err
	}
	n := &v3.Node{Type: meta.Type{APIVersion: v3.APIVersion, Kind: v3.KindNode}, Metadata: core.Metadata}
	n.Metadata.ResourceVersion = ""
	n.Spec.BGP, n.Spec.Wireguard, n.Status = &v3.NodeBGPSpec{}, &v3.NodeWireguardSpec{}, &v3.NodeStatus{PodCIDRs: core.Spec.PodCIDRs}
	n.Metadata.Annotations = ours(core.Metadata.Annotations)
	for _, f := range nodeFields() {
		f.set(n, core.Metadata.Annotations[f.annotation])
		delete(n.Metadata.Annotations, f.annotation)
	}
	n.Spec.OrchRefs = []v3.OrchRef{{NodeName: name, Orchestrator: "k8s"}}
	n.Spec.Addresses = nodeAddresses(n.Spec.BGP, core.Status.Addresses)
	if *n.Spec.BGP == (v3.NodeBGPSpec{}) {
		n.Spec.BGP = nil
	}
	if *n.Spec.Wireguard == (v3.NodeWireguardSpec{}) {
		n.Spec.Wireguard = nil
	}
	if s := n.Status; s.WireguardPublicKey == "" && s.WireguardPublicKeyV6 == "" && len(s.PodCIDRs) == 0 {
		n.Status = nil
	}
	value, err := json.Marshal(n)
	return name, value, err
}

// ours are the annotations with one of our prefixes.
func ours(annotations map[string]string) map[string]string {
	kept := map[string]string{}
	for name, value := range annotations {
		for _, prefix := range nodePrefixes {
			if strings.HasPrefix(name, prefix) {
				kept[name] = value
			}
		}
	}
	return kept
}

// nodeAddresses are the addresses of the sessions and those Kubernetes knows,
// in Calico's order.
func nodeAddresses(bgp *v3.NodeBGPSpec, core []v3.NodeAddress) []v3.NodeAddress {
	var all []v3.NodeAddress
	for _, address := range []string{bgp.IPv4Address, bgp.IPv6Address} {
		if address != "" {
			all = append(all, v3.NodeAddress{Address: address, Type: "CalicoNodeIP"})
		}
	}
	for _, a := range core {
		if a.Type == "InternalIP" || a.Type == "ExternalIP" {
			all = append(all, a)
		}
	}
	return all
}

func (node) fields(store.Key, []byte) (object, error) {
	return nil, errors.New("nodes are patched by NodePatch")
}

// NodePatch is the JSON merge patch (RFC 7386) of a core Node that makes its
// annotations hold value; current is the Node as the API gave it, whose version
// the patch is bound to unless prev is store.AnyRevision. Only annotations are
// changed: labels that differ from the Node's are Invalid. Nothing is returned
// where there is nothing to change.
func NodePatch(current, value []byte, prev store.Revision) ([]byte, error) {
	var core coreNode
	if err := json.Unmarshal(current, &core); err != nil {
		return nil, fault.New(fault.Internal, "read Node: %w", err)
	}
	var n v3.Node
	if err := json.Unmarshal(value, &n); err != nil {
		return nil, fault.New(fault.Invalid, "put Node %s: %w", core.Metadata.Name, err)
	}
	if n.Metadata.Name != core.Metadata.Name {
		return nil, fault.New(fault.Invalid, "put Node %s: metadata.name: %q", core.Metadata.Name, n.Metadata.Name)
	}
	if !maps.Equal(n.Metadata.Labels, core.Metadata.Labels) {
		err := fault.New(fault.Invalid, "put Node %s: metadata.labels: differ from the labels of the Node in Kubernetes", core.Metadata.Name)
		return nil, fault.Hint(err, "Change them with kubectl label node %s.", core.Metadata.Name)
	}
	changes := annotationChanges(core.Metadata.Annotations, wantedAnnotations(&n))
	if len(changes) == 0 {
		return nil, nil
	}
	metadata := map[string]any{"annotations": changes}
	if prev != store.AnyRevision {
		metadata["resourceVersion"] = formatRevision(prev)
	}
	return marshal(map[string]any{"metadata": metadata}), nil
}

// wantedAnnotations are all annotations with our prefixes that hold n.
func wantedAnnotations(n *v3.Node) map[string]string {
	if n.Spec.BGP == nil {
		n.Spec.BGP = &v3.NodeBGPSpec{}
	}
	if n.Spec.Wireguard == nil {
		n.Spec.Wireguard = &v3.NodeWireguardSpec{}
	}
	if n.Status == nil {
		n.Status = &v3.NodeStatus{}
	}
	wanted := ours(n.Metadata.Annotations)
	for _, f := range nodeFields() {
		delete(wanted, f.annotation)
		if value := f.get(n); value != "" {
			wanted[f.annotation] = value
		}
	}
	return wanted
}

// annotationChanges are what to set and, as nil, what to remove.
func annotationChanges(current, wanted map[string]string) map[string]*string {
	changes := map[string]*string{}
	for name := range ours(current) {
		if _, stays := wanted[name]; !stays {
			changes[name] = nil
		}
	}
	for name, value := range wanted {
		if now, given := current[name]; !given || now != value {
			changes[name] = &value
		}
	}
	return changes
}
