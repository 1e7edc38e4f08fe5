// SPDX-License-Identifier: Apache-2.0

package meta

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	fields := []string{"cidr", "blockSize", "nodeSelector", "namespaceSelector", "ipipMode"}
	for word, want := range map[string]string{
		"blocksize":    "blockSize",
		"blokSize":     "blockSize",
		"blockSzie":    "blockSize",
		"cdir":         "cidr",
		"ipip":         "",
		"ipipMod":      "ipipMode",
		"nodeselektor": "nodeSelector",
		"":             "",
		"x":            "",
		"unrelated":    "",
	} {
		if got := Nearest(word, fields); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", word, got, want)
		}
	}
}

func TestNamesAndLabels(t *testing.T) {
	long := strings.Repeat("a", MaxName+1)
	for name, ok := range map[string]bool{
		"default": true, "a.b-c.9": true, "": false, "A": false, "-a": false, "a..b": false, "a_b": false, "a/b": false, long: false,
	} {
		if got := len(CheckName("metadata.name", name)) == 0; got != ok {
			t.Errorf("CheckName(%q) accepts: %v, want %v", name, got, ok)
		}
	}
	if len(CheckNodeName("n", "Node-A.example.COM")) != 0 {
		t.Error("an upper-case node name is refused")
	}
	found := CheckLabels("metadata.labels", map[string]string{"ok/zone": "a.b_c-d", "also": "", "b d": "x", "k": "no space", "Bad/k": "v"})
	if len(found) != 3 || found[0].Value != "Bad/k" || found[1].Value != "b d" || found[2].Path != "metadata.labels.k" {
		t.Errorf("label findings %v", found)
	}
}

func TestFindingReadsAsOneLine(t *testing.T) {
	f := Finding{Object: "IPPool a", Path: "spec.blockSize", Value: "33", Want: "a number from 20 to 32"}
	if got, want := f.Error(), `IPPool a: spec.blockSize: "33": want a number from 20 to 32`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	f = Finding{Path: "spec.ipipMode", Value: "Always", Want: "Never", Level: Unsupported}
	if got, want := f.Error(), `spec.ipipMode: "Always": not supported yet: want Never`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
