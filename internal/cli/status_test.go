// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/ocicat-net/ocicat/api/meta"
	v1 "github.com/ocicat-net/ocicat/api/v1"
)

// A cluster with thousands of problems is told in a page: a few of each code
// with a few of the nodes that see them, and how many more there are.
func TestManyProblemsAreSummedUp(t *testing.T) {
	var list []*v1.NodeStatus
	for n := range 30 {
		s := &v1.NodeStatus{Metadata: meta.Object{Name: fmt.Sprintf("n%d", n)}}
		for p := range 30 {
			s.Status.Problems = append(s.Status.Problems, v1.Problem{Code: "OC1001", Text: fmt.Sprintf("session with p%d is down", p), Remedy: "Check."})
		}
		s.Status.Problems = append(s.Status.Problems, v1.Problem{Code: "OC2003", Text: fmt.Sprintf("only %d", n/29)})
		list = append(list, s)
	}
	var out bytes.Buffer
	g := newGlobals(Config{Stdout: &out, Getenv: func(string) string { return "" }})
	g.printProblems(&out, list)
	for _, want := range []string{
		"OC1001 n0, n1, n2, n3, n4 and 25 more nodes: session with p0 is down\n       Check.\n",
		"OC1001 … and 25 more: ocicat status -o yaml\n",
		"OC2003 n29: only 1\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, out.String())
		}
	}
	if lines := strings.Count(out.String(), "\n"); lines != 2*5+2+1 {
		t.Errorf("%d lines:\n%s", lines, out.String())
	}
}
