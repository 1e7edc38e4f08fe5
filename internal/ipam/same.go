// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"bytes"
	"encoding/json"
	"reflect"
)

// sameObject says whether two stored values hold the same object. A datastore
// may lay out JSON anew, write out what was left out, or leave out what is
// nothing: a field that is absent, null, false, 0, "" or empty says the same.
func sameObject(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	before, okA := object(a)
	after, okB := object(b)
	return okA && okB && reflect.DeepEqual(before, after)
}

// object reads a value that is JSON, without the fields that say nothing.
func object(data []byte) (any, bool) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // sequence numbers do not fit a float
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, false
	}
	return withoutNothing(v), true
}

// withoutNothing removes the fields of objects that say nothing. The elements
// of lists stay: their place means something.
func withoutNothing(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, field := range v {
			if field = withoutNothing(field); isNothing(field) {
				delete(v, name)
			} else {
				v[name] = field
			}
		}
	case []any:
		for i := range v {
			v[i] = withoutNothing(v[i])
		}
	}
	return v
}

func isNothing(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case string:
		return v == ""
	case json.Number:
		return v == "0"
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}
