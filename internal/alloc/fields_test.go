// SPDX-License-Identifier: Apache-2.0

package alloc

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// FuzzDecode compares the fields that decode leaves over with those of a
// second, complete reading.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{}`, `null`, `[{"a":1}]`, `"a"`, ` { "handle_id" : "h" , "x" : { "handle_id" : [ 1 , "}," ] } } `,
		`{"Handle_ID":"h","secondary":{"a":"b"},"x":1,"x":2}`, `{"handle_id":"h","\u0078":"\"\\","ü":[],"":{}}`, `{"handle_id":"h"`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var got, want attributeJSON
		extra, err := decode(data, &got)
		wantErr := json.Unmarshal(data, &want)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%v, not %v", err, wantErr)
		}
		if err != nil {
			return
		}
		var all fields
		if err := json.Unmarshal(data, &all); err != nil {
			t.Fatal(err)
		}
		shape := reflect.TypeFor[attributeJSON]()
		for i := range shape.NumField() {
			name, _, _ := strings.Cut(shape.Field(i).Tag.Get("json"), ",")
			delete(all, name)
		}
		if len(all) == 0 {
			all = nil
		}
		if diff := cmp.Diff(all, extra) + cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: -want +got:\n%s", data, diff)
		}
	})
}

// fullBlock is a stored block of 64 addresses, half of them held.
func fullBlock(b *testing.B) []byte {
	block := NewBlock(netip.MustParsePrefix("10.0.0.0/26"), "node-1", time.Now(), 1)
	for i := range 32 {
		block.AssignNext(1, Attribute{Handle: fmt.Sprint("k8s-pod-network.", i), Secondary: map[string]string{AttrNode: "node-1", AttrPod: fmt.Sprint("web-", i), AttrNamespace: "shop"}}, nil)
	}
	data, err := block.Encode()
	if err != nil {
		b.Fatal(err)
	}
	return data
}

// BenchmarkParseBlock reads a stored block of 64 addresses.
func BenchmarkParseBlock(b *testing.B) {
	data := fullBlock(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseBlock(data); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEncodeBlock writes it.
func BenchmarkEncodeBlock(b *testing.B) {
	block, err := ParseBlock(fullBlock(b))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := block.Encode(); err != nil {
			b.Fatal(err)
		}
	}
}
