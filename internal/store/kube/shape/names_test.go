// SPDX-License-Identifier: Apache-2.0

package shape

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/store"
)

func TestObjectNames(t *testing.T) {
	for _, test := range []struct {
		kind       store.Kind
		name, want string
	}{
		{store.IPPool, "default-ipv4-ippool", "default-ipv4-ippool"},
		{store.Block, "172.16.109.64-26", "172-16-109-64-26"},
		{store.Block, "fd00:0:1::-122", "fd00-0-1---122"},
		{store.Affinity, "k8s-node-1/172.16.109.64-26", "k8s-node-1-172-16-109-64-26"},
		{store.Handle, "k8s-pod-network.ABC", "k8s-pod-network.abc"},
		{store.NodeStatus, "a.example.com", "a.example.com"},
	} {
		got, err := objectName(store.Key{Kind: test.kind, Name: test.name})
		if err != nil {
			t.Errorf("%s %s: %v", test.kind, test.name, err)
		}
		if got != test.want {
			t.Errorf("%s %s is called %s, want %s", test.kind, test.name, got, test.want)
		}
	}
	for _, key := range []store.Key{
		{Kind: store.IPPool, Name: "Upper"}, {Kind: store.IPPool, Name: "a_b"}, {Kind: store.IPPool, Name: "-a"},
		{Kind: store.Handle, Name: strings.Repeat("h", 254)}, {Kind: store.Affinity, Name: "Node/10.0.0.0-26"}, {Kind: store.IPPool, Name: "ä"},
	} {
		if name, err := objectName(key); !fault.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
			t.Errorf("%s: %q, %v, want invalid with a hint", key, name, err)
		}
	}
}

// TestLongNames: a node's name is cut to 252 bytes in all, and nodes with the
// same long beginning do not share an object.
func TestLongNames(t *testing.T) {
	base := strings.Repeat("n", 250)
	a, b := affinityName(base+"a", "10-0-0-0-26"), affinityName(base+"b", "10-0-0-0-26")
	if a == b || len(a) != 252 || !strings.HasPrefix(a, strings.Repeat("n", 228)+"-10-0-0-0-26-") {
		t.Errorf("called %s (%d) and %s", a, len(a), b)
	}
}

func TestHostnameHash(t *testing.T) {
	// Recorded from Calico.
	if got := hostnameHash("node-a"); got != "PY3TQE2E3XMTETLM2MJO3UITKPFB27YUJ4T4E5XGPEJON3SM4QAA" {
		t.Errorf("hash of node-a is %s", got)
	}
}

// FuzzKeys: every key either has no object or one that leads back to it, and
// two different keys of a kind never lead to one that says it is both.
func FuzzKeys(f *testing.F) {
	for n, name := range []string{"default", "k8s-node-1/172.16.109.64-26", "fd00::-122", "k8s-pod-network.ABC", "0::-0", "N/10.0.0.0-26"} {
		f.Add(uint8(n), name)
	}
	f.Fuzz(func(t *testing.T, n uint8, name string) {
		kinds := store.Kinds()
		key := store.Key{Kind: kinds[int(n)%len(kinds)], Name: name}
		r, _ := V3().Resource(key.Kind)
		value := sample(key)
		created, err := r.Create(key, value)
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Fatalf("%s: %v, want invalid", key, err)
			}
			return
		}
		var o map[string]json.RawMessage
		if err := json.Unmarshal(created, &o); err != nil {
			t.Fatal(err)
		}
		var meta map[string]any
		if err := json.Unmarshal(o["metadata"], &meta); err != nil {
			t.Fatal(err)
		}
		meta["resourceVersion"] = "1"
		o["metadata"] = marshal(meta)
		e, err := r.Decode(marshal(o))
		if err != nil || e.Key != key {
			t.Fatalf("%s became %s and was read as %s: %v", key, created, e.Key, err)
		}
	})
}

// sample is a value that belongs to key.
func sample(key store.Key) []byte {
	switch key.Kind {
	case store.Block:
		p, _ := names.ParseBlock(key.Name) // of a wrong key any value is refused
		return marshal(map[string]any{"cidr": p.String()})
	case store.Affinity, store.Handle, store.IPAMConfig, store.Heartbeat, store.Election:
		return []byte(`{}`)
	}
	return marshal(map[string]any{"metadata": map[string]any{"name": key.Name}, "spec": map[string]any{}})
}

// FuzzDecode: no object of the API breaks the reader, and what it reads can be
// written again.
func FuzzDecode(f *testing.F) {
	for n, p := range pairs {
		f.Add(uint8(n), []byte(p.object))
	}
	f.Add(uint8(4), []byte(`{"metadata":{"name":"n","resourceVersion":"1","annotations":{"projectcalico.org/ASNumber":"x"}},"status":{"addresses":[{}]}}`))
	f.Fuzz(func(t *testing.T, n uint8, data []byte) {
		kinds := store.Kinds()
		r, _ := V3().Resource(kinds[int(n)%len(kinds)])
		e, err := r.Decode(data)
		if err != nil || r.ReadOnly() || e.Key.Validate() != nil {
			return
		}
		if _, err := r.Create(e.Key, e.Value); err != nil && !fault.Is(err, fault.Invalid) {
			t.Fatalf("%s: read as %s, which cannot be written: %v", data, e.Value, err)
		}
	})
}

// TestPatchedNodes: the annotations of any Node survive value and patch, and
// nobody else's are touched.
func TestPatchedNodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringMatching(`[a-z]{1,4}`)
		annotations := rapid.MapOf(rapid.OneOf(word, rapid.Map(word, func(s string) string { return "projectcalico.org/" + s })), word).Draw(t, "annotations")
		core := marshal(map[string]any{"metadata": map[string]any{"name": "n", "resourceVersion": "3", "annotations": annotations, "labels": map[string]string{"a": "b"}}})
		r, _ := V3().Resource(store.Node)
		e, err := r.Decode(core)
		if err != nil {
			t.Fatal(err)
		}
		if patch, err := NodePatch(core, e.Value, e.Revision); err != nil || patch != nil {
			t.Fatalf("the value of %s asks for the patch %s, %v", core, patch, err)
		}
	})
}
