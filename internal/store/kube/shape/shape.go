// SPDX-License-Identifier: Apache-2.0

// Package shape says how the datastore's keys and values stand in a Kubernetes
// API: which resource holds a kind, what an object is called there, and how
// its JSON and our stored value become each other. Resources keep their own
// JSON; IPAM objects, whose values have no metadata, become the spec of an
// object; our Node is the core Node with Calico's annotations. It is pure.
package shape

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
)

// object is one JSON object with its fields unread.
type object = map[string]json.RawMessage

// Resource is where and in which shape a Kubernetes API holds one kind.
type Resource struct {
	// Stored is the kind of the datastore.
	Stored store.Kind
	// APIVersion and Kind stand in the objects, as "projectcalico.org/v3" and
	// "IPAMConfiguration".
	APIVersion, Kind string
	// Plural is the resource's name in paths.
	Plural string

	codec codec
}

// codec turns an object's fields into a value and back.
type codec interface {
	// value is the stored value of an object, and its name in the datastore.
	value(name string, o object) (string, []byte, error)
	// fields are the fields of an object but type and name.
	fields(key store.Key, value []byte) (object, error)
}

// Path is the path of all objects of the resource in the API.
func (r Resource) Path() string {
	if strings.Contains(r.APIVersion, "/") {
		return "/apis/" + r.APIVersion + "/" + r.Plural
	}
	return "/api/" + r.APIVersion + "/" + r.Plural
}

// PathOf is the path of one object. A name that no object of Kubernetes can
// have is Invalid.
func (r Resource) PathOf(key store.Key) (string, error) {
	name, err := objectName(key)
	if err != nil {
		return "", err
	}
	return r.Path() + "/" + name, nil
}

// ReadOnly says that objects can be changed but neither created nor deleted
// by us: the core Node.
func (r Resource) ReadOnly() bool { return r.Stored == store.Node }

// Decode reads an object as the API gives it. One that is marked as deleted is
// returned with ErrDeleted.
func (r Resource) Decode(data []byte) (store.Entry, error) {
	var o object
	if err := json.Unmarshal(data, &o); err != nil {
		return store.Entry{}, fault.New(fault.Internal, "read %s: %w", r.Kind, err)
	}
	var meta struct {
		Name            string `json:"name"`
		ResourceVersion string `json:"resourceVersion"`
	}
	if err := json.Unmarshal(o["metadata"], &meta); err != nil {
		return store.Entry{}, fault.New(fault.Internal, "read %s: metadata: %w", r.Kind, err)
	}
	revision, err := parseRevision(meta.ResourceVersion)
	if err != nil {
		return store.Entry{}, fault.New(fault.Internal, "read %s %s: %w", r.Kind, meta.Name, err)
	}
	name, value, err := r.codec.value(meta.Name, o)
	if err != nil {
		return store.Entry{}, fault.New(fault.Invalid, "read %s %s: %w", r.Kind, meta.Name, err)
	}
	e := store.Entry{Key: store.Key{Kind: r.Stored, Name: name}, Value: value, Revision: revision}
	if r.marked(value) {
		return e, fault.New(fault.NotFound, "read %s: %w", e.Key, ErrDeleted)
	}
	return e, nil
}

// ErrDeleted is in the chain of Decode's error for an IPAM object that somebody
// has marked as deleted before deleting it, as Calico does. To readers it does
// not exist; who wants its name completes the deletion.
var ErrDeleted = errors.New("it is being deleted")

// marked says whether an IPAM object's value is marked as deleted.
func (r Resource) marked(value []byte) bool {
	if r.Stored != store.Block && r.Stored != store.Affinity && r.Stored != store.Handle {
		return false
	}
	var v struct {
		Deleted bool `json:"deleted"`
	}
	return json.Unmarshal(value, &v) == nil && v.Deleted
}

// parseRevision reads a resourceVersion, which is a number that grows.
func parseRevision(text string) (store.Revision, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("resourceVersion %q is not a number", text)
	}
	return store.Revision(n), nil
}

// Create is the object to create for a value. A value that is not JSON, or
// contradicts its key, is Invalid.
func (r Resource) Create(key store.Key, value []byte) ([]byte, error) {
	o, err := r.codec.fields(key, value)
	if err != nil {
		return nil, fault.New(fault.Invalid, "put %s: %w", key, err)
	}
	name, err := objectName(key)
	if err != nil {
		return nil, err
	}
	meta := object{}
	if raw, given := o["metadata"]; given {
		if err := json.Unmarshal(raw, &meta); err != nil {
			return nil, fault.New(fault.Invalid, "put %s: metadata: %w", key, err)
		}
	}
	meta["name"] = quote(name)
	o["metadata"] = marshal(meta)
	o["apiVersion"], o["kind"] = quote(r.APIVersion), quote(r.Kind)
	return marshal(o), nil
}

// Operation is one step of a JSON patch (RFC 6902).
type Operation struct {
	Op    string          `json:"op"`
	Path  string          `json:"path"`
	Value json.RawMessage `json:"value"`
}

// Patch is the JSON patch that makes an object hold value. It leaves alone
// what values do not have: owners, finalizers, the labels of objects whose
// values have none. Unless prev is store.AnyRevision, the API refuses it with a
// conflict if the object's version is another. The errors are those of Create.
func (r Resource) Patch(key store.Key, value []byte, prev store.Revision) ([]byte, error) {
	o, err := r.codec.fields(key, value)
	if err != nil {
		return nil, fault.New(fault.Invalid, "put %s: %w", key, err)
	}
	var patch []Operation
	if prev != store.AnyRevision {
		patch = append(patch, Operation{"replace", "/metadata/resourceVersion", quote(formatRevision(prev))})
	}
	var meta object
	if raw, given := o["metadata"]; given && key.Kind != store.Affinity {
		if err := json.Unmarshal(raw, &meta); err != nil {
			return nil, fault.New(fault.Invalid, "put %s: metadata: %w", key, err)
		}
		for _, field := range []string{"annotations", "labels"} {
			raw, given := meta[field]
			if !given {
				raw = json.RawMessage("{}")
			}
			patch = append(patch, Operation{"add", "/metadata/" + field, raw})
		}
	}
	for _, field := range []string{"spec", "status"} {
		if raw, given := o[field]; given {
			patch = append(patch, Operation{"add", "/" + field, raw})
		}
	}
	return marshal(patch), nil
}

// formatRevision is a revision as Kubernetes writes it.
func formatRevision(r store.Revision) string { return strconv.FormatUint(uint64(r), 10) }

// Select narrows a list or watch to what can have names with prefix, as far as
// the API can: one node's affinities, a block, a heartbeat or status. Its
// answer may hold more.
func (r Resource) Select(prefix string) url.Values {
	switch r.Stored {
	case store.Affinity:
		node, _, whole := strings.Cut(prefix, "/")
		if whole && r.APIVersion == calicoV3 {
			return url.Values{"fieldSelector": {"spec.node=" + node}}
		}
	case store.Block:
		if name, err := objectName(store.Key{Kind: store.Block, Name: prefix}); err == nil {
			return url.Values{"fieldSelector": {"metadata.name=" + name}}
		}
	case store.Heartbeat, store.NodeStatus:
		if prefix != "" {
			return url.Values{"fieldSelector": {"metadata.name=" + prefix}}
		}
	}
	return nil
}

// marshal encodes what has no way to fail: fields that were read as JSON.
func marshal(v any) json.RawMessage {
	data, err := json.Marshal(v)
	if err != nil {
		return json.RawMessage("null")
	}
	return data
}

func quote(s string) json.RawMessage { return marshal(s) }
