// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ocicat-net/ocicat/api/meta"
	v3 "github.com/ocicat-net/ocicat/api/v3"
)

func ipPool(name string, spec v3.IPPoolSpec) *v3.IPPool {
	return &v3.IPPool{Metadata: meta.Object{Name: name, Generation: 3}, Spec: spec}
}

// TestJudge: each thing that can be wrong with a pool has its reason and says
// what to do; a pool that has nothing to do with it is ready.
func TestJudge(t *testing.T) {
	nodes := map[string]netip.Prefix{
		"n2": netip.MustParsePrefix("192.168.1.0/24"), "n1": netip.MustParsePrefix("192.168.0.0/24"), "none": {},
	}
	services := []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("10.112.0.0/24")}
	no := func(reason, message string) meta.Condition {
		return meta.Condition{Type: "Ready", Status: "False", Reason: reason, Message: message, ObservedGeneration: 3}
	}
	yes := meta.Condition{Type: "Ready", Status: "True", Reason: "Usable", Message: "pods can get addresses of it", ObservedGeneration: 3}
	const another = "Make another pool outside of that range, disable this one, and move its pods."
	for _, test := range []struct {
		name string
		spec v3.IPPoolSpec
		want meta.Condition
	}{
		{"apart", v3.IPPoolSpec{CIDR: "172.17.0.0/16"}, yes},
		{"beside the services", v3.IPPoolSpec{CIDR: "10.97.0.0/16"}, yes},
		{"service range", v3.IPPoolSpec{CIDR: "10.96.128.0/17"}, no("OC2008", "OC2008: pool x 10.96.128.0/17 overlaps the service range 10.96.0.0/16: a pod and a Service may have one address. "+another)},
		{"all service ranges", v3.IPPoolSpec{CIDR: "10.0.0.0/8"}, no("OC2008", "OC2008: pool x 10.0.0.0/8 overlaps the service range 10.96.0.0/16: a pod and a Service may have one address. "+another)},
		{"nodes", v3.IPPoolSpec{CIDR: "192.168.0.0/16"}, no("OC2001", "OC2001: pool x 192.168.0.0/16 overlaps network 192.168.0.0/24 of node n1: the pool is not used on nodes of that network. Choose another CIDR for the pool, or disable it.")},
		{"a pool", v3.IPPoolSpec{CIDR: "172.16.128.0/20"}, no("OC2004", "OC2004: pool x overlaps pool default: the later one is not used. Delete one of the two, or correct its CIDR.")},
		{"selector", v3.IPPoolSpec{CIDR: "172.17.0.0/16", NodeSelector: "role == "}, no("OC2007", `OC2007: pool x: nodeSelector: selector "role == ": ends where a text in quotes should follow: the pool selects nothing. Correct the selector, as in projectcalico.org/zone == 'a'; all() selects everything.`)},
		{"encapsulation", v3.IPPoolSpec{CIDR: "172.17.0.0/16", VXLANMode: "CrossSubnet"}, no("OC4002", "OC4002: pool x asks for vxlanMode CrossSubnet, which this version does not do: routes of other nodes are installed without encapsulation where the next hop is on the link. Set the pool's ipipMode and vxlanMode to Never.")},
		{"not a CIDR", v3.IPPoolSpec{CIDR: "172.17"}, no("OC5002", `OC5002: IPPool x: pool x: spec.cidr "172.17": not a prefix: ignored, the others go on. Correct or delete the object; a newer version of Ocicat may have written it.`)},
		{"disabled", v3.IPPoolSpec{CIDR: "172.17.0.0/16", Disabled: true}, no("Disabled", "no new address is given from it; those in use stay")},
		{"disabled over nodes and services", v3.IPPoolSpec{CIDR: "0.0.0.0/1", Disabled: true}, no("Disabled", "no new address is given from it; those in use stay")},
		{"two at once", v3.IPPoolSpec{CIDR: "10.96.0.0/20", IPIPMode: "Always"}, no("OC2008", "OC2008: pool x 10.96.0.0/20 overlaps the service range 10.96.0.0/16: a pod and a Service may have one address. "+another+" OC4002: pool x asks for ipipMode Always, which this version does not do: routes of other nodes are installed without encapsulation where the next hop is on the link. Set the pool's ipipMode and vxlanMode to Never.")},
	} {
		t.Run(test.name, func(t *testing.T) {
			// The later by name is not used, in whichever order they come.
			f := poolFacts{pools: []*v3.IPPool{ipPool("x", test.spec), ipPool("default", v3.IPPoolSpec{CIDR: "172.16.0.0/16"})}, nodes: nodes, services: services}
			if diff := cmp.Diff(map[string]meta.Condition{"x": test.want, "default": yes}, judge(f)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
