// SPDX-License-Identifier: Apache-2.0

package shape

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/store"
)

// spec keeps a value without metadata as the spec of an object.
type spec struct{}

func (spec) value(name string, o object) (string, []byte, error) {
	s, err := specOf(o)
	return name, marshal(s), err
}

func (spec) fields(_ store.Key, value []byte) (object, error) {
	v, err := flat(value)
	return object{"spec": marshal(v)}, err
}

// specOf is the spec of an object, never nil.
func specOf(o object) (object, error) {
	s := object{}
	if err := json.Unmarshal(o["spec"], &s); err != nil || s == nil {
		return nil, fmt.Errorf("spec: want an object: %w", errors.Join(err))
	}
	return s, nil
}

// flat is a value that is a JSON object, without its null fields: a schema
// knows none but those of lists.
func flat(value []byte) (object, error) {
	var v object
	if err := json.Unmarshal(value, &v); err != nil || v == nil {
		return nil, fmt.Errorf("want a JSON object: %w", errors.Join(err))
	}
	for field, raw := range v {
		if string(raw) == "null" {
			delete(v, field)
		}
	}
	return v, nil
}

// rename moves a field, where it exists.
func rename(o object, from, to string) {
	if raw, given := o[from]; given {
		delete(o, from)
		o[to] = raw
	}
}

// text is a field that must be a string.
func text(o object, field string) (string, error) {
	var s string
	if err := json.Unmarshal(o[field], &s); err != nil {
		return "", fmt.Errorf("spec.%s: want a text", field)
	}
	return s, nil
}

func setDefault(o object, field, value string) {
	if _, given := o[field]; !given {
		o[field] = json.RawMessage(value)
	}
}

// block is an IPAMBlock.
type block struct{}

func (block) value(_ string, o object) (string, []byte, error) {
	s, err := specOf(o)
	if err != nil {
		return "", nil, err
	}
	cidr, err := text(s, "cidr")
	if err != nil {
		return "", nil, err
	}
	name, err := blockName(cidr)
	if err != nil {
		return "", nil, fmt.Errorf("spec.cidr: %w", err)
	}
	rename(s, "affinityClaimTime", "affinity_claim_time")
	return name, marshal(s), nil
}

func (block) fields(key store.Key, value []byte) (object, error) {
	s, err := flat(value)
	if err != nil {
		return nil, err
	}
	p, err := names.ParseBlock(key.Name)
	if err != nil {
		return nil, err
	}
	if cidr, err := text(s, "cidr"); err != nil || cidr != p.String() {
		return nil, fmt.Errorf("cidr: %s: want %q", s["cidr"], p)
	}
	rename(s, "affinity_claim_time", "affinityClaimTime")
	setDefault(s, "allocations", "[]")
	setDefault(s, "unallocated", "[]")
	setDefault(s, "attributes", "[]")
	setDefault(s, "strictAffinity", "false") // of old, required and without effect
	return object{"spec": marshal(s)}, nil
}

// affinity is a BlockAffinity.
type affinity struct{}

// errNotHost is for affinities that are no node's, as Calico's of load
// balancers.
var errNotHost = errors.New("the affinity is not a node's")

func (affinity) value(_ string, o object) (string, []byte, error) {
	s, err := specOf(o)
	if err != nil {
		return "", nil, err
	}
	if kind, err := text(s, "type"); err == nil && kind != "host" && kind != "" {
		return "", nil, errNotHost
	}
	node, err := text(s, "node")
	if err != nil {
		return "", nil, err
	}
	cidr, err := text(s, "cidr")
	if err != nil {
		return "", nil, err
	}
	block, err := blockName(cidr)
	if err != nil {
		return "", nil, fmt.Errorf("spec.cidr: %w", err)
	}
	for _, field := range []string{"node", "cidr", "type"} {
		delete(s, field)
	}
	return node + "/" + block, marshal(s), nil
}

func (affinity) fields(key store.Key, value []byte) (object, error) {
	s, err := flat(value)
	if err != nil {
		return nil, err
	}
	node, p, err := names.ParseAffinity(key.Name)
	if err != nil {
		return nil, err
	}
	setDefault(s, "state", `"confirmed"`)
	setDefault(s, "deleted", "false")
	s["node"], s["cidr"], s["type"] = quote(node), quote(p.String()), quote("host")
	family := "4"
	if p.Addr().Is6() {
		family = "6"
	}
	labels := map[string]string{
		"projectcalico.org/hostname-hash": hostnameHash(node),
		"projectcalico.org/affinity-type": "host",
		"projectcalico.org/ip-version":    family,
	}
	meta := object{"labels": marshal(labels)}
	return object{"metadata": marshal(meta), "spec": marshal(s)}, nil
}

// handle is an IPAMHandle.
type handle struct{}

func (handle) value(name string, o object) (string, []byte, error) {
	s, err := specOf(o)
	if err != nil {
		return "", nil, err
	}
	id, err := text(s, "handleID")
	if err != nil {
		return "", nil, err
	}
	if strings.ToLower(id) != name {
		return "", nil, fmt.Errorf("spec.handleID: %q: want the object's name", id)
	}
	delete(s, "handleID")
	return id, marshal(s), nil
}

func (handle) fields(key store.Key, value []byte) (object, error) {
	s, err := flat(value)
	if err != nil {
		return nil, err
	}
	s["handleID"] = quote(key.Name)
	setDefault(s, "block", "{}")
	setDefault(s, "deleted", "false")
	return object{"spec": marshal(s)}, nil
}

// config is the IPAMConfiguration.
type config struct{}

// configFields are the fields whose names differ, as in the API and as stored.
var configFields = [][2]string{{"strictAffinity", "strict_affinity"}, {"autoAllocateBlocks", "auto_allocate_blocks"}}

func (config) value(name string, o object) (string, []byte, error) {
	s, err := specOf(o)
	if err != nil {
		return "", nil, err
	}
	setDefault(s, "autoAllocateBlocks", "true")
	for _, f := range configFields {
		rename(s, f[0], f[1])
	}
	return name, marshal(s), nil
}

func (config) fields(_ store.Key, value []byte) (object, error) {
	s, err := flat(value)
	if err != nil {
		return nil, err
	}
	for _, f := range configFields {
		rename(s, f[1], f[0])
		setDefault(s, f[0], "false")
	}
	return object{"spec": marshal(s)}, nil
}
