// SPDX-License-Identifier: Apache-2.0

// Package resource turns text into resources and back: files people write
// (strictly, with the line of every mistake) and values in the datastore
// (tolerantly, keeping what a newer version added). It also holds the one
// table of kinds. It does not know what a resource means for a node.
package resource

import (
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/api/meta"
	v1 "github.com/ocicat-net/ocicat/api/v1"
	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
)

// Object is a resource of any kind.
type Object interface {
	// TypeMeta returns the object's kind and version.
	TypeMeta() *meta.Type
	// ObjectMeta returns the object's name and labels.
	ObjectMeta() *meta.Object
	// SetDefaults fills what was left out.
	SetDefaults()
	// Selectors lists the fields that hold selectors.
	Selectors() []meta.Field
	// Validate reports what is wrong with the object on its own.
	Validate() []meta.Finding
}

// Kind is one row of the table of kinds.
type Kind struct {
	// Name is the kind as it stands in files.
	Name string
	// APIVersion is the only version served.
	APIVersion string
	// Stored is the kind under which the datastore keeps it.
	Stored store.Kind
	// Plural is the word people use; names are printed as plural/name.
	Plural string
	// Words are the other words people use, lower case.
	Words []string
	// Older are other names of the kind that files may use.
	Older []string
	// ReadOnly kinds are written by agents alone.
	ReadOnly bool
	// New returns an empty object with its type set.
	New func() Object
	// Columns are the table's columns behind NAME.
	Columns []Column
}

// Column is one column of a kind's table.
type Column struct {
	// Title is the header, in capitals.
	Title string
	// Wide columns are printed with -o wide only.
	Wide bool
	// Value is the cell of an object.
	Value func(Object) string
}

// Kinds returns the table, in the order of the documentation. No kind has
// namespaces.
func Kinds() []Kind {
	return []Kind{
		{
			Name: v3.KindIPPool, APIVersion: v3.APIVersion, Stored: store.IPPool, Plural: "ippools",
			Words: []string{"ippool", "pool", "pools", "ipp", "ipps"}, New: func() Object { return &v3.IPPool{Type: v3Type(v3.KindIPPool)} },
			Columns: poolColumns,
		},
		{
			Name: v3.KindIPReservation, APIVersion: v3.APIVersion, Stored: store.IPReservation, Plural: "ipreservations",
			Words: []string{"ipreservation", "reservation", "reservations", "ipr"}, New: func() Object { return &v3.IPReservation{Type: v3Type(v3.KindIPReservation)} },
			Columns: reservationColumns,
		},
		{
			Name: v3.KindIPAMConfiguration, APIVersion: v3.APIVersion, Stored: store.IPAMConfig, Plural: "ipamconfigurations",
			Words: []string{"ipamconfiguration", "ipamconfig", "ipamconfigs"}, Older: []string{"IPAMConfig"},
			New:     func() Object { return &v3.IPAMConfiguration{Type: v3Type(v3.KindIPAMConfiguration)} },
			Columns: ipamColumns,
		},
		{
			Name: v3.KindBGPConfiguration, APIVersion: v3.APIVersion, Stored: store.BGPConfiguration, Plural: "bgpconfigurations",
			Words: []string{"bgpconfiguration", "bgpconfig", "bgpconfigs"}, New: func() Object { return &v3.BGPConfiguration{Type: v3Type(v3.KindBGPConfiguration)} },
			Columns: bgpColumns,
		},
		{
			Name: v3.KindBGPPeer, APIVersion: v3.APIVersion, Stored: store.BGPPeer, Plural: "bgppeers",
			Words: []string{"bgppeer", "peer", "peers", "bgpp", "bgpps", "bp", "bps"}, New: func() Object { return &v3.BGPPeer{Type: v3Type(v3.KindBGPPeer)} },
			Columns: peerColumns,
		},
		{
			Name: v3.KindNode, APIVersion: v3.APIVersion, Stored: store.Node, Plural: "nodes",
			Words: []string{"node", "no", "nos"}, New: func() Object { return &v3.Node{Type: v3Type(v3.KindNode)} },
			Columns: nodeColumns,
		},
		{
			Name: v1.KindOcicatConfiguration, APIVersion: v1.APIVersion, Stored: store.OcicatConfiguration, Plural: "ocicatconfigurations",
			Words: []string{"ocicatconfiguration", "ocicatconfig", "config"}, New: func() Object { return &v1.OcicatConfiguration{Type: v1Type(v1.KindOcicatConfiguration)} },
			Columns: configColumns,
		},
		{
			Name: v1.KindNodeStatus, APIVersion: v1.APIVersion, Stored: store.NodeStatus, Plural: "nodestatuses",
			Words: []string{"nodestatus", "ns"}, ReadOnly: true, New: func() Object { return &v1.NodeStatus{Type: v1Type(v1.KindNodeStatus)} },
			Columns: statusColumns,
		},
	}
}

func v3Type(kind string) meta.Type { return meta.Type{APIVersion: v3.APIVersion, Kind: kind} }
func v1Type(kind string) meta.Type { return meta.Type{APIVersion: v1.APIVersion, Kind: kind} }

// Find returns the kind people mean by word: its name, its plural or another
// of its words, in any letter case. An unknown word is Invalid.
func Find(word string) (Kind, error) {
	lower := strings.ToLower(word)
	var words []string
	for _, k := range Kinds() {
		if lower == strings.ToLower(k.Name) || lower == k.Plural || slices.Contains(k.Words, lower) {
			return k, nil
		}
		words = append(words, k.Plural)
		words = append(words, k.Words...)
	}
	err := fault.New(fault.Invalid, "unknown kind of resource %q", word)
	if near := meta.DidYouMean(lower, words); near != "" {
		return Kind{}, fault.Hint(err, "%s", near)
	}
	return Kind{}, fault.Hint(err, "Kinds are %s.", strings.Join(Plurals(), ", "))
}

// Plurals lists the kinds by the words people use.
func Plurals() []string {
	var words []string
	for _, k := range Kinds() {
		words = append(words, k.Plural)
	}
	return words
}

// FindStored returns the kind that the datastore keeps under this name; false
// for kinds that are not resources, such as IPAM blocks.
func FindStored(stored store.Kind) (Kind, bool) {
	for _, k := range Kinds() {
		if k.Stored == stored {
			return k, true
		}
	}
	return Kind{}, false
}

// KindOf returns the row of the table for an object.
func KindOf(o Object) Kind {
	for _, k := range Kinds() {
		if k.Name == o.TypeMeta().Kind {
			return k
		}
	}
	return Kind{Name: o.TypeMeta().Kind}
}

// Key is where the datastore keeps the object.
func Key(o Object) store.Key {
	return store.Key{Kind: KindOf(o).Stored, Name: o.ObjectMeta().Name}
}

// String is kind and name of the object as they appear in messages.
func String(o Object) string { return o.TypeMeta().Kind + " " + o.ObjectMeta().Name }

// Reference is plural and name of the object joined by a slash, the form of
// -o name and of apply's lines.
func Reference(o Object) string { return KindOf(o).Plural + "/" + o.ObjectMeta().Name }
