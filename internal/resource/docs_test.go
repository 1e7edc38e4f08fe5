// SPDX-License-Identifier: Apache-2.0

package resource_test

import (
	"cmp"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/api/meta"
	"github.com/ocicat-net/ocicat/internal/resource"
)

var update = flag.Bool("update", false, "rewrite docs/resources.md")

const resourcesHead = `# Resources

A cluster is described by the resources below. Those of the group
projectcalico.org/v3 have Calico's fields and meaning; nothing is added to
them. Settings and reports of our own are in ocicat.net/v1. No kind has
namespaces.

Files may be YAML or JSON, hold several objects, and lists (` + "`kind: List`, or\n`kind: IPPoolList`" + `). They are read strictly: an unknown field, a value of a
wrong type, a field given twice are errors with file and line. Fields marked
"not supported yet" are refused when they are applied; found in the datastore
they are left out and reported. See [cli.md](cli.md) for ` + "`get`, `apply` and\n`delete`" + `.

Stored objects are read tolerantly: fields that this version does not know are
kept when the object is written again, and an object of an unknown version is
left alone and reported as OC5002.

metadata is the same in all kinds:

`

const resourcesFoot = `
## How validation differs from Calico

The recordings of Calico's own validation are part of our tests. What differs:

| where | here | Calico | why |
|---|---|---|---|
| IPPool | one that overlaps a node's network is refused | accepted | its addresses would hide the node's neighbours |
| IPPool | ranges of loopback and multicast are refused | only link-local is | no pod can have such an address |
| IPPool | ipipMode and vxlanMode other than Never and IPv6 CIDRs are refused as not supported yet | accepted | encapsulation and IPv6 come with their own issues |
| BGPPeer | one without asNumber is refused | accepted, and the whole configuration fails later | a mistake should show where it is made |
| BGPPeer | asNumber may be above 2147483647, or written as 1.10 | both refused | RFC 6793 numbers have 32 bits, and BGPConfiguration takes both |
| BGPPeer, BGPConfiguration, Node | AS numbers 0, 23456, 65535 and 4294967295 are refused | accepted | RFC 7607, 6793 and 7300 reserve them |
| Node | two nodes with one BGP address are refused | found at the start of the second | a mistake should show where it is made |
`

// docs holds the types of the api packages as their source describes them.
type docs struct {
	text   map[string]string            // comment of a type
	fields map[string]map[string]string // comment of a field, by type and Go name
}

func readDocs(t *testing.T) docs {
	t.Helper()
	d := docs{map[string]string{}, map[string]map[string]string{}}
	files, err := filepath.Glob("../../api/*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range f.Decls {
			g, ok := decl.(*ast.GenDecl)
			if !ok || g.Tok != token.TYPE {
				continue
			}
			for _, spec := range g.Specs {
				d.add(f.Name.Name, spec.(*ast.TypeSpec), g.Doc.Text())
			}
		}
	}
	return d
}

func (d docs) add(pkg string, spec *ast.TypeSpec, text string) {
	name := pkg + "." + spec.Name.Name
	d.text[name] = text
	s, ok := spec.Type.(*ast.StructType)
	if !ok {
		return
	}
	d.fields[name] = map[string]string{}
	for _, field := range s.Fields.List {
		for _, n := range field.Names {
			d.fields[name][n.Name] = field.Doc.Text()
		}
	}
}

// table writes a row for every field of a struct and those below it.
func (d docs) table(b *strings.Builder, t reflect.Type, path string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			continue
		}
		inner, here, kind := f.Type, strings.TrimPrefix(path+"."+name, "."), ""
		for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice {
			if inner.Kind() == reflect.Slice {
				kind, here = "list of ", here+"[]"
			}
			inner = inner.Elem()
		}
		text := strings.Join(strings.Fields(d.fields[t.String()][f.Name]), " ")
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", here, kind+typeName(inner), cmp.Or(text, "**undocumented**"))
		if inner.Kind() == reflect.Struct && inner.String() != "time.Time" && inner != reflect.TypeFor[meta.Object]() {
			d.table(b, inner, here)
		}
	}
}

func typeName(t reflect.Type) string {
	switch {
	case t.String() == "time.Time":
		return "time"
	case t.Kind() == reflect.Struct:
		return "fields"
	case t.Kind() == reflect.Map:
		return "texts by name"
	case t.Kind() == reflect.String:
		return "text"
	case t.Kind() == reflect.Bool:
		return "true or false"
	}
	return "number"
}

const tableHead = "| field | type | meaning |\n|---|---|---|\n"

// TestDocs compares docs/resources.md with the types; -update rewrites it.
func TestDocs(t *testing.T) {
	d := readDocs(t)
	var b strings.Builder
	b.WriteString(resourcesHead + tableHead)
	d.table(&b, reflect.TypeFor[meta.Object](), "metadata")
	for _, k := range resource.Kinds() {
		example, err := os.ReadFile("testdata/examples/" + k.Name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		typ := reflect.TypeOf(k.New()).Elem()
		fmt.Fprintf(&b, "\n## %s\n\n%s\nWords for `get` and `delete`: %s.\n\n```yaml\n%s```\n\n%s",
			k.Name, d.text[typ.String()], strings.Join(append([]string{k.Plural}, k.Words...), ", "), example, tableHead)
		for i := range typ.NumField() {
			if f := typ.Field(i); f.Name == "Spec" || f.Name == "Status" {
				name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				inner := f.Type
				if inner.Kind() == reflect.Pointer {
					inner = inner.Elem()
				}
				d.table(&b, inner, name)
			}
		}
	}
	b.WriteString(resourcesFoot)
	if strings.Contains(b.String(), "**undocumented**") {
		t.Error("a field of the api packages has no comment")
	}
	const file = "../../docs/resources.md"
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(b.String(), string(have)); diff != "" {
		t.Errorf("run go test ./internal/resource -update (-want +got):\n%s", diff)
	}
}

// TestExamples reads, validates and prints the examples of the documentation.
func TestExamples(t *testing.T) {
	for _, k := range resource.Kinds() {
		text, err := os.ReadFile("testdata/examples/" + k.Name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := resource.Parse(k.Name, text)
		if err != nil || len(parsed) != 1 || parsed[0].Kind.Name != k.Name {
			t.Errorf("%s: %v", k.Name, err)
			continue
		}
		o := parsed[0].Object
		o.SetDefaults()
		if err := resource.Errors(resource.Validate(o), func(meta.Finding) string { return "" }); err != nil {
			t.Errorf("%s: %v", k.Name, err)
		}
		for _, column := range k.Columns {
			if column.Value(o) == "" && column.Title != "LABELS" {
				t.Errorf("%s: column %s is empty", k.Name, column.Title)
			}
		}
	}
}
