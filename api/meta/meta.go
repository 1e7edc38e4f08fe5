// SPDX-License-Identifier: Apache-2.0

// Package meta is what every resource has in common: its type, its name and
// labels, and the form in which validation reports what is wrong. It must not
// know any kind of resource.
package meta

import (
	"fmt"
	"time"
)

// Type names the kind of an object and the version of its schema.
type Type struct {
	// APIVersion is group and version, as "projectcalico.org/v3".
	APIVersion string `json:"apiVersion"`
	// Kind is the kind in singular and camel case, as "IPPool".
	Kind string `json:"kind"`
}

// Object is the metadata of one object.
type Object struct {
	// Name is unique among the objects of a kind: lower-case letters, digits,
	// "-" and ".", 253 characters at most. Node names may also hold upper-case
	// letters.
	Name string `json:"name"`
	// Labels are matched by selectors.
	Labels map[string]string `json:"labels,omitempty"`
	// Annotations hold data for programs; nothing selects by them.
	Annotations map[string]string `json:"annotations,omitempty"`
	// UID tells two objects of one name apart that existed one after the
	// other. It is set when the object is created.
	UID string `json:"uid,omitempty"`
	// ResourceVersion is the store's revision of the object when it was read.
	// Given on apply, it must still be the current one. It is not stored.
	ResourceVersion string `json:"resourceVersion,omitempty"`
	// Generation counts changes of the spec where the store counts them
	// (Kubernetes); it is kept, and not used.
	Generation int64 `json:"generation,omitempty"`
	// CreationTimestamp is when the object was created, in UTC.
	CreationTimestamp time.Time `json:"creationTimestamp,omitzero"`
}

// Level says what a finding means for the object.
type Level uint8

// The levels.
const (
	// Wrong is a value that no version accepts.
	Wrong Level = iota
	// Unsupported is a right value that this version cannot do: refused when
	// it is written, reported when it is found stored.
	Unsupported
	// Notice is a right value that is kept and has no effect yet.
	Notice
)

// Finding is one thing that validation has to say. Its text reads as
// spec.blockSize: "33": want a number from 20 to 32.
type Finding struct {
	// Level says whether the object is refused.
	Level Level
	// Object is kind and name of the object the finding is about, as
	// "IPPool default"; empty when the caller knows.
	Object string
	// Path is the field, as "spec.reservedCIDRs[1]".
	Path string
	// Value is what was found there, as the user wrote it.
	Value string
	// Want says what was expected, starting with a noun or "no"; of a Notice,
	// what happens instead.
	Want string
	// Hint says what to do, as a sentence; it may be empty.
	Hint string
}

// Error is the finding as one line, without its hint.
func (f Finding) Error() string {
	text := f.Path
	if f.Object != "" {
		text = f.Object + ": " + text
	}
	if f.Value != "" {
		text += fmt.Sprintf(": %q", f.Value)
	}
	switch f.Level {
	case Unsupported:
		return text + ": not supported yet: want " + f.Want
	case Notice:
		return text + ": no effect yet: " + f.Want
	}
	return text + ": want " + f.Want
}

// Field is one field with a value that somebody else has to check, such as a
// selector.
type Field struct {
	Path  string
	Value string
}
