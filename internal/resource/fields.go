// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"reflect"
	"strings"
)

// field is one field of a struct as JSON names it.
type field struct {
	name  string
	index []int
}

// fieldsOf lists the fields of a struct type in order, those of embedded
// structs in their place.
func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			for _, inner := range fieldsOf(f.Type) {
				fields = append(fields, field{inner.name, append([]int{i}, inner.index...)})
			}
			continue
		}
		if name != "" && name != "-" {
			fields = append(fields, field{name, []int{i}})
		}
	}
	return fields
}

func lookup(fields []field, name string) (field, bool) {
	for _, f := range fields {
		if f.name == name {
			return f, true
		}
	}
	return field{}, false
}

func fieldNames(fields []field) []string {
	var list []string
	for _, f := range fields {
		list = append(list, f.name)
	}
	return list
}
