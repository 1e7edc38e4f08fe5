// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTable(t *testing.T) {
	tab := newTable("NAME", "ADDRESS", "NOTE")
	tab.add("a", "192.168.0.11", "")
	tab.add("längerer", "\x1b[31m10.0.0.1\x1b[0m", "x")
	tab.add("b", "", "y")
	var out bytes.Buffer
	if err := tab.write(&out); err != nil {
		t.Fatal(err)
	}
	want := "NAME      ADDRESS       NOTE\n" +
		"a         192.168.0.11\n" +
		"längerer  \x1b[31m10.0.0.1\x1b[0m      x\n" +
		"b                       y\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 59 * time.Second: "59s", time.Minute: "1m00s", 182 * time.Second: "3m02s",
		4*time.Hour + 5*time.Minute: "4h05m", 6*24*time.Hour + 7*time.Hour: "6d07h",
	} {
		if got := duration(d); got != want {
			t.Errorf("%v is printed as %s, want %s", d, got, want)
		}
	}
}
