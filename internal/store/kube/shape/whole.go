// SPDX-License-Identifier: Apache-2.0

package shape

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ocicat-net/ocicat/internal/store"
)

// whole keeps a resource as it is: only what the API server alone writes is
// left out of values, and of objects.
type whole struct {
	status bool // the value's status is ours to write
	// version is the version of values where objects have another one; then
	// an annotation holds a part of the metadata.
	version string
}

func (w whole) value(name string, o object) (string, []byte, error) {
	var meta object
	if err := json.Unmarshal(o["metadata"], &meta); err != nil {
		return "", nil, fmt.Errorf("metadata: %w", err)
	}
	for _, field := range []string{"managedFields", "resourceVersion", "selfLink"} {
		delete(meta, field)
	}
	if w.version != "" {
		if err := unfold(meta); err != nil {
			return "", nil, err
		}
		o["apiVersion"] = quote(w.version)
	}
	o["metadata"] = marshal(meta)
	return name, marshal(o), nil
}

func (w whole) fields(key store.Key, value []byte) (object, error) {
	var o object
	if err := json.Unmarshal(value, &o); err != nil || o == nil {
		return nil, fmt.Errorf("want a JSON object: %w", errors.Join(err))
	}
	var meta object
	if err := json.Unmarshal(o["metadata"], &meta); err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	var name string
	if err := json.Unmarshal(meta["name"], &name); err != nil || name != key.Name {
		return nil, fmt.Errorf("metadata.name: %s: want %q", meta["name"], key.Name)
	}
	kept := object{}
	for _, field := range []string{"labels", "annotations"} {
		if raw, given := meta[field]; given {
			kept[field] = raw
		}
	}
	if w.version != "" {
		annotations, err := fold(meta)
		if err != nil {
			return nil, err
		}
		kept["annotations"] = annotations
	}
	out := object{"metadata": marshal(kept)}
	if raw, given := o["spec"]; given {
		out["spec"] = raw
	}
	if raw, given := o["status"]; given && w.status {
		out["status"] = raw
	}
	return out, nil
}
