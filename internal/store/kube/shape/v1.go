// SPDX-License-Identifier: Apache-2.0

package shape

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ocicat-net/ocicat/internal/store"
)

// V1 holds Calico's kinds as crd.projectcalico.org/v1, the storage of most
// clusters with Calico. It differs from V3 in names, and:
//   - resources are projectcalico.org/v3 to their readers, and an annotation
//     holds the metadata they have beside the object's own;
//   - an affinity's spec.deleted is a text;
//   - nothing can be selected by a field.
func V1() Profile {
	v1 := whole{version: calicoV3}
	return profile(calicoV1, []Resource{
		{Stored: store.IPPool, Kind: "IPPool", Plural: "ippools", codec: v1},
		{Stored: store.IPReservation, Kind: "IPReservation", Plural: "ipreservations", codec: v1},
		{Stored: store.BGPConfiguration, Kind: "BGPConfiguration", Plural: "bgpconfigurations", codec: v1},
		{Stored: store.BGPPeer, Kind: "BGPPeer", Plural: "bgppeers", codec: v1},
		{Stored: store.IPAMConfig, Kind: "IPAMConfig", Plural: "ipamconfigs", codec: config{}},
		{Stored: store.Block, Kind: "IPAMBlock", Plural: "ipamblocks", codec: block{}},
		{Stored: store.Affinity, Kind: "BlockAffinity", Plural: "blockaffinities", codec: affinityV1{}},
		{Stored: store.Handle, Kind: "IPAMHandle", Plural: "ipamhandles", codec: handle{}},
	})
}

// metadataAnnotation holds a resource's metadata but name, labels and
// annotations, as JSON: above all when it was made.
const metadataAnnotation = "projectcalico.org/metadata"

// objectFields are the fields of metadata that the object itself holds, or that
// the server alone writes.
var objectFields = []string{"name", "labels", "annotations", "resourceVersion", "generation", "managedFields", "selfLink"}

// unfold merges the metadata of the annotation into an object's, over it.
func unfold(meta object) error {
	var annotations map[string]string
	if raw, given := meta["annotations"]; given {
		if err := json.Unmarshal(raw, &annotations); err != nil {
			return fmt.Errorf("metadata.annotations: %w", err)
		}
	}
	text, given := annotations[metadataAnnotation]
	if !given {
		return nil
	}
	var inner object
	if err := json.Unmarshal([]byte(text), &inner); err != nil {
		return fmt.Errorf("annotation %s: %w", metadataAnnotation, err)
	}
	delete(annotations, metadataAnnotation)
	for _, field := range objectFields {
		if _, has := meta[field]; has || field == "name" || field == "resourceVersion" {
			delete(inner, field)
		}
	}
	for field, raw := range inner {
		if string(raw) != "null" {
			meta[field] = raw
		}
	}
	if delete(meta, "annotations"); len(annotations) > 0 {
		meta["annotations"] = marshal(annotations)
	}
	return nil
}

// fold is the annotations of an object for a resource's metadata.
func fold(meta object) (json.RawMessage, error) {
	annotations := map[string]string{}
	if raw, given := meta["annotations"]; given {
		if err := json.Unmarshal(raw, &annotations); err != nil {
			return nil, fmt.Errorf("metadata.annotations: %w", err)
		}
		if annotations == nil {
			annotations = map[string]string{}
		}
	}
	inner := object{}
	for field, raw := range meta {
		inner[field] = raw
	}
	for _, field := range objectFields {
		delete(inner, field)
	}
	if _, given := inner["creationTimestamp"]; !given {
		inner["creationTimestamp"] = json.RawMessage("null")
	}
	annotations[metadataAnnotation] = string(marshal(inner))
	return marshal(annotations), nil
}

// affinityV1 is a BlockAffinity whose spec.deleted is a text.
type affinityV1 struct{ affinity }

func (a affinityV1) value(name string, o object) (string, []byte, error) {
	s, err := specOf(o)
	if err != nil {
		return "", nil, err
	}
	switch string(s["deleted"]) {
	case `"true"`, "true":
		s["deleted"] = json.RawMessage("true")
	case `"false"`, `""`, "false", "":
		s["deleted"] = json.RawMessage("false")
	default:
		return "", nil, errors.New(`spec.deleted: want "true" or "false"`)
	}
	o["spec"] = marshal(s)
	return a.affinity.value(name, o)
}

func (a affinityV1) fields(key store.Key, value []byte) (object, error) {
	o, err := a.affinity.fields(key, value)
	if err != nil {
		return nil, err
	}
	s, err := specOf(o)
	if err != nil {
		return nil, err
	}
	s["deleted"] = quote(string(s["deleted"]))
	o["spec"] = marshal(s)
	return o, nil
}
