// SPDX-License-Identifier: Apache-2.0

package meta

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestWithCondition: others' conditions stay, and the time is that of the last
// change of the status.
func TestWithCondition(t *testing.T) {
	now := time.Date(2026, 2, 3, 4, 5, 6, 7, time.UTC)
	const at, before = "2026-02-03T04:05:06Z", "2026-01-01T00:00:00Z"
	other := Condition{Type: "Allocatable", Status: "True", LastTransitionTime: before}
	wanted := Condition{Type: "Ready", Status: "False", Reason: "OC2004", Message: "m", ObservedGeneration: 2}
	with := func(c Condition, time string) Condition { c.LastTransitionTime = time; return c }
	said := with(wanted, before)
	was := said
	was.Status, was.Reason = "True", "Usable"
	older := said
	older.ObservedGeneration = 1
	for _, test := range []struct {
		name      string
		old, want []Condition
		differs   bool
	}{
		{"none", nil, []Condition{with(wanted, at)}, true},
		{"another's", []Condition{other}, []Condition{other, with(wanted, at)}, true},
		{"the same", []Condition{other, said}, []Condition{other, said}, false},
		{"turned", []Condition{was, other}, []Condition{with(wanted, at), other}, true},
		{"of an older generation", []Condition{older}, []Condition{said}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, _, differs := WithCondition(test.old, wanted, now)
			if diff := cmp.Diff(test.want, got); diff != "" || differs != test.differs {
				t.Errorf("differs %v, (-want +got):\n%s", differs, diff)
			}
		})
	}
}
