// SPDX-License-Identifier: Apache-2.0

package ipam

import "testing"

func TestSameObject(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{`{"cidr":"10.0.0.0/30","affinity":null,"allocations":[0,null],"unallocated":null,"deleted":false}`, `{"allocations": [0, null], "cidr": "10.0.0.0/30", "unallocated": [], "strictAffinity": false}`, true},
		{`{"sequenceNumber":18446744073709551615}`, `{"sequenceNumber":18446744073709551614}`, false},
		{`{"allocations":[0,null]}`, `{"allocations":[0]}`, false},
		{`{"attributes":[{"handle_id":"a","secondary":{}}]}`, `{"attributes":[{"handle_id":"a"}]}`, true},
		{`{"attributes":[{"handle_id":"a"}]}`, `{"attributes":[{"handle_id":"b"}]}`, false},
		{`{"deleted":true}`, `{}`, false},
		{`x`, `x`, true},
		{`x`, `{}`, false},
		{``, `{}`, false},
	} {
		if got := sameObject([]byte(test.a), []byte(test.b)); got != test.want {
			t.Errorf("%s and %s: same %v, want %v", test.a, test.b, got, test.want)
		}
		if got := sameObject([]byte(test.b), []byte(test.a)); got != test.want {
			t.Errorf("%s and %s: same %v, want %v", test.b, test.a, got, test.want)
		}
	}
}
