// SPDX-License-Identifier: Apache-2.0

package etcdpath

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/ocicat-net/ocicat/internal/store"
)

// vector is one line of the keys recorded from Calico's own library
// (v3.34.0-0.dev-67).
type vector struct {
	Kind    string `json:"kind"`
	CIDR    string `json:"cidr"`
	Host    string `json:"host"`
	Type    string `json:"type"`
	Handle  string `json:"handle"`
	EtcdKey string `json:"etcdKey"`
	Key     string `json:"key"`
}

// key is what we call the recorded object; ok is false for kinds we do not
// store.
func (v vector) key() (store.Key, bool) {
	block := strings.ReplaceAll(v.CIDR, "/", "-")
	switch v.Kind {
	case "block":
		return store.Key{Kind: store.Block, Name: block}, true
	case "affinity":
		return store.Key{Kind: store.Affinity, Name: v.Host + "/" + block}, v.Type == "host"
	case "handle":
		return store.Key{Kind: store.Handle, Name: v.Handle}, true
	}
	kind, rest, _ := strings.Cut(v.Key, "(")
	name := strings.TrimSuffix(rest, ")")
	if kind == "IPAMConfigKey" {
		return store.Key{Kind: store.IPAMConfig, Name: "default"}, true
	}
	key := store.Key{Kind: store.Kind(kind), Name: name}
	_, ok := named(key.Kind)
	return key, ok
}

func readVectors(t *testing.T, path string) []vector {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var vectors []vector
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var v vector
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		if v.EtcdKey != "" {
			vectors = append(vectors, v)
		}
	}
	return vectors
}

func TestPathsAreCalicos(t *testing.T) {
	seen := map[store.Kind]int{}
	vectors := append(readVectors(t, "../../names/testdata/keys.jsonl"), readVectors(t, "testdata/other-etcd-keys.jsonl")...)
	for _, v := range vectors {
		key, ours := v.key()
		if !ours {
			for _, kind := range store.Kinds() {
				if got, ok := Parse(kind, v.EtcdKey); ok {
					t.Errorf("%s read as %v, want it left alone", v.EtcdKey, got)
				}
			}
			continue
		}
		seen[key.Kind]++
		if got := Of(key); got != v.EtcdKey {
			t.Errorf("key of %v is %s, want %s", key, got, v.EtcdKey)
		}
		for _, kind := range store.Kinds() {
			got, ok := Parse(kind, v.EtcdKey)
			if ok != (kind == key.Kind) || ok && got != key {
				t.Errorf("%s read as %s: %v, %t; it is %v", v.EtcdKey, kind, got, ok, key)
			}
		}
	}
	for _, kind := range []store.Kind{
		store.IPPool, store.IPReservation, store.BGPConfiguration, store.BGPPeer, store.Node,
		store.Block, store.Affinity, store.Handle, store.IPAMConfig,
	} {
		if seen[kind] == 0 {
			t.Errorf("no vector of %s", kind)
		}
	}
}

func TestOwnPaths(t *testing.T) {
	for key, want := range map[store.Key]string{
		{Kind: store.OcicatConfiguration, Name: "default"}: "/ocicat/v1/ocicatconfigurations/default",
		{Kind: store.NodeStatus, Name: "k8s-node-1"}:       "/ocicat/v1/nodestatuses/k8s-node-1",
		{Kind: store.Heartbeat, Name: "k8s-node-1"}:        "/ocicat/v1/heartbeats/k8s-node-1",
		{Kind: store.Election, Name: "collector"}:          "/ocicat/v1/elections/collector",
	} {
		if got := Of(key); got != want {
			t.Errorf("key of %v is %s, want %s", key, got, want)
		}
		if got, ok := Parse(key.Kind, want); !ok || got != key {
			t.Errorf("%s read as %v, %t, want %v", want, got, ok, key)
		}
	}
}

func TestScopeHoldsEveryPathOfAPrefix(t *testing.T) {
	for _, v := range readVectors(t, "../../names/testdata/keys.jsonl") {
		key, ours := v.key()
		if !ours {
			continue
		}
		for n := range key.Name {
			if under := Scope(key.Kind, key.Name[:n]); !strings.HasPrefix(v.EtcdKey, under) {
				t.Errorf("%v with prefix %q is looked for under %s, it is at %s", key, key.Name[:n], under, v.EtcdKey)
			}
		}
	}
	if got, want := Scope(store.Affinity, "k8s-node-1/"), "/calico/ipam/v2/host/k8s-node-1/"; got != want {
		t.Errorf("one node's affinities are looked for under %s, want %s: not node-10's", got, want)
	}
}

func FuzzParse(f *testing.F) {
	for _, path := range []string{
		"/calico/ipam/v2/config", "/calico/ipam/v2/host/n/ipv4/block/10.0.0.0-26", "/calico/ipam/v2/host/n/ipv6/block/10.0.0.0-26",
		"/calico/ipam/v2/assignment/ipv6/block/fd00::-122", "/calico/ipam/v2/handle/a.b", "/calico/ipam/v2/host/n",
		"/calico/resources/v3/projectcalico.org/nodes/n", "/ocicat/v1/heartbeats/n", "/ocicat/v1/heartbeats/", "",
	} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, kind := range store.Kinds() {
			if key, ok := Parse(kind, text); ok && Of(key) != text {
				t.Errorf("%q read as %v, which lies at %q", text, key, Of(key))
			}
		}
	})
}
