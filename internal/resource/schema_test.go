// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"encoding"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

const definitions = "../../deploy/charts/ocicat/files/crds"

// schema is what the tests read of a definition's schema.
type schema struct {
	Type       string             `yaml:"type"`
	Properties map[string]*schema `yaml:"properties"`
	Items      *schema            `yaml:"items"`
	Additional *schema            `yaml:"additionalProperties"`
	Preserve   bool               `yaml:"x-kubernetes-preserve-unknown-fields"`
	Validation []struct {
		Rule    string `yaml:"rule"`
		Message string `yaml:"message"`
		Text    string `yaml:"messageExpression"`
	} `yaml:"x-kubernetes-validations"`
	Description string `yaml:"description"`
}

type definition struct {
	Metadata struct{ Name string }
	Spec     struct {
		Group string
		Scope string
		Names struct {
			Kind, Plural string
			ShortNames   []string `yaml:"shortNames"`
			Categories   []string
		}
		Versions []struct {
			Name    string
			Columns []struct {
				Name string
				Path string `yaml:"jsonPath"`
			} `yaml:"additionalPrinterColumns"`
			Schema struct {
				Root schema `yaml:"openAPIV3Schema"`
			}
		}
	}
}

func readDefinitions(t *testing.T) map[string]definition {
	t.Helper()
	files, err := filepath.Glob(definitions + "/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	all := map[string]definition{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var d definition
		if err := yaml.Unmarshal(data, &d); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if want := d.Spec.Group + "_" + d.Spec.Names.Plural + ".yaml"; filepath.Base(file) != want || d.Metadata.Name != d.Spec.Names.Plural+"."+d.Spec.Group {
			t.Errorf("%s holds %s: want the file %s", file, d.Metadata.Name, want)
		}
		all[d.Spec.Names.Kind] = d
	}
	return all
}

// TestDefinitions: every resource has a definition with the fields of its type
// and no others, and with our words.
func TestDefinitions(t *testing.T) {
	all := readDefinitions(t)
	for _, k := range Kinds() {
		if k.Name == "Node" {
			continue // the core Node of Kubernetes
		}
		d, ok := all[k.Name]
		if !ok || len(d.Spec.Versions) != 1 {
			t.Errorf("%s has no definition with one version", k.Name)
			continue
		}
		if got := d.Spec.Group + "/" + d.Spec.Versions[0].Name; got != k.APIVersion || d.Spec.Names.Plural != k.Plural || d.Spec.Scope != "Cluster" {
			t.Errorf("%s is defined as %s %s, %s", k.Name, got, d.Spec.Names.Plural, d.Spec.Scope)
		}
		for _, word := range d.Spec.Names.ShortNames {
			if found, err := Find(word); err != nil || found.Name != k.Name {
				t.Errorf("%s: the short name %s is not a word of ocicat", k.Name, word)
			}
		}
		root := d.Spec.Versions[0].Schema.Root
		compare(t, k.Name, reflect.TypeOf(k.New()).Elem(), &root)
	}
}

// compare reports fields of a type that its schema does not have, or as another
// type, and the other way round. What users write has no unknown fields.
func compare(t *testing.T, path string, typ reflect.Type, s *schema) {
	t.Helper()
	if want := schemaType(typ); s.Type != want {
		t.Errorf("%s is %q in the definition: want %q", path, s.Type, want)
	}
	switch typ = bare(typ); {
	case s.Preserve || strings.HasSuffix(path, ".metadata") || opaque(typ):
	case typ.Kind() == reflect.Slice:
		compare(t, path+"[]", typ.Elem(), s.Items)
	case typ.Kind() == reflect.Struct:
		var names []string
		for _, f := range fieldsOf(typ) {
			names = append(names, f.name)
			if s.Properties[f.name] == nil {
				t.Errorf("%s.%s is not in the definition", path, f.name)
				continue
			}
			compare(t, path+"."+f.name, typ.FieldByIndex(f.index).Type, s.Properties[f.name])
		}
		for name := range s.Properties {
			if !slices.Contains(names, name) && name != "status" {
				t.Errorf("%s.%s of the definition is in no type", path, name)
			}
		}
	}
}

// bare is a type without pointers to it.
func bare(typ reflect.Type) reflect.Type {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	return typ
}

// opaque says that a type has its own text.
func opaque(typ reflect.Type) bool {
	return typ == reflect.TypeFor[time.Time]() || reflect.PointerTo(typ).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// schemaType is the name of a Go type in a schema. AS numbers have a text, and
// are written as numbers.
func schemaType(typ reflect.Type) string {
	switch typ = bare(typ); typ.Kind() {
	case reflect.Bool:
		return "boolean"
	case reflect.String:
		return "string"
	case reflect.Slice:
		return "array"
	case reflect.Int, reflect.Int64, reflect.Uint32, reflect.Uint64:
		return "integer"
	}
	return "object"
}

// TestDefinitionsSpeak: every rule says what to write instead, every field of a
// spec what it is, every kind is in the category ocicat and shows its age last.
func TestDefinitionsSpeak(t *testing.T) {
	for kind, d := range readDefinitions(t) {
		if !slices.Equal(d.Spec.Names.Categories, []string{"ocicat"}) {
			t.Errorf("%s is in the categories %v", kind, d.Spec.Names.Categories)
		}
		columns := d.Spec.Versions[0].Columns
		if n := len(columns); n < 2 || columns[n-1].Name != "Age" {
			t.Errorf("%s has the columns %v", kind, columns)
		}
		root := d.Spec.Versions[0].Schema.Root
		if root.Description == "" {
			t.Errorf("%s has no description", kind)
		}
		rules(t, kind, &root)
		if spec := root.Properties["spec"]; spec != nil {
			for _, name := range keys(spec.Properties) {
				if spec.Properties[name].Description == "" {
					t.Errorf("%s.spec.%s has no description", kind, name)
				}
			}
		}
	}
}

func rules(t *testing.T, path string, s *schema) {
	t.Helper()
	for _, v := range s.Validation {
		if v.Message == "" && v.Text == "" {
			t.Errorf("%s: the rule %q has no message", path, v.Rule)
		}
	}
	for _, name := range keys(s.Properties) {
		rules(t, path+"."+name, s.Properties[name])
	}
	if s.Items != nil {
		rules(t, path+"[]", s.Items)
	}
}

func keys(m map[string]*schema) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}
