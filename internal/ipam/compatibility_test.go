// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the generated part of docs/compatibility.md")

const (
	page  = "../../docs/compatibility.md"
	begin = "<!-- from internal/ipam/differences_test.go; go test ./internal/ipam -run Compatibility -update -->\n"
	end   = "<!-- end -->\n"
)

// TestCompatibilityPage keeps the page of deliberate differences equal to the
// table that the replay of the recordings is checked against.
func TestCompatibilityPage(t *testing.T) {
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(data), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no generated part", page)
	}
	want := before + begin + differencesText() + end + after
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, string(data)); diff != "" {
		t.Errorf("%s is not what the table says -want +got:\n%s", page, diff)
	}
}

// differencesText lists each reason with the recorded steps it explains.
func differencesText() string {
	var text strings.Builder
	var reasons []reason
	steps := map[reason][]string{}
	for _, d := range differences {
		if !slices.Contains(reasons, d.reason) {
			reasons = append(reasons, d.reason)
		}
		where := fmt.Sprintf("%s %d", d.file, d.step)
		if !slices.Contains(steps[d.reason], where) {
			steps[d.reason] = append(steps[d.reason], where)
		}
	}
	slices.Sort(reasons)
	for _, r := range reasons {
		fmt.Fprintf(&text, "* %s  \n  Seen in: %s.\n", r, strings.Join(steps[r], ", "))
	}
	return text.String()
}
