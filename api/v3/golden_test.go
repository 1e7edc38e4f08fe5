// SPDX-License-Identifier: Apache-2.0

package v3

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/api/meta"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// scenario is a recording of what Calico accepts and refuses, step by step.
type scenario struct {
	Steps []struct {
		N    int
		Op   string
		Args struct {
			Name          string
			Spec          IPPoolSpec
			ReservedCIDRs []string
		}
		Error  *struct{ Text string }
		Writes []struct {
			Value struct{ Spec IPPoolSpec }
		}
	}
}

func readScenario(t *testing.T, file string) scenario {
	t.Helper()
	text, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	var s scenario
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// wrong keeps the findings that refuse an object in every version: those of
// level Unsupported are about this version, and Calico knows none of them.
func wrong(findings []meta.Finding) []string {
	var list []string
	for _, f := range findings {
		if f.Level == meta.Wrong {
			list = append(list, f.Error())
		}
	}
	return list
}

// TestPoolsAsCalico replays the recording: the same pools are refused, and
// those accepted are stored with the same defaults. No step differs.
func TestPoolsAsCalico(t *testing.T) {
	record := chaos.Begin(t, "B17", "pools that overlap, with a changed CIDR or block size, or a CIDR that is none, at admission", "each refused that Calico refuses")
	stored := map[string]*IPPool{}
	steps := readScenario(t, "e-pool-validation.json").Steps
	record.Measuredf("%d creations and changes judged as recorded", len(steps))
	for _, step := range steps {
		pool := &IPPool{Metadata: meta.Object{Name: step.Args.Name}, Spec: step.Args.Spec}
		pool.SetDefaults()
		found := pool.Validate()
		var all []*IPPool
		for name, other := range stored {
			if name != step.Args.Name {
				all = append(all, other)
			}
		}
		found = append(found, CheckPools(append(all, pool))...)
		if step.Op == "UpdateIPPool" {
			found = append(found, pool.ValidateUpdate(stored[step.Args.Name])...)
		}
		refused := wrong(found)
		if step.Args.Spec.NodeSelector == "a ==" {
			if fields := pool.Selectors(); fields[0].Value != "a ==" {
				t.Errorf("step %d: the selector to check is not offered: %v", step.N, fields)
			}
			continue // selectors are parsed by internal/resource
		}
		if (step.Error != nil) != (len(refused) > 0) {
			t.Errorf("step %d %s %s: Calico says %+v, we say %q", step.N, step.Op, step.Args.Name, step.Error, refused)
			continue
		}
		if step.Error == nil {
			stored[step.Args.Name] = pool
			if diff := cmp.Diff(step.Writes[0].Value.Spec, pool.Spec); diff != "" {
				t.Errorf("step %d: stored pool (-Calico +ours):\n%s", step.N, diff)
			}
		}
	}
	if len(stored) != 2 {
		t.Errorf("%d pools were accepted, want 2", len(stored))
	}
}

func TestReservationsAsCalico(t *testing.T) {
	steps := 0
	for _, step := range readScenario(t, "e-reservations.json").Steps {
		if step.Op != "CreateIPReservation" {
			continue
		}
		steps++
		r := &IPReservation{Metadata: meta.Object{Name: step.Args.Name}, Spec: IPReservationSpec{ReservedCIDRs: step.Args.ReservedCIDRs}}
		if refused := wrong(r.Validate()); (step.Error != nil) != (len(refused) > 0) {
			t.Errorf("step %d: Calico says %+v, we say %q", step.N, step.Error, refused)
		}
	}
	if steps != 4 {
		t.Errorf("%d reservations in the recording, want 4", steps)
	}
}
