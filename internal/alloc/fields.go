// SPDX-License-Identifier: Apache-2.0

package alloc

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"strings"
)

// fields are the parts of a stored object that this version does not know.
// They are written back as they were read.
type fields map[string]json.RawMessage

func (f fields) equal(g fields) bool {
	return maps.EqualFunc(f, g, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) })
}

// decode reads data into the struct that v points to and returns the fields
// v has no place for.
func decode(data []byte, v any) (fields, error) {
	if err := json.Unmarshal(data, v); err != nil {
		return nil, err
	}
	var all fields
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, err
	}
	shape := reflect.TypeOf(v).Elem()
	for i := range shape.NumField() {
		name, _, _ := strings.Cut(shape.Field(i).Tag.Get("json"), ",")
		delete(all, name)
	}
	if len(all) == 0 {
		return nil, nil
	}
	return all, nil
}

// encode writes the struct v, with extra's fields added.
func encode(v any, extra fields) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil || len(extra) == 0 {
		return data, err
	}
	all := maps.Clone(extra)
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, err
	}
	return json.Marshal(all)
}
