// SPDX-License-Identifier: Apache-2.0

package cli

import "testing"

func FuzzParseReport(f *testing.F) {
	f.Add([]byte(`{"version":1,"findings":[{"what":"pod-gone","object":"10.0.0.1","address":"10.0.0.1","handle":"n.c","sequence":7}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1,"findings":[{"what":"node-gone"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseReport(data)
		if err != nil {
			return
		}
		for _, finding := range r.Findings {
			if finding.Releasable() && !finding.Address.IsValid() {
				t.Errorf("%q: a release without an address", data)
			}
		}
	})
}
