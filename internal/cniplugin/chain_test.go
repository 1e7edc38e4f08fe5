// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"encoding/json"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/cniwire"
)

var chainResult = cniwire.AddResult{HostIf: "cali1", HostMAC: "ee:ee:ee:ee:ee:ee", MAC: "0e:1c:2c:f6:2a:f9", MTU: 1500, Addresses: []netip.Prefix{netip.MustParsePrefix("172.16.196.1/32")}}

// TestChained: what a plugin before ours made stays as it was and where it
// was, keys included that nobody knows; ours stands behind it.
func TestChained(t *testing.T) {
	req := cniwire.AddRequest{ID: cniwire.ID{ContainerID: "c", IfName: "eth0"}, NetNSPath: "/x"}
	const ours = `{"name":"cali1","mac":"ee:ee:ee:ee:ee:ee"},{"name":"eth0","mac":"0e:1c:2c:f6:2a:f9","sandbox":"/x"}`
	for _, test := range []struct{ name, prev, want string }{
		{"none", `null`, `{"cniVersion":"1.0.0","interfaces":[` + ours + `],"ips":[{"address":"172.16.196.1/32","interface":1}],"dns":{}}`},
		{"empty", `{}`, `{"cniVersion":"1.0.0","dns":{},"interfaces":[` + ours + `],"ips":[{"address":"172.16.196.1/32","interface":1}]}`},
		{"a second interface", `{"cniVersion":"1.0.0","interfaces":[{"name":"net9","sandbox":"/x","later":7}],"ips":[{"address":"10.9.0.2/24","gateway":"10.9.0.1","interface":0}],"routes":[{"dst":"10.0.0.0/8","mtu":1400}],"dns":{"nameservers":["10.9.0.1"]},"other":{"a":[1]}}`,
			`{"cniVersion":"1.0.0","dns":{"nameservers":["10.9.0.1"]},"interfaces":[{"name":"net9","sandbox":"/x","later":7},` + ours + `],"ips":[{"address":"10.9.0.2/24","gateway":"10.9.0.1","interface":0},{"address":"172.16.196.1/32","interface":2}],"other":{"a":[1]},"routes":[{"dst":"10.0.0.0/8","mtu":1400}]}`},
		{"the name on the host", `{"interfaces":[{"name":"eth0"}]}`, `{"cniVersion":"1.0.0","dns":{},"interfaces":[{"name":"eth0"},` + ours + `],"ips":[{"address":"172.16.196.1/32","interface":2}]}`},
	} {
		before, err := parseChained([]byte(`{"prevResult":`+test.prev+`}`), "eth0")
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		got, err := resultJSON("1.0.0", req, chainResult, before)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if diff := cmp.Diff(test.want, string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// FuzzChained feeds results of plugins before ours: one that is taken is in
// the answer item by item, and the answer is JSON.
func FuzzChained(f *testing.F) {
	f.Add(`{"interfaces":[{"name":"net9"}],"ips":[{"address":"10.9.0.2/24","interface":0}],"routes":[]}`)
	f.Add(`{"interfaces":null,"cniVersion":7}`)
	f.Fuzz(func(t *testing.T, prev string) {
		before, err := parseChained([]byte(`{"prevResult":`+prev+`}`), "eth0")
		if err != nil {
			return
		}
		theirs := before.list("interfaces")
		text, err := resultJSON("1.1.0", cniwire.AddRequest{ID: cniwire.ID{ContainerID: "c", IfName: "eth0"}}, chainResult, before)
		if err != nil {
			t.Fatal(err)
		}
		var answer chained
		if err := json.Unmarshal(text, &answer); err != nil {
			t.Fatal(err)
		}
		got := answer.list("interfaces")
		if len(got) != len(theirs)+2 || !slices.EqualFunc(theirs, got[:len(theirs)], sameJSON) {
			t.Errorf("interfaces %s became %s", theirs, got)
		}
	})
}

// sameJSON compares two values but for their blanks.
func sameJSON(a, b json.RawMessage) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && cmp.Equal(x, y)
}
