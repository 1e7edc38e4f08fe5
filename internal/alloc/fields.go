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
// v has no place for. A name in other letter case counts as one of those.
func decode(data []byte, v any) (fields, error) {
	if err := json.Unmarshal(data, v); err != nil {
		return nil, err
	}
	var extra fields
	for key, value := range members(data) {
		name := unquote(key)
		if knows(reflect.TypeOf(v).Elem(), name) {
			continue
		}
		if extra == nil {
			extra = fields{}
		}
		extra[name] = bytes.Clone(value)
	}
	return extra, nil
}

// knows reports whether a struct has a field of that name.
func knows(shape reflect.Type, name string) bool {
	for i := range shape.NumField() {
		if own, _, _ := strings.Cut(shape.Field(i).Tag.Get("json"), ","); own == name {
			return true
		}
	}
	return false
}

// members yields the quoted names and the values of a JSON object; of another
// value, nothing. data is valid JSON, so that only strings and the depth count.
func members(data []byte) func(yield func(key, value []byte) bool) {
	return func(yield func(key, value []byte) bool) {
		depth, start := 0, 0
		var key []byte
		for i := 0; i < len(data); i++ {
			switch data[i] {
			case '"':
				i = stringEnd(data, i)
			case '{', '[':
				if depth++; depth == 1 && data[i] == '[' {
					return
				} else if depth == 1 {
					start = i + 1
				}
			case ':':
				if depth == 1 {
					key, start = bytes.TrimSpace(data[start:i]), i+1
				}
			case ',', '}', ']':
				if depth == 1 && key != nil && !yield(key, bytes.TrimSpace(data[start:i])) {
					return
				}
				if depth == 1 {
					key, start = nil, i+1
				}
				if data[i] != ',' {
					depth--
				}
			}
		}
	}
}

// stringEnd is where the string that starts at data[i] ends.
func stringEnd(data []byte, i int) int {
	for i++; data[i] != '"'; i++ {
		if data[i] == '\\' {
			i++
		}
	}
	return i
}

// unquote is the text of a JSON string.
func unquote(quoted []byte) string {
	for _, c := range quoted {
		if c == '\\' || c >= 0x80 {
			var text string
			_ = json.Unmarshal(quoted, &text) // it was read as JSON before
			return text
		}
	}
	return string(quoted[1 : len(quoted)-1])
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
