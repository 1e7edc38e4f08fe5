// SPDX-License-Identifier: Apache-2.0

package shape

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
)

// same fails where two JSON texts mean different things.
func same(t *testing.T, what string, want, got []byte) {
	t.Helper()
	var a, b any
	if err := json.Unmarshal(want, &a); err != nil {
		t.Fatalf("%s: %v in %s", what, err, want)
	}
	if err := json.Unmarshal(got, &b); err != nil {
		t.Fatalf("%s: %v in %s", what, err, got)
	}
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// pairs are values and the objects that hold them, in the v3 profile.
var pairs = []struct{ kind, name, value, object string }{
	{
		"IPPool", "default-ipv4-ippool",
		`{"apiVersion":"projectcalico.org/v3","kind":"IPPool","metadata":{"name":"default-ipv4-ippool","labels":{"a":"b"},"annotations":{"ocicat.net/x":"y"}},"spec":{"cidr":"10.0.0.0/16","later":{"field":1}}}`,
		`{"apiVersion":"projectcalico.org/v3","kind":"IPPool","metadata":{"name":"default-ipv4-ippool","labels":{"a":"b"},"annotations":{"ocicat.net/x":"y"}},"spec":{"cidr":"10.0.0.0/16","later":{"field":1}}}`,
	},
	{
		"NodeStatus", "k8s-node-1",
		`{"apiVersion":"ocicat.net/v1","kind":"NodeStatus","metadata":{"name":"k8s-node-1"},"status":{"ready":true}}`,
		`{"apiVersion":"ocicat.net/v1","kind":"NodeStatus","metadata":{"name":"k8s-node-1"},"status":{"ready":true}}`,
	},
	{
		"IPAMBlock", "172.16.109.64-30",
		`{"cidr":"172.16.109.64/30","affinity":"host:k8s-node-1","affinity_claim_time":"2026-11-22T10:00:00Z","allocations":[0,null,null,null],"unallocated":[1,2,3],"attributes":[{"handle_id":"h","secondary":{"node":"k8s-node-1"},"releasedAt":"x"}],"sequenceNumber":7,"sequenceNumberForAllocation":{"0":6},"deleted":false,"strictAffinity":false,"later":1}`,
		`{"apiVersion":"projectcalico.org/v3","kind":"IPAMBlock","metadata":{"name":"172-16-109-64-30"},"spec":{"cidr":"172.16.109.64/30","affinity":"host:k8s-node-1","affinityClaimTime":"2026-11-22T10:00:00Z","allocations":[0,null,null,null],"unallocated":[1,2,3],"attributes":[{"handle_id":"h","secondary":{"node":"k8s-node-1"},"releasedAt":"x"}],"sequenceNumber":7,"sequenceNumberForAllocation":{"0":6},"deleted":false,"strictAffinity":false,"later":1}}`,
	},
	{
		"BlockAffinity", "node-a/172.16.109.64-26",
		`{"state":"pending","deleted":false}`,
		`{"apiVersion":"projectcalico.org/v3","kind":"BlockAffinity","metadata":{"name":"node-a-172-16-109-64-26","labels":{"projectcalico.org/affinity-type":"host","projectcalico.org/hostname-hash":"PY3TQE2E3XMTETLM2MJO3UITKPFB27YUJ4T4E5XGPEJON3SM4QAA","projectcalico.org/ip-version":"4"}},"spec":{"state":"pending","deleted":false,"node":"node-a","cidr":"172.16.109.64/26","type":"host"}}`,
	},
	{
		"BlockAffinity", "n.example.com/fd00::-122",
		`{"state":"confirmed","deleted":false}`,
		`{"apiVersion":"projectcalico.org/v3","kind":"BlockAffinity","metadata":{"name":"n.example.com-fd00---122","labels":{"projectcalico.org/affinity-type":"host","projectcalico.org/hostname-hash":"` + hostnameHash("n.example.com") + `","projectcalico.org/ip-version":"6"}},"spec":{"state":"confirmed","deleted":false,"node":"n.example.com","cidr":"fd00::/122","type":"host"}}`,
	},
	{
		"IPAMHandle", "k8s-pod-network.ABC",
		`{"block":{"10.0.0.0/26":1},"deleted":false}`,
		`{"apiVersion":"projectcalico.org/v3","kind":"IPAMHandle","metadata":{"name":"k8s-pod-network.abc"},"spec":{"handleID":"k8s-pod-network.ABC","block":{"10.0.0.0/26":1},"deleted":false}}`,
	},
	{
		"IPAMConfig", "default",
		`{"strict_affinity":true,"auto_allocate_blocks":false,"maxBlocksPerHost":4}`,
		`{"apiVersion":"projectcalico.org/v3","kind":"IPAMConfiguration","metadata":{"name":"default"},"spec":{"strictAffinity":true,"autoAllocateBlocks":false,"maxBlocksPerHost":4}}`,
	},
	{
		"Heartbeat", "k8s-node-1",
		`{"counter":18446744073709551615,"bootID":"b"}`,
		`{"apiVersion":"ocicat.net/v1","kind":"Heartbeat","metadata":{"name":"k8s-node-1"},"spec":{"counter":18446744073709551615,"bootID":"b"}}`,
	},
}

func resourceOf(t *testing.T, kind string) Resource {
	t.Helper()
	r, ok := V3().Resource(store.Kind(kind))
	if !ok {
		t.Fatalf("no resource of %s", kind)
	}
	return r
}

// TestValuesAndObjects turns values into objects and back.
func TestValuesAndObjects(t *testing.T) {
	for _, p := range pairs {
		r, key := resourceOf(t, p.kind), store.Key{Kind: store.Kind(p.kind), Name: p.name}
		created, err := r.Create(key, []byte(p.value))
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		same(t, "object of "+key.String(), []byte(p.object), created)
		served := strings.Replace(string(created), `"name":`, `"resourceVersion":"42","managedFields":[{}],"name":`, 1)
		e, err := r.Decode([]byte(served))
		if err != nil || e.Key != key || e.Revision != 42 {
			t.Errorf("%s: read as %s at %d, %v", key, e.Key, e.Revision, err)
			continue
		}
		same(t, "value of "+key.String(), []byte(p.value), e.Value)
	}
}

// TestEveryKindHasAResource: no kind of the datastore is without a place.
func TestEveryKindHasAResource(t *testing.T) {
	for _, p := range []Profile{V3(), V1()} {
		seen := map[string]bool{}
		for _, kind := range store.Kinds() {
			r, ok := p.Resource(kind)
			if !ok || r.Stored != kind || seen[r.Path()] {
				t.Errorf("profile %s: %s is held in %q", p.Name, kind, r.Path())
			}
			seen[r.Path()] = true
		}
	}
}

// TestSparseValues: fields a schema wants are there although a value has none
// or null.
func TestSparseValues(t *testing.T) {
	for _, test := range []struct{ kind, name, value, want string }{
		{"IPAMBlock", "10.0.0.0-26", `{"cidr":"10.0.0.0/26","affinity":null,"allocations":null,"unallocated":null,"attributes":null,"sequenceNumberForAllocation":null}`, `{"cidr":"10.0.0.0/26","allocations":[],"unallocated":[],"attributes":[],"strictAffinity":false}`},
		{"IPAMHandle", "h", `{"block":null}`, `{"handleID":"h","block":{},"deleted":false}`},
		{"BlockAffinity", "n/10.0.0.0-26", `{}`, `{"state":"confirmed","deleted":false,"node":"n","cidr":"10.0.0.0/26","type":"host"}`},
		{"IPAMConfig", "default", `{}`, `{"strictAffinity":false,"autoAllocateBlocks":false}`},
	} {
		created, err := resourceOf(t, test.kind).Create(store.Key{Kind: store.Kind(test.kind), Name: test.name}, []byte(test.value))
		if err != nil {
			t.Errorf("%s: %v", test.kind, err)
			continue
		}
		var o struct{ Spec json.RawMessage }
		if err := json.Unmarshal(created, &o); err != nil {
			t.Fatal(err)
		}
		same(t, test.kind, []byte(test.want), o.Spec)
	}
}

func TestConfigDefaults(t *testing.T) {
	e, err := resourceOf(t, "IPAMConfig").Decode([]byte(`{"metadata":{"name":"default","resourceVersion":"1"},"spec":{"strictAffinity":true}}`))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "value", []byte(`{"strict_affinity":true,"auto_allocate_blocks":true}`), e.Value)
}

// TestRefused: objects that are not what their name says, and values that do
// not belong to their key.
func TestRefused(t *testing.T) {
	for _, test := range []struct{ kind, object string }{
		{"IPAMBlock", `{"metadata":{"name":"b","resourceVersion":"1"},"spec":{"cidr":"10.0.0.0"}}`},
		{"IPAMBlock", `{"metadata":{"name":"b","resourceVersion":"1"}}`},
		{"IPAMBlock", `{"metadata":{"name":"b","resourceVersion":"1"},"spec":null}`},
		{"BlockAffinity", `{"metadata":{"name":"a","resourceVersion":"1"},"spec":{"cidr":"10.0.0.0/26","node":"lb","type":"virtual"}}`},
		{"BlockAffinity", `{"metadata":{"name":"a","resourceVersion":"1"},"spec":{"cidr":"10.0.0.0/26"}}`},
		{"IPAMHandle", `{"metadata":{"name":"h","resourceVersion":"1"},"spec":{"handleID":"other"}}`},
		{"IPPool", `{"metadata":{"name":"h","resourceVersion":"x"}}`},
		{"IPPool", `[]`},
	} {
		if e, err := resourceOf(t, test.kind).Decode([]byte(test.object)); err == nil {
			t.Errorf("%s: read as %s %s", test.object, e.Key, e.Value)
		}
	}
	for _, test := range []struct{ kind, name, value string }{
		{"IPPool", "p", `{"metadata":{"name":"q"}}`},
		{"IPPool", "p", `null`},
		{"IPPool", "p", `x`},
		{"IPPool", "P", `{"metadata":{"name":"P"}}`},
		{"IPAMBlock", "10.0.0.0-26", `{"cidr":"10.0.1.0/26"}`},
		{"IPAMHandle", "a_b", `{}`},
		{"Heartbeat", "n", `[]`},
	} {
		key := store.Key{Kind: store.Kind(test.kind), Name: test.name}
		if _, err := resourceOf(t, test.kind).Create(key, []byte(test.value)); !fault.Is(err, fault.Invalid) {
			t.Errorf("create %s %s: %v, want invalid", key, test.value, err)
		}
	}
}

func TestPatch(t *testing.T) {
	key := store.Key{Kind: store.IPPool, Name: "p"}
	value := []byte(`{"metadata":{"name":"p","labels":{"a":"b"},"uid":"u"},"spec":{"cidr":"10.0.0.0/16"},"status":{"ours":false}}`)
	patch, err := resourceOf(t, "IPPool").Patch(key, value, 7)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "patch of a pool", []byte(`[
		{"op":"replace","path":"/metadata/resourceVersion","value":"7"},
		{"op":"add","path":"/metadata/annotations","value":{}},
		{"op":"add","path":"/metadata/labels","value":{"a":"b"}},
		{"op":"add","path":"/spec","value":{"cidr":"10.0.0.0/16"}}]`), patch)

	key = store.Key{Kind: store.Affinity, Name: "n/10.0.0.0-26"}
	if patch, err = resourceOf(t, "BlockAffinity").Patch(key, []byte(`{"state":"pending"}`), store.AnyRevision); err != nil {
		t.Fatal(err)
	}
	same(t, "patch of an affinity leaves its metadata", []byte(`[
		{"op":"add","path":"/spec","value":{"state":"pending","deleted":false,"node":"n","cidr":"10.0.0.0/26","type":"host"}}]`), patch)
}

func TestSelect(t *testing.T) {
	for _, test := range []struct{ kind, prefix, want string }{
		{"BlockAffinity", "n1/", "fieldSelector=spec.node%3Dn1"},
		{"BlockAffinity", "n1/10.", "fieldSelector=spec.node%3Dn1"},
		{"BlockAffinity", "n1", ""},
		{"BlockAffinity", "", ""},
		{"Heartbeat", "n1", "fieldSelector=metadata.name%3Dn1"},
		{"Heartbeat", "", ""},
		{"IPAMBlock", "10.0.0.0-26", "fieldSelector=metadata.name%3D10-0-0-0-26"},
		{"IPAMBlock", "10.0.0.0-2", ""},
		{"IPAMBlock", "", ""},
		{"IPPool", "a", ""},
	} {
		if got := resourceOf(t, test.kind).Select(test.prefix).Encode(); got != test.want {
			t.Errorf("%s with prefix %q: %q, want %q", test.kind, test.prefix, got, test.want)
		}
	}
}

// TestMarked: an object marked as deleted is read, and said to be none.
func TestMarked(t *testing.T) {
	for kind, spec := range map[string]string{
		"IPAMBlock": `"cidr":"10.0.0.0/26"`, "BlockAffinity": `"cidr":"10.0.0.0/26","node":"n"`, "IPAMHandle": `"handleID":"o"`,
	} {
		e, err := resourceOf(t, kind).Decode([]byte(`{"metadata":{"name":"o","resourceVersion":"5"},"spec":{"deleted":true,` + spec + `}}`))
		if !errors.Is(err, ErrDeleted) || !fault.Is(err, fault.NotFound) || e.Revision != 5 || e.Key.Kind != store.Kind(kind) {
			t.Errorf("%s: %+v, %v", kind, e, err)
		}
	}
}

// TestV1 reads the older group's shapes and writes them.
func TestV1(t *testing.T) {
	for _, p := range []struct{ kind, name, value, object string }{
		{
			"IPPool", "p",
			`{"apiVersion":"projectcalico.org/v3","kind":"IPPool","metadata":{"name":"p","uid":"u","creationTimestamp":"2020-01-02T03:04:05Z","annotations":{"x":"y"}},"spec":{"cidr":"10.0.0.0/16"}}`,
			`{"apiVersion":"crd.projectcalico.org/v1","kind":"IPPool","metadata":{"name":"p","annotations":{"x":"y","projectcalico.org/metadata":"{\"creationTimestamp\":\"2020-01-02T03:04:05Z\",\"uid\":\"u\"}"}},"spec":{"cidr":"10.0.0.0/16"}}`,
		},
		{
			"BGPPeer", "q",
			`{"apiVersion":"projectcalico.org/v3","kind":"BGPPeer","metadata":{"name":"q"},"spec":{}}`,
			`{"apiVersion":"crd.projectcalico.org/v1","kind":"BGPPeer","metadata":{"name":"q","annotations":{"projectcalico.org/metadata":"{\"creationTimestamp\":null}"}},"spec":{}}`,
		},
		{
			"BlockAffinity", "node-a/172.16.109.64-26",
			`{"state":"confirmed","deleted":false}`,
			`{"apiVersion":"crd.projectcalico.org/v1","kind":"BlockAffinity","metadata":{"name":"node-a-172-16-109-64-26","labels":{"projectcalico.org/affinity-type":"host","projectcalico.org/hostname-hash":"PY3TQE2E3XMTETLM2MJO3UITKPFB27YUJ4T4E5XGPEJON3SM4QAA","projectcalico.org/ip-version":"4"}},"spec":{"state":"confirmed","deleted":"false","node":"node-a","cidr":"172.16.109.64/26","type":"host"}}`,
		},
	} {
		r, _ := V1().Resource(store.Kind(p.kind))
		key := store.Key{Kind: store.Kind(p.kind), Name: p.name}
		created, err := r.Create(key, []byte(p.value))
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		same(t, "object of "+key.String(), []byte(p.object), created)
		served := strings.Replace(string(created), `"name":`, `"resourceVersion":"42","name":`, 1)
		e, err := r.Decode([]byte(served))
		if err != nil || e.Key != key {
			t.Errorf("%s: read as %s, %v", key, e.Key, err)
			continue
		}
		same(t, "value of "+key.String(), []byte(p.value), e.Value)
	}
	r, _ := V1().Resource(store.Affinity)
	const deleted = `{"metadata":{"name":"n","resourceVersion":"1"},"spec":{"cidr":"10.0.0.0/26","node":"n","state":"confirmed","deleted":%s}}`
	if _, err := r.Decode(fmt.Appendf(nil, deleted, `"true"`)); !errors.Is(err, ErrDeleted) {
		t.Errorf("deleted is a text: %v", err)
	}
	if _, err := r.Decode(fmt.Appendf(nil, deleted, `"perhaps"`)); !fault.Is(err, fault.Invalid) {
		t.Errorf("deleted is another text: %v", err)
	}
}
