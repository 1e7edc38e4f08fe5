// SPDX-License-Identifier: Apache-2.0

package shape

import "github.com/ocicat-net/ocicat/internal/store"

// The groups and versions of the resources.
const (
	calicoV3 = "projectcalico.org/v3"
	calicoV1 = "crd.projectcalico.org/v1"
	ocicatV1 = "ocicat.net/v1"
)

// Profile says which resource holds each kind. There are two: V3 and V1.
type Profile struct {
	// Name is the API version of Calico's kinds in it.
	Name      string
	resources map[store.Kind]Resource
}

// Resource is where a kind is held. An unknown kind has none.
func (p Profile) Resource(kind store.Kind) (Resource, bool) {
	r, ok := p.resources[kind]
	return r, ok
}

// V3 holds Calico's kinds as projectcalico.org/v3.
func V3() Profile {
	return profile(calicoV3, []Resource{
		{Stored: store.IPPool, Kind: "IPPool", Plural: "ippools", codec: whole{}},
		{Stored: store.IPReservation, Kind: "IPReservation", Plural: "ipreservations", codec: whole{}},
		{Stored: store.BGPConfiguration, Kind: "BGPConfiguration", Plural: "bgpconfigurations", codec: whole{}},
		{Stored: store.BGPPeer, Kind: "BGPPeer", Plural: "bgppeers", codec: whole{}},
		{Stored: store.IPAMConfig, Kind: "IPAMConfiguration", Plural: "ipamconfigurations", codec: config{}},
		{Stored: store.Block, Kind: "IPAMBlock", Plural: "ipamblocks", codec: block{}},
		{Stored: store.Affinity, Kind: "BlockAffinity", Plural: "blockaffinities", codec: affinity{}},
		{Stored: store.Handle, Kind: "IPAMHandle", Plural: "ipamhandles", codec: handle{}},
	})
}

// profile is Calico's kinds under one version, and what is the same in both.
func profile(version string, calico []Resource) Profile {
	p := Profile{Name: version, resources: map[store.Kind]Resource{}}
	for _, r := range calico {
		r.APIVersion = version
		p.resources[r.Stored] = r
	}
	for _, r := range []Resource{
		{Stored: store.OcicatConfiguration, Kind: "OcicatConfiguration", Plural: "ocicatconfigurations", codec: whole{}},
		{Stored: store.NodeStatus, Kind: "NodeStatus", Plural: "nodestatuses", codec: whole{status: true}},
		{Stored: store.Heartbeat, Kind: "Heartbeat", Plural: "heartbeats", codec: spec{}},
		{Stored: store.Election, Kind: "Election", Plural: "elections", codec: spec{}},
	} {
		r.APIVersion = ocicatV1
		p.resources[r.Stored] = r
	}
	p.resources[store.Node] = Resource{Stored: store.Node, APIVersion: "v1", Kind: "Node", Plural: "nodes", codec: node{}}
	return p
}
