// SPDX-License-Identifier: Apache-2.0

package resource_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/resource"
)

// report is an error as the command line would print it: a line for each
// joined error, and one for its hint.
func report(err error) string {
	if err == nil {
		return ""
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		var b strings.Builder
		for _, one := range many.Unwrap() {
			b.WriteString(report(one))
		}
		return b.String()
	}
	return fmt.Sprintf("%s [%s]\n  %s\n", err, fault.KindOf(err), fault.HintOf(err))
}

const poolText = `apiVersion: projectcalico.org/v3
kind: IPPool
metadata:
  name: default
spec:
  cidr: 172.16.0.0/16
`

func TestMistakesNameTheLine(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"fine", poolText, ""},
		{"unknown field", poolText + "  blocksize: 26\n", "f.yaml:7: IPPool default: spec.blocksize: unknown field [invalid]\n  Did you mean blockSize?\n"},
		{"field of nothing near", poolText + "  zzz: 26\n", "f.yaml:7: IPPool default: spec.zzz: unknown field [invalid]\n  Fields of spec are cidr, blockSize, ipipMode, vxlanMode, natOutgoing, disabled, disableBGPExport, nodeSelector, namespaceSelector, allowedUses, assignmentMode.\n"},
		{"number for text", poolText + "  nodeSelector: 26\n", "f.yaml:7: IPPool default: spec.nodeSelector: want a text, found the number 26 [invalid]\n  Put it in quotes: \"26\".\n"},
		{"text for number", poolText + "  blockSize: \"26\"\n", "f.yaml:7: IPPool default: spec.blockSize: want a whole number, found \"26\" [invalid]\n  \n"},
		{"fraction", poolText + "  blockSize: 26.5\n", "f.yaml:7: IPPool default: spec.blockSize: want a whole number, found the number 26.5 [invalid]\n  \n"},
		{"text for bool", poolText + "  disabled: \"true\"\n", "f.yaml:7: IPPool default: spec.disabled: want true or false, found \"true\" [invalid]\n  \n"},
		{"bool of YAML 1.1", poolText + "  disabled: yes\n", ""},
		{"scalar for list", poolText + "  allowedUses: Workload\n", "f.yaml:7: IPPool default: spec.allowedUses: want a list, found \"Workload\" [invalid]\n  Write it as [a, b], or with one \"- a\" a line.\n"},
		{"list for fields", "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: a}\nspec: [1]\n", "f.yaml:4: IPPool a: spec: want fields (name: value), found a list [invalid]\n  \n"},
		{"field twice", poolText + "  cidr: 10.0.0.0/8\n", "f.yaml:7: IPPool default: spec.cidr: field given twice [invalid]\n  It stands in line 6 already; remove one.\n"},
		{"two mistakes", poolText + "  a: 1\n  blockSize: x\n", "f.yaml:7: IPPool default: spec.a: unknown field [invalid]\n" +
			"  Fields of spec are cidr, blockSize, ipipMode, vxlanMode, natOutgoing, disabled, disableBGPExport, nodeSelector, namespaceSelector, allowedUses, assignmentMode.\n" +
			"f.yaml:8: IPPool default: spec.blockSize: want a whole number, found \"x\" [invalid]\n  \n"},
		{"namespace", "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: a, namespace: b}\n", "f.yaml:3: IPPool a: metadata.namespace: unknown field [invalid]\n" +
			"  Fields of metadata are name, labels, annotations, uid, resourceVersion, generation, creationTimestamp.\n"},
		{"status is skipped", poolText + "status: {conditions: []}\n", ""},
		{"no kind", "apiVersion: projectcalico.org/v3\n", "f.yaml:1: kind: missing [invalid]\n  An object begins with apiVersion and kind, such as projectcalico.org/v3 and IPPool.\n"},
		{"near kind", "apiVersion: projectcalico.org/v3\nkind: IPool\n", "f.yaml:1: kind \"IPool\" of \"projectcalico.org/v3\": unknown [invalid]\n  Did you mean IPPool?\n"},
		{"other version", "\napiVersion: crd.projectcalico.org/v1\nkind: IPPool\n", "f.yaml:2: IPPool: apiVersion \"crd.projectcalico.org/v1\": not served: want projectcalico.org/v3 [invalid]\n  Write apiVersion: projectcalico.org/v3.\n"},
		{"kind of a later issue", "apiVersion: projectcalico.org/v3\nkind: BGPFilter\n", "f.yaml:1: kind \"BGPFilter\": not supported yet [unsupported]\n  BGP policy comes with the BGP issue.\n"},
		{"Kubernetes kind", "apiVersion: apps/v1\nkind: Deployment\n", "f.yaml:1: kind \"Deployment\" of \"apps/v1\": unknown [invalid]\n" +
			"  Kinds are IPPool, IPReservation, IPAMConfiguration, BGPConfiguration, BGPPeer, Node, OcicatConfiguration, NodeStatus.\n"},
		{"second document", poolText + "---\n" + poolText + "  x: 1\n", "f.yaml:14: IPPool default: spec.x: unknown field [invalid]\n" +
			"  Fields of spec are cidr, blockSize, ipipMode, vxlanMode, natOutgoing, disabled, disableBGPExport, nodeSelector, namespaceSelector, allowedUses, assignmentMode.\n"},
		{"syntax", poolText + "  a: b: c\n", "f.yaml:7: not YAML or JSON: mapping values are not allowed in this context [invalid]\n  Look at this line and the one before: indentation, quotes, colons.\n"},
		{"empty", "# nothing\n", "f.yaml: holds no object [invalid]\n  An object begins with apiVersion and kind.\n"},
		{"scalar", "hello\n", "f.yaml:1: want an object, found \"hello\" [invalid]\n  An object begins with apiVersion and kind.\n"},
		{"AS as text", "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: a}\nspec: {asNumber: x}\n", "f.yaml:4: BGPPeer a: spec.asNumber: \"x\": want a number from 1 to 4294967295 [invalid]\n  \n"},
		{"merge key", "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: &m {name: a}\nspec:\n  bgp:\n    <<: *m\n", "f.yaml:6: Node a: spec.bgp: want a field's name, found the merge key << [invalid]\n  Write the fields out.\n"},
		{"list of lists", "apiVersion: v1\nkind: List\nitems:\n- kind: List\n  apiVersion: v1\n  items: []\n", "f.yaml:4: want an object, found a list in a list [invalid]\n  Write one list.\n"},
		{"list with a typo", "apiVersion: v1\nkind: List\nitem: []\n", "f.yaml:3: List: item: unknown field [invalid]\n  Did you mean items?\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := resource.Parse("f.yaml", []byte(test.text))
			if diff := cmp.Diff(test.want, report(err)); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFormsOfOneObject(t *testing.T) {
	want := &v3.BGPPeer{Spec: v3.BGPPeerSpec{PeerIP: "192.0.2.1", ASNumber: 65546}}
	want.Type.APIVersion, want.Type.Kind = v3.APIVersion, v3.KindBGPPeer
	want.Metadata.Name = "tor"
	want.Metadata.Labels = map[string]string{"a": "b"}
	for name, text := range map[string]string{
		"YAML":           "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata:\n  name: tor\n  labels: {a: b}\nspec:\n  peerIP: 192.0.2.1\n  asNumber: 1.10\n",
		"with Windows":   "apiVersion: projectcalico.org/v3\r\nkind: BGPPeer\r\nmetadata:\r\n  name: tor\r\n  labels: {a: b}\r\nspec:\r\n  peerIP: 192.0.2.1\r\n  asNumber: 65546\r\n",
		"JSON":           "{\n\t\"apiVersion\": \"projectcalico.org/v3\",\n\t\"kind\": \"BGPPeer\", \"metadata\": {\"name\": \"tor\", \"labels\": {\"a\": \"b\"}},\n\t\"spec\": {\"peerIP\": \"192.0.2.1\", \"asNumber\": \"1.10\"}}",
		"List":           "apiVersion: v1\nkind: List\nitems:\n- apiVersion: projectcalico.org/v3\n  kind: BGPPeer\n  metadata: {name: tor, labels: {a: b}}\n  spec: {peerIP: 192.0.2.1, asNumber: 65546}\n",
		"typed list":     "apiVersion: projectcalico.org/v3\nkind: BGPPeerList\nmetadata: {resourceVersion: \"9\"}\nitems:\n- metadata: {name: tor, labels: {a: b}}\n  spec: {peerIP: 192.0.2.1, asNumber: 65546}\n",
		"anchor":         "apiVersion: projectcalico.org/v3\nkind: &k BGPPeer\nmetadata: {name: tor, labels: &l {a: b}, annotations: }\nspec: {peerIP: 192.0.2.1, asNumber: 65546}\n",
		"empty document": "---\n---\napiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: tor, labels: {a: b}}\nspec: {peerIP: 192.0.2.1, asNumber: 65546}\n---\n",
	} {
		docs, err := resource.Parse(name, []byte(text))
		if err != nil || len(docs) != 1 {
			t.Errorf("%s: %d objects, %v", name, len(docs), err)
			continue
		}
		if diff := cmp.Diff(resource.Object(want), docs[0].Object); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestOlderNameOfAKind(t *testing.T) {
	docs, err := resource.Parse("f", []byte("apiVersion: projectcalico.org/v3\nkind: IPAMConfig\nmetadata: {name: default}\nspec: {strictAffinity: true}\n"))
	if err != nil || resource.Reference(docs[0].Object) != "ipamconfigurations/default" {
		t.Errorf("%v, %v", docs, err)
	}
}

func TestWhere(t *testing.T) {
	docs, err := resource.Parse("f.yaml", []byte("---\n"+poolText+"  allowedUses:\n  - Workload\n  - Bogus\n"))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"":                    "f.yaml:2",
		"spec.cidr":           "f.yaml:7",
		"spec.blockSize":      "f.yaml:7", // left out: where spec's fields begin
		"spec.allowedUses[1]": "f.yaml:10",
		"spec.allowedUses[9]": "f.yaml:9",
		"nothing":             "f.yaml:2",
	} {
		if got := docs[0].Where(path); got != want {
			t.Errorf("Where(%q) = %s, want %s", path, got, want)
		}
	}
}

func TestYAMLIsReadBack(t *testing.T) {
	for _, kind := range resource.Kinds() {
		o := kind.New()
		o.ObjectMeta().Name = "default"
		o.ObjectMeta().Annotations = map[string]string{"a": "yes", "b": "1.0", "c": "line\nline", "d": "", "e": "12:30:00", "f": "2026-01-01", "g": "null", "h": "# no", "i": "<&>\u2028"}
		text, err := resource.YAML(o)
		if err != nil {
			t.Fatal(err)
		}
		docs, err := resource.Parse("printed", text)
		if kind.ReadOnly && err == nil {
			continue
		}
		if err != nil {
			t.Errorf("%s: %v\n%s", kind.Name, err, text)
			continue
		}
		if diff := cmp.Diff(o, docs[0].Object); diff != "" {
			t.Errorf("%s (-want +got):\n%s\n%s", kind.Name, diff, text)
		}
	}
}

func TestYAMLForm(t *testing.T) {
	docs, err := resource.Parse("f", []byte(poolText))
	if err != nil {
		t.Fatal(err)
	}
	docs[0].Object.SetDefaults()
	text, err := resource.YAML(docs[0].Object)
	if err != nil {
		t.Fatal(err)
	}
	want := poolText + `  blockSize: 26
  ipipMode: Never
  vxlanMode: Never
  nodeSelector: all()
  allowedUses:
    - Workload
    - Tunnel
  assignmentMode: Automatic
`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestEveryWordNamesOneKind(t *testing.T) {
	owner := map[string]string{}
	for _, k := range resource.Kinds() {
		for _, word := range append([]string{strings.ToLower(k.Name), k.Plural}, k.Words...) {
			if other, taken := owner[word]; taken && other != k.Name {
				t.Errorf("%q names %s and %s", word, other, k.Name)
			}
			owner[word] = k.Name
			if found, err := resource.Find(strings.ToUpper(word)); err != nil || found.Name != k.Name {
				t.Errorf("Find(%q) = %s, %v", word, found.Name, err)
			}
		}
	}
	if _, err := resource.Find("pol"); !fault.Is(err, fault.Invalid) || fault.HintOf(err) != "Did you mean pool?" {
		t.Errorf("Find(pol): %v, hint %q", err, fault.HintOf(err))
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(poolText))
	f.Add([]byte("apiVersion: v1\nkind: List\nitems: [{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: a}, spec: {asNumber: 1.10}}]\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("{\"apiVersion\": \"ocicat.net/v1\", \"kind\": \"NodeStatus\", \"metadata\": {\"name\": \"n\", \"creationTimestamp\": \"2026-11-22T10:00:00Z\"}}"))
	f.Add([]byte("apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: a, labels: {a: b}}\nspec: {bgp: {ipv4Address: 10.0.0.1/24}}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		docs, err := resource.Parse("fuzz", text)
		if err != nil {
			if report(err) == "" {
				t.Error("an error without text")
			}
			return
		}
		for _, d := range docs {
			d.Object.SetDefaults()
			for _, finding := range resource.Validate(d.Object) {
				_ = d.Where(finding.Path)
			}
			printed, err := resource.YAML(d.Object)
			if err != nil {
				t.Fatalf("print: %v", err)
			}
			again, err := resource.Parse("again", printed)
			if err != nil || len(again) != 1 {
				t.Fatalf("printed object is not read back: %v\n%s", err, printed)
			}
			a, errA := json.Marshal(d.Object)
			b, errB := json.Marshal(again[0].Object)
			if errA != nil || errB != nil || string(a) != string(b) {
				t.Fatalf("changed by printing:\n%s\n%s", a, b)
			}
		}
	})
}
