// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/api/meta"
	"github.com/ocicat-net/ocicat/internal/fault"
	"go.yaml.in/yaml/v3"
)

// Document is one object of a file.
type Document struct {
	Object Object
	Kind   Kind
	// Source is the file's name as it appears in messages.
	Source string
	// Line is where the object begins, counted from 1.
	Line  int
	lines map[string]int
}

// Where is file and line of the field path, as "pool.yaml:7"; of a field that
// was left out, of the nearest that encloses it.
func (d Document) Where(path string) string {
	for path != "" {
		if line, ok := d.lines[path]; ok {
			return fmt.Sprintf("%s:%d", d.Source, line)
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return fmt.Sprintf("%s:%d", d.Source, d.Line)
}

// Parse reads the objects of a file: YAML or JSON, one or more documents,
// single objects or lists. It is strict: unknown fields, values of a wrong
// type, unknown kinds and versions are errors, and all of them are reported,
// each Invalid (or Unsupported) with file and line, joined. Defaults are not
// set and nothing is validated.
func Parse(source string, text []byte) ([]Document, error) {
	p := parser{source: source}
	reader := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var doc yaml.Node
		err := reader.Decode(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			p.syntax(err)
			break
		}
		for _, n := range doc.Content {
			p.object(n, "")
		}
	}
	if len(p.documents) == 0 && len(p.errs) == 0 {
		return nil, fault.Hint(fault.New(fault.Invalid, "%s: holds no object", source), "An object begins with apiVersion and kind.")
	}
	return p.documents, errors.Join(p.errs...)
}

type parser struct {
	source    string
	documents []Document
	errs      []error
	visited   int
}

var syntaxLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

func (p *parser) syntax(err error) {
	text := strings.ReplaceAll(err.Error(), "\n", " ")
	at := p.source
	if m := syntaxLine.FindStringSubmatch(text); m != nil {
		text = text[len(m[0]):]
		if m[1] != "" {
			at += ":" + m[1]
		}
	}
	p.errs = append(p.errs, fault.Hint(fault.New(fault.Invalid, "%s: not YAML or JSON: %s", at, text), "Look at this line and the one before: indentation, quotes, colons."))
}

func (p *parser) fail(kind fault.Kind, n *yaml.Node, hint, format string, args ...any) {
	err := fault.New(kind, "%s:%d: %s", p.source, n.Line, fmt.Sprintf(format, args...))
	if hint != "" {
		err = fault.Hint(err, "%s", hint)
	}
	p.errs = append(p.errs, err)
}

// object reads one object or list; inherited is the kind of a typed list's
// items that name none.
func (p *parser) object(n *yaml.Node, inherited string) {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if p.visited++; p.visited > maxNodes {
		return
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		p.fail(fault.Invalid, n, "An object begins with apiVersion and kind.", "want an object, found %s", describe(n))
		return
	}
	version, kind := scalarField(n, "apiVersion"), scalarField(n, "kind")
	if kind == "" && version == "" && inherited != "" {
		kind = inherited
		version = kindNamed(inherited).APIVersion
	}
	if item, isList := listKind(kind); isList {
		p.list(n, kind, item, inherited)
		return
	}
	row, ok := p.resolve(n, version, kind)
	if !ok {
		return
	}
	d := decoder{lines: map[string]int{}, visited: p.visited}
	o := row.New()
	d.object(n, "", reflect.ValueOf(o).Elem())
	*o.TypeMeta() = *row.New().TypeMeta()
	p.visited = d.visited
	name := strings.TrimSpace(row.Name + " " + o.ObjectMeta().Name)
	for _, m := range d.mistakes {
		at := name
		if m.path != "" {
			at += ": " + m.path
		}
		p.fail(fault.Invalid, &yaml.Node{Line: m.line}, m.hint, "%s: %s", at, m.text)
	}
	p.documents = append(p.documents, Document{Object: o, Kind: row, Source: p.source, Line: n.Line, lines: d.lines})
}

// list reads the items of a list.
func (p *parser) list(n *yaml.Node, kind, item, inherited string) {
	if inherited != "" {
		p.fail(fault.Invalid, n, "Write one list.", "want an object, found a list in a list")
		return
	}
	if item == "" {
		item = "(any)"
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, child := n.Content[i], n.Content[i+1]
		switch key.Value {
		case "items":
			if child.Kind != yaml.SequenceNode {
				p.fail(fault.Invalid, child, "", "%s: items: want a list, found %s", kind, describe(child))
				continue
			}
			for _, entry := range child.Content {
				p.object(entry, item)
			}
		case "apiVersion", "kind", "metadata":
		default:
			p.fail(fault.Invalid, key, meta.DidYouMean(key.Value, []string{"items"}), "%s: %s: unknown field", kind, key.Value)
		}
	}
}

// listKind says whether kind is a list, and of which kind: "" for List.
func listKind(kind string) (item string, isList bool) {
	if kind == "List" {
		return "", true
	}
	item, isList = strings.CutSuffix(kind, "List")
	return item, isList && kindNamed(item).Name != ""
}

// kindNamed returns the row of a kind's name in files, the zero row for none.
func kindNamed(name string) Kind {
	for _, k := range Kinds() {
		if k.Name == name || slices.Contains(k.Older, name) {
			return k
		}
	}
	return Kind{}
}

func scalarField(n *yaml.Node, name string) string {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name && n.Content[i+1].Kind == yaml.ScalarNode && n.Content[i+1].ShortTag() != "!!null" {
			return n.Content[i+1].Value
		}
	}
	return ""
}

// later are kinds of Calico's that are not served yet, with the issue that
// brings them.
var later = map[string]string{
	"BGPFilter":                    "BGP policy comes with the BGP issue.",
	"FelixConfiguration":           "Settings of the agent are in OcicatConfiguration (ocicat.net/v1).",
	"GlobalNetworkPolicy":          "Policy comes with the policy issue.",
	"NetworkPolicy":                "Policy comes with the policy issue.",
	"GlobalNetworkSet":             "Policy comes with the policy issue.",
	"NetworkSet":                   "Policy comes with the policy issue.",
	"HostEndpoint":                 "Policy comes with the policy issue.",
	"Profile":                      "Policy comes with the policy issue.",
	"Tier":                         "Policy comes with the policy issue.",
	"ClusterInformation":           "ocicat status shows the cluster; nothing has to be applied.",
	"KubeControllersConfiguration": "It comes with the Kubernetes issue.",
	"CalicoNodeStatus":             "ocicat bgp peers shows the same; nothing has to be applied.",
	"WorkloadEndpoint":             "Agents write endpoints; nothing has to be applied.",
}

// resolve finds the kind of an object, or says why there is none.
func (p *parser) resolve(n *yaml.Node, version, kind string) (Kind, bool) {
	if kind == "" || version == "" {
		missing := "kind"
		if version == "" {
			missing = "apiVersion"
		}
		p.fail(fault.Invalid, n, "An object begins with apiVersion and kind, such as projectcalico.org/v3 and IPPool.", "%s: missing", missing)
		return Kind{}, false
	}
	row := kindNamed(kind)
	if row.Name != "" && row.APIVersion == version {
		return row, true
	}
	if row.Name != "" {
		p.fail(fault.Invalid, n, fmt.Sprintf("Write apiVersion: %s.", row.APIVersion), "%s: apiVersion %q: not served: want %s", kind, version, row.APIVersion)
		return Kind{}, false
	}
	if pointer, known := later[kind]; known {
		p.fail(fault.Unsupported, n, pointer, "kind %q: not supported yet", kind)
		return Kind{}, false
	}
	var names []string
	for _, k := range Kinds() {
		names = append(names, k.Name)
	}
	hint := meta.DidYouMean(kind, names)
	if hint == "" {
		hint = "Kinds are " + strings.Join(names, ", ") + "."
	}
	p.fail(fault.Invalid, n, hint, "kind %q of %q: unknown", kind, version)
	return Kind{}, false
}
