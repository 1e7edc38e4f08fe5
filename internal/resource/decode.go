// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/ocicat-net/ocicat/api/meta"
	"go.yaml.in/yaml/v3"
)

// mistake is one thing wrong in a file.
type mistake struct {
	line       int
	path       string // the field, "" for the object itself
	text, hint string
}

// maxNodes bounds the work one file may cause; aliases count where they are
// used.
const maxNodes = 1 << 20

// decoder fills typed values from YAML nodes and collects every mistake.
type decoder struct {
	mistakes []mistake
	lines    map[string]int // line of every field that was set, by path
	visited  int
}

func (d *decoder) fail(n *yaml.Node, path, hint, format string, args ...any) {
	d.mistakes = append(d.mistakes, mistake{n.Line, path, fmt.Sprintf(format, args...), hint})
}

// value fills v from n; path names the field in messages.
func (d *decoder) value(n *yaml.Node, path string, v reflect.Value) {
	if d.visited++; d.visited > maxNodes {
		if d.visited == maxNodes+1 {
			d.fail(n, path, "Split the file, or write aliases out.", "more than %d values", maxNodes)
		}
		return
	}
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	d.lines[path] = n.Line
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return
	}
	if text, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.text(n, path, text)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		target := reflect.New(v.Type().Elem())
		d.value(n, path, target.Elem())
		v.Set(target)
	case reflect.Struct:
		d.object(n, path, v)
	case reflect.Map:
		d.stringMap(n, path, v)
	case reflect.Slice:
		d.list(n, path, v)
	default:
		d.scalar(n, path, v)
	}
}

func (d *decoder) text(n *yaml.Node, path string, into encoding.TextUnmarshaler) {
	if n.Kind != yaml.ScalarNode {
		d.fail(n, path, "", "want one value, found %s", describe(n))
		return
	}
	err := into.UnmarshalText([]byte(n.Value))
	if err == nil {
		return
	}
	if _, isTime := into.(*time.Time); isTime {
		err = fmt.Errorf("want a time such as 2026-11-22T10:00:00Z")
	}
	d.fail(n, path, "", "%q: %v", n.Value, err)
}

// object fills a struct. A field it does not have, or that stands there
// twice, is a mistake; the field status of kinds without one is skipped, for
// it is what programs report.
func (d *decoder) object(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "", "want fields (name: value), found %s", describe(n))
		return
	}
	fields := fieldsOf(v.Type())
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, child := n.Content[i], n.Content[i+1]
		name := key.Value
		here := join(path, name)
		switch first, twice := seen[name]; {
		case key.Kind != yaml.ScalarNode || key.ShortTag() == "!!merge":
			d.fail(key, path, "Write the fields out.", "want a field's name, found %s", describe(key))
			continue
		case twice:
			d.fail(key, here, fmt.Sprintf("It stands in line %d already; remove one.", first), "field given twice")
			continue
		}
		seen[name] = key.Line
		f, known := lookup(fields, name)
		if !known {
			if here != "status" {
				d.unknown(key, path, name, fields)
			}
			continue
		}
		d.value(child, here, v.FieldByIndex(f.index))
	}
}

func (d *decoder) unknown(key *yaml.Node, path, name string, fields []field) {
	names := fieldNames(fields)
	hint := meta.DidYouMean(name, names)
	if hint == "" {
		where := path
		if where == "" {
			where = "the object"
		}
		hint = fmt.Sprintf("Fields of %s are %s.", where, strings.Join(names, ", "))
	}
	d.fail(key, join(path, name), hint, "unknown field")
}

// stringMap fills a map from string to string.
func (d *decoder) stringMap(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "", "want names with values (name: value), found %s", describe(n))
		return
	}
	m := map[string]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, child := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			d.fail(key, path, "", "want a name, found %s", describe(key))
			continue
		}
		if _, twice := m[key.Value]; twice {
			d.fail(key, join(path, key.Value), "Remove one.", "given twice")
			continue
		}
		var value string
		d.value(child, join(path, key.Value), reflect.ValueOf(&value).Elem())
		m[key.Value] = value
	}
	v.Set(reflect.ValueOf(m))
}

func (d *decoder) list(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.fail(n, path, "Write it as [a, b], or with one \"- a\" a line.", "want a list, found %s", describe(n))
		return
	}
	list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, child := range n.Content {
		d.value(child, fmt.Sprintf("%s[%d]", path, i), list.Index(i))
	}
	v.Set(list)
}

func (d *decoder) scalar(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.ScalarNode {
		d.fail(n, path, "", "want %s, found %s", wanted(v.Kind()), describe(n))
		return
	}
	tag := n.ShortTag()
	switch v.Kind() {
	case reflect.String:
		if tag != "!!str" && tag != "!!timestamp" {
			d.fail(n, path, fmt.Sprintf("Put it in quotes: %q.", n.Value), "want a text, found %s", describe(n))
			return
		}
		v.SetString(n.Value)
	case reflect.Bool:
		b, ok := parseBool(n)
		if !ok {
			d.fail(n, path, "", "want true or false, found %s", describe(n))
			return
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int64:
		i, err := strconv.ParseInt(n.Value, 0, v.Type().Bits())
		if tag != "!!int" || err != nil {
			d.fail(n, path, "", "want a whole number, found %s", describe(n))
			return
		}
		v.SetInt(i)
	case reflect.Uint32, reflect.Uint64:
		u, err := strconv.ParseUint(n.Value, 0, v.Type().Bits())
		if tag != "!!int" || err != nil {
			d.fail(n, path, "", "want a whole number, 0 or more, found %s", describe(n))
			return
		}
		v.SetUint(u)
	case reflect.Float64:
		f, err := strconv.ParseFloat(n.Value, 64)
		if tag != "!!int" && tag != "!!float" || err != nil {
			d.fail(n, path, "", "want a number, found %s", describe(n))
			return
		}
		v.SetFloat(f)
	}
}

// parseBool reads true and false, and YAML 1.1's other words for them where
// they are not quoted, as Kubernetes does.
func parseBool(n *yaml.Node) (value, ok bool) {
	if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
		return false, false
	}
	switch strings.ToLower(n.Value) {
	case "true", "yes", "on":
		return true, true
	case "false", "no", "off":
		return false, true
	}
	return false, false
}

func wanted(k reflect.Kind) string {
	switch k {
	case reflect.String:
		return "a text"
	case reflect.Bool:
		return "true or false"
	}
	return "a number"
}

// describe says what a node is, in a reader's words.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "fields"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		switch n.ShortTag() {
		case "!!null":
			return "nothing"
		case "!!int", "!!float":
			return "the number " + n.Value
		case "!!merge":
			return "the merge key <<"
		}
		return fmt.Sprintf("%q", n.Value)
	}
	return "something else"
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
