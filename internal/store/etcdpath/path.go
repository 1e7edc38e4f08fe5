// SPDX-License-Identifier: Apache-2.0

// Package etcdpath maps objects to the keys etcd stores them under: Calico's
// own for the kinds Calico has, so that a cluster of its nodes can be taken
// over, and keys below /ocicat for the others. It talks to nobody.
package etcdpath

import (
	"strings"

	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/store"
)

// Roots of the keys.
const (
	// Root begins every key.
	Root           = "/calico/"
	resourceRoot   = "/calico/resources/v3/projectcalico.org/"
	blockRoot      = "/calico/ipam/v2/assignment/"
	affinityRoot   = "/calico/ipam/v2/host/"
	handleRoot     = "/calico/ipam/v2/handle/"
	ipamConfigPath = "/calico/ipam/v2/config"
	ownRoot        = "/ocicat/v1/"
)

// named are the kinds whose key is a root and the name.
func named(kind store.Kind) (root string, ok bool) {
	switch kind {
	case store.IPPool:
		return resourceRoot + "ippools/", true
	case store.IPReservation:
		return resourceRoot + "ipreservations/", true
	case store.BGPConfiguration:
		return resourceRoot + "bgpconfigurations/", true
	case store.BGPPeer:
		return resourceRoot + "bgppeers/", true
	case store.Node:
		return resourceRoot + "nodes/", true
	case store.Handle:
		return handleRoot, true
	case store.OcicatConfiguration:
		return ownRoot + "ocicatconfigurations/", true
	case store.NodeStatus:
		return ownRoot + "nodestatuses/", true
	case store.Heartbeat:
		return ownRoot + "heartbeats/", true
	case store.Election:
		return ownRoot + "elections/", true
	}
	return "", false
}

// Of is the etcd key of an object with a valid key.
func Of(key store.Key) string {
	switch key.Kind {
	case store.Block:
		return blockRoot + blockDir(key.Name) + key.Name
	case store.Affinity:
		node, block, _ := strings.Cut(key.Name, "/")
		return affinityRoot + node + "/" + blockDir(block) + block
	case store.IPAMConfig:
		return ipamConfigPath
	}
	root, _ := named(key.Kind)
	return root + key.Name
}

// Parse is the inverse of Of for one kind; ok is false for keys that no object
// of that kind has.
func Parse(kind store.Kind, path string) (key store.Key, ok bool) {
	key.Kind = kind
	switch kind {
	case store.Block:
		key.Name, ok = cutBlock(strings.CutPrefix(path, blockRoot))
	case store.Affinity:
		rest, below := strings.CutPrefix(path, affinityRoot)
		node, block, deep := strings.Cut(rest, "/")
		block, ok = cutBlock(block, below && deep)
		key.Name = node + "/" + block
	case store.IPAMConfig:
		key.Name, ok = "default", path == ipamConfigPath
	default:
		root, known := named(kind)
		key.Name, ok = strings.CutPrefix(path, root)
		ok = ok && known
	}
	if !ok || key.Validate() != nil {
		return store.Key{}, false
	}
	return key, true
}

// Scope is the etcd prefix under which all objects of a kind lie whose names
// start with prefix. Objects of other names may lie there too.
func Scope(kind store.Kind, prefix string) string {
	switch kind {
	case store.Block:
		switch { // a prefix without either may be of both families
		case strings.Contains(prefix, ":"):
			return blockRoot + "ipv6/block/" + prefix
		case strings.Contains(prefix, "."):
			return blockRoot + "ipv4/block/" + prefix
		}
		return blockRoot
	case store.Affinity:
		node, _, whole := strings.Cut(prefix, "/")
		if whole {
			node += "/"
		}
		return affinityRoot + node
	case store.IPAMConfig:
		return ipamConfigPath
	}
	root, _ := named(kind)
	return root + prefix
}

// blockDir is what stands before a block's name: its family.
func blockDir(block string) string {
	if p, err := names.ParseBlock(block); err == nil && p.Addr().Is6() {
		return "ipv6/block/"
	}
	return "ipv4/block/"
}

// cutBlock takes the family off "ipv4/block/10.0.0.0-26" and checks it.
func cutBlock(rest string, ok bool) (block string, valid bool) {
	if !ok {
		return "", false
	}
	at := strings.LastIndexByte(rest, '/') + 1
	block = rest[at:]
	return block, rest[:at] == blockDir(block)
}
