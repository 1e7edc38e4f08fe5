// SPDX-License-Identifier: Apache-2.0

package chaos_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/ocicat-net/ocicat/test/chaos"
)

func TestRecordIsWrittenWhenTheTestEnds(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(chaos.EnvDir, dir)
	t.Run("kill -9", func(t *testing.T) {
		r := chaos.Begin(t, "C9", "kill -9, peer BIRD 2", "0 lost")
		r.Measuredf("%d of %d lost", 0, 100)
		r.Twinf("%d lost", 50)
	})
	found, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(found) != 1 {
		t.Fatalf("records: %v, %v, want one", found, err)
	}
	data, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	var r chaos.Record
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	if r.ID != "C9" || r.Failed || len(r.Measured) != 2 || r.Measured[1] != "twin: 50 lost" {
		t.Errorf("record %s", data)
	}
}

func TestCatalogueHasEachCaseOnce(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range chaos.Catalogue() {
		if seen[c.ID] || c.Title == "" {
			t.Errorf("case %s: twice, or without a title", c.ID)
		}
		seen[c.ID] = true
	}
}
