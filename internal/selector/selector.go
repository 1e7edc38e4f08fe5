// SPDX-License-Identifier: Apache-2.0

// Package selector is the label selector language of Calico's resources:
// has(zone) && env in {'prod', 'dev'}. It knows nothing of what carries the
// labels.
//
// From loosest to tightest: || , && , ! , and a test in the form of
// label == 'v', !=, in {…}, not in {…}, contains, starts with, ends with,
// has(label), all(), global(), or a selector in parentheses. Words of the
// language may also be labels.
package selector

import (
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"
)

// Selector is a parsed selector. The zero Selector is all().
type Selector struct {
	root node // nil is all()
}

// Matches reports whether a thing with these labels is selected. Without the
// label, != and "not in" hold and every other comparison does not.
func (s Selector) Matches(labels map[string]string) bool {
	return s.root == nil || s.root.matches(labels)
}

// String is the selector in normal form: selectors that differ only in
// spaces, quotes, redundant parentheses and the order of a set are equal.
func (s Selector) String() string {
	if s.root == nil {
		return "all()"
	}
	return s.root.String()
}

// UniqueID is a short name for the normal form, "s:" and the SHA-224 of all
// of it with that prefix; the same as Calico's.
func (s Selector) UniqueID() string {
	sum := sha256.Sum224([]byte("s:" + s.String()))
	return "s:" + base64.RawURLEncoding.EncodeToString(sum[:])
}

// node is one part of a selector.
type node interface {
	matches(labels map[string]string) bool
	String() string
}

// everything is all() or global(); word is which.
type everything struct{ word string }

func (everything) matches(map[string]string) bool { return true }
func (e everything) String() string               { return e.word + "()" }

// has tests for a label, whatever its value.
type has struct{ label string }

func (h has) matches(labels map[string]string) bool {
	_, ok := labels[h.label]
	return ok
}

func (h has) String() string { return "has(" + h.label + ")" }

// compare tests a label's value against one text.
type compare struct {
	label, op, value string
}

func (c compare) matches(labels map[string]string) bool {
	value, ok := labels[c.label]
	switch c.op {
	case "!=":
		return !ok || value != c.value
	case "==":
		return ok && value == c.value
	case "contains":
		return ok && strings.Contains(value, c.value)
	case "starts with":
		return ok && strings.HasPrefix(value, c.value)
	default: // ends with
		return ok && strings.HasSuffix(value, c.value)
	}
}

func (c compare) String() string { return c.label + " " + c.op + " " + quote(c.value) }

// member tests a label's value against a set, or against its complement.
type member struct {
	label  string
	not    bool
	values []string // sorted, each once
}

func (m member) matches(labels map[string]string) bool {
	value, ok := labels[m.label]
	_, found := slices.BinarySearch(m.values, value)
	return (ok && found) != m.not
}

func (m member) String() string {
	quoted := make([]string, len(m.values))
	for i, v := range m.values {
		quoted[i] = quote(v)
	}
	op := " in {"
	if m.not {
		op = " not in {"
	}
	return m.label + op + strings.Join(quoted, ", ") + "}"
}

// not is the complement of a selector.
type not struct{ of node }

func (n not) matches(labels map[string]string) bool { return !n.of.matches(labels) }
func (n not) String() string                        { return "!" + n.of.String() }

// many joins two or more selectors with && or ||.
type many struct {
	op string
	of []node
}

func (m many) matches(labels map[string]string) bool {
	for _, n := range m.of {
		if n.matches(labels) != (m.op == "&&") {
			return m.op != "&&"
		}
	}
	return m.op == "&&"
}

func (m many) String() string {
	parts := make([]string, len(m.of))
	for i, n := range m.of {
		parts[i] = n.String()
	}
	return "(" + strings.Join(parts, " "+m.op+" ") + ")"
}

// quote writes a text as the language does: there are no escapes, so a text
// never holds both kinds of quotes.
func quote(s string) string {
	if strings.Contains(s, `"`) {
		return "'" + s + "'"
	}
	return `"` + s + `"`
}
