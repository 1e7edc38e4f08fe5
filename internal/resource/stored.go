// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"

	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/store"
)

// Encode is the value the datastore keeps for an object: its JSON without the
// resource version. previous is the value stored now, nil for a new object:
// fields of it that this version does not know are kept.
func Encode(o Object, previous []byte) ([]byte, error) {
	if c, ok := o.(*v3.IPAMConfiguration); ok {
		return encodeIPAMConfig(c, previous)
	}
	revision := o.ObjectMeta().ResourceVersion
	o.ObjectMeta().ResourceVersion = ""
	value, err := json.Marshal(o)
	o.ObjectMeta().ResourceVersion = revision
	if err != nil {
		return nil, fault.New(fault.Internal, "encode %s: %w", String(o), err)
	}
	return keepUnknown(value, previous, reflect.TypeOf(o).Elem())
}

// Decode reads a stored object. It is tolerant: fields of a newer version are
// skipped (Encode keeps them). A value of another kind or version, or one that
// is not JSON, is Unsupported or Invalid: leave that object out, report
// Quarantined, and go on with the others.
func Decode(e store.Entry) (Object, error) {
	kind, ok := FindStored(e.Key.Kind)
	if !ok {
		return nil, fault.New(fault.Internal, "read %s: not a resource", e.Key)
	}
	if e.Key.Kind == store.IPAMConfig {
		return decodeIPAMConfig(e)
	}
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := json.Unmarshal(e.Value, &head); err != nil {
		return nil, fault.New(fault.Invalid, "read %s: %w", e.Key, err)
	}
	if head.APIVersion != kind.APIVersion {
		return nil, fault.New(fault.Unsupported, "read %s: stored as apiVersion %q: want %s", e.Key, head.APIVersion, kind.APIVersion)
	}
	if head.Kind != kind.Name {
		return nil, fault.New(fault.Invalid, "read %s: stored as kind %q", e.Key, head.Kind)
	}
	o := kind.New()
	if err := json.Unmarshal(e.Value, o); err != nil {
		return nil, fault.New(fault.Invalid, "read %s: %w", e.Key, err)
	}
	if o.ObjectMeta().Name != e.Key.Name {
		return nil, fault.New(fault.Invalid, "read %s: stored with the name %q", e.Key, o.ObjectMeta().Name)
	}
	*o.TypeMeta() = *kind.New().TypeMeta()
	o.ObjectMeta().ResourceVersion = strconv.FormatUint(uint64(e.Revision), 10)
	o.SetDefaults()
	return o, nil
}

// Quarantined is the problem to report for a stored object that Decode
// refused.
func Quarantined(key store.Key, err error) problem.Problem {
	why := strings.TrimPrefix(err.Error(), "read "+key.String()+": ")
	return problem.New(problem.UnknownObject, key.String(), key.String(), why)
}

// keepUnknown adds to value, an object of type t, the fields of previous that
// t does not have, in every struct both have. Elements of lists are not
// matched: a list is replaced whole.
func keepUnknown(value, previous []byte, t reflect.Type) ([]byte, error) {
	if len(previous) == 0 {
		return value, nil
	}
	var now, before map[string]json.RawMessage
	if json.Unmarshal(previous, &before) != nil || before == nil {
		return value, nil
	}
	if err := json.Unmarshal(value, &now); err != nil {
		return nil, fault.New(fault.Internal, "merge stored object: %w", err)
	}
	fields := fieldsOf(t)
	added := false
	for name, raw := range before {
		f, known := lookup(fields, name)
		if !known {
			now[name], added = raw, true
			continue
		}
		inner := t.FieldByIndex(f.index).Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		mine, present := now[name]
		if !present || inner.Kind() != reflect.Struct || !bytes.HasPrefix(bytes.TrimSpace(mine), []byte("{")) {
			continue
		}
		merged, err := keepUnknown(mine, raw, inner)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(merged, mine) {
			now[name], added = merged, true
		}
	}
	if !added {
		return value, nil
	}
	return json.Marshal(now)
}

// ipamConfig is the shape in which the datastore keeps IPAM's rules: an older
// one than the resource's, without name and version. A false rule is left out.
type ipamConfig struct {
	StrictAffinity     bool    `json:"strict_affinity,omitempty"`
	AutoAllocateBlocks bool    `json:"auto_allocate_blocks,omitempty"`
	MaxBlocksPerHost   int     `json:"maxBlocksPerHost,omitempty"`
	IPCooldownSeconds  int     `json:"ipCooldownSeconds,omitempty"`
	KubeVirt           *string `json:"kubeVirtVMAddressPersistence,omitempty"`
}

func encodeIPAMConfig(c *v3.IPAMConfiguration, previous []byte) ([]byte, error) {
	shape := ipamConfig{
		StrictAffinity:     c.Spec.StrictAffinity,
		AutoAllocateBlocks: c.AutoAllocate(),
		MaxBlocksPerHost:   c.Spec.MaxBlocksPerHost,
		IPCooldownSeconds:  c.Spec.IPCooldownSeconds,
	}
	if c.Spec.KubeVirtVMAddressPersistence != "" {
		shape.KubeVirt = &c.Spec.KubeVirtVMAddressPersistence
	}
	value, err := json.Marshal(shape)
	if err != nil {
		return nil, fault.New(fault.Internal, "encode %s: %w", String(c), err)
	}
	return keepUnknown(value, previous, reflect.TypeFor[ipamConfig]())
}

func decodeIPAMConfig(e store.Entry) (Object, error) {
	var shape ipamConfig
	if err := json.Unmarshal(e.Value, &shape); err != nil {
		return nil, fault.New(fault.Invalid, "read %s: %w", e.Key, err)
	}
	c := &v3.IPAMConfiguration{Type: v3Type(v3.KindIPAMConfiguration)}
	c.Metadata.Name = e.Key.Name
	c.Metadata.ResourceVersion = strconv.FormatUint(uint64(e.Revision), 10)
	c.Spec.StrictAffinity = shape.StrictAffinity
	c.Spec.AutoAllocateBlocks = &shape.AutoAllocateBlocks
	c.Spec.MaxBlocksPerHost = shape.MaxBlocksPerHost
	c.Spec.IPCooldownSeconds = shape.IPCooldownSeconds
	if shape.KubeVirt != nil {
		c.Spec.KubeVirtVMAddressPersistence = *shape.KubeVirt
	}
	return c, nil
}

// Revision is the store revision an object was read at, or was given in a
// file; 0 for none. A resource version that is not a number is Invalid.
func Revision(o Object) (store.Revision, error) {
	text := o.ObjectMeta().ResourceVersion
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fault.Hint(fault.New(fault.Invalid, "%s: metadata.resourceVersion: %q: want a number", String(o), text),
			"Leave it out to write whatever is stored.")
	}
	return store.Revision(n), nil
}
