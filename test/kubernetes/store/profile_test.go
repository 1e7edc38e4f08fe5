// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/test/kubernetes/apiserver"
)

const (
	poolsV3 = "/apis/projectcalico.org/v3/ippools"
	poolsV1 = "/apis/crd.projectcalico.org/v1/ippools"
)

// aPool is a pool in an API version.
func aPool(version, name, cidr string) []byte {
	return fmt.Appendf(nil, `{"apiVersion": %q, "kind": "IPPool", "metadata": {"name": %q}, "spec": {"cidr": %q}}`, version, name, cidr)
}

// TestProfileIsFound installs definitions step by step. The store takes those
// that exist, of two groups the one in use, and of two in use none.
func TestProfileIsFound(t *testing.T) {
	server := apiserver.Start(t)
	admin := server.Admin()
	pools := func() (names []string, err error) {
		entries, _, err := open(t, server).List(t.Context(), store.IPPool, "")
		for _, e := range entries {
			names = append(names, e.Key.Name)
		}
		return names, err
	}
	want := func(what string, want ...string) {
		t.Helper()
		if got, err := pools(); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: pools %v, %v, want %v", what, got, err, want)
		}
	}
	if _, err := pools(); !fault.Is(err, fault.Unavailable) || fault.HintOf(err) == "" {
		t.Errorf("without definitions: %v, want unavailable with a hint", err)
	}
	server.InstallCRDs("testdata/v1")
	admin.Must(http.MethodPost, poolsV1, "", aPool("crd.projectcalico.org/v1", "old", "10.0.0.0/16"))
	want("v1 alone", "old")
	server.InstallCRDs(definitions)
	want("v3 is empty", "old")
	admin.Must(http.MethodPost, poolsV3, "", aPool("projectcalico.org/v3", "new", "10.1.0.0/16"))
	if _, err := pools(); !fault.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
		t.Errorf("two groups in use: %v, want invalid with a hint", err)
	}
	admin.Must(http.MethodDelete, poolsV1+"/old", "", nil)
	want("v1 is empty", "new")
	admin.Must(http.MethodDelete, poolsV3+"/new", "", nil)
	want("both are empty")
}

// TestV1AsCalicoWritesIt reads what Calico stores in the older group, and
// writes it back so that Calico finds its own again.
func TestV1AsCalicoWritesIt(t *testing.T) {
	server := apiserver.Start(t)
	server.InstallCRDs("testdata/v1")
	server.InstallCRDs(ourDefinitions(t))
	admin, s := server.Admin(), open(t, server)
	t.Run("pool", func(t *testing.T) {
		admin.Must(http.MethodPost, poolsV1, "", []byte(`{"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool",
			"metadata": {"name": "p", "labels": {"a": "b"}, "annotations": {"x": "y", "projectcalico.org/metadata": "{\"creationTimestamp\":\"2020-01-02T03:04:05Z\"}"}},
			"spec": {"cidr": "10.0.0.0/16", "natOutgoing": true}}`))
		e, err := s.Get(t.Context(), store.Key{Kind: store.IPPool, Name: "p"})
		if err != nil {
			t.Fatal(err)
		}
		var v struct {
			APIVersion string
			Metadata   struct {
				CreationTimestamp   string
				Labels, Annotations map[string]string
			}
		}
		if err := json.Unmarshal(e.Value, &v); err != nil {
			t.Fatal(err)
		}
		if v.APIVersion != "projectcalico.org/v3" || v.Metadata.CreationTimestamp != "2020-01-02T03:04:05Z" || len(v.Metadata.Annotations) != 1 || v.Metadata.Labels["a"] != "b" {
			t.Errorf("read as %s", e.Value)
		}
		if _, err := s.Put(t.Context(), e.Key, e.Value, e.Revision); err != nil {
			t.Fatal(err)
		}
		var o struct {
			Metadata struct{ Annotations map[string]string }
		}
		admin.Must(http.MethodGet, poolsV1+"/p", "", nil).Into(t, &o)
		var kept struct{ CreationTimestamp string }
		if err := json.Unmarshal([]byte(o.Metadata.Annotations["projectcalico.org/metadata"]), &kept); err != nil || kept.CreationTimestamp != "2020-01-02T03:04:05Z" {
			t.Errorf("annotations after a write: %v, %v", o.Metadata.Annotations, err)
		}
	})
	t.Run("affinity", func(t *testing.T) {
		const path = "/apis/crd.projectcalico.org/v1/blockaffinities"
		admin.Must(http.MethodPost, path, "", []byte(`{"apiVersion": "crd.projectcalico.org/v1", "kind": "BlockAffinity",
			"metadata": {"name": "n1-10-0-0-0-26"}, "spec": {"cidr": "10.0.0.0/26", "node": "n1", "state": "confirmed", "deleted": "false"}}`))
		entries, _, err := s.List(t.Context(), store.Affinity, "n1/")
		if err != nil || len(entries) != 1 || entries[0].Key.Name != "n1/10.0.0.0-26" || string(entries[0].Value) != `{"deleted":false,"state":"confirmed"}` {
			t.Fatalf("listed %v, %v", entries, err)
		}
		if _, err := s.Put(t.Context(), entries[0].Key, []byte(`{"state":"pendingDeletion","deleted":false}`), entries[0].Revision); err != nil {
			t.Fatal(err)
		}
		var o struct{ Spec map[string]string }
		admin.Must(http.MethodGet, path+"/n1-10-0-0-0-26", "", nil).Into(t, &o)
		if o.Spec["deleted"] != "false" || o.Spec["state"] != "pendingDeletion" {
			t.Errorf("stored as %v", o.Spec)
		}
	})
}

// TestMarkedAsDeleted: an object that Calico has marked before deleting it does
// not exist, and its name is free for the next.
func TestMarkedAsDeleted(t *testing.T) {
	server := apiserver.Start(t)
	server.InstallCRDs(definitions)
	s, admin := open(t, server), server.Admin()
	for _, key := range []store.Key{
		{Kind: store.Block, Name: "10.0.0.0-30"}, {Kind: store.Affinity, Name: "n1/10.0.0.0-30"}, {Kind: store.Handle, Name: "Handle"},
	} {
		object := map[store.Kind]string{
			store.Block: "ipamblocks/10-0-0-0-30", store.Affinity: "blockaffinities/n1-10-0-0-0-30", store.Handle: "ipamhandles/handle",
		}[key.Kind]
		if _, err := s.Put(t.Context(), key, pack(key, []byte("x"), 1), 0); err != nil {
			t.Fatal(err)
		}
		_, start, err := s.List(t.Context(), key.Kind, "")
		if err != nil {
			t.Fatal(err)
		}
		events, err := s.Watch(t.Context(), key.Kind, "", start)
		if err != nil {
			t.Fatal(err)
		}
		admin.Must(http.MethodPatch, "/apis/projectcalico.org/v3/"+object, "application/merge-patch+json", []byte(`{"spec": {"deleted": true}}`))
		if ev := <-events; !ev.Deleted || ev.Entry.Key != key {
			t.Errorf("%s: watched %+v, want its deletion", key, ev)
		}
		if entries, _, err := s.List(t.Context(), key.Kind, ""); err != nil || len(entries) != 0 {
			t.Errorf("%s: listed %v, %v", key, entries, err)
		}
		if _, err := s.Get(t.Context(), key); !fault.Is(err, fault.NotFound) {
			t.Errorf("get %s: %v, want not found", key, err)
		}
		if answer := admin.Try(http.MethodGet, "/apis/projectcalico.org/v3/"+object, "", nil); answer.Status != http.StatusNotFound {
			t.Errorf("%s still exists: %s", key, answer.Body)
		}
		if _, err := s.Put(t.Context(), key, pack(key, []byte("y"), 2), 0); err != nil {
			t.Errorf("put %s again: %v", key, err)
		}
	}
}

// TestNodes reads and annotates core Nodes.
func TestNodes(t *testing.T) {
	server := apiserver.Start(t)
	server.InstallCRDs(definitions)
	s, admin := open(t, server), server.Admin()
	admin.Must(http.MethodPost, "/api/v1/nodes", "", []byte(`{"metadata": {"name": "n1", "labels": {"rack": "a"}, "annotations": {"other": "1"}}, "spec": {"podCIDRs": ["10.9.0.0/24"], "podCIDR": "10.9.0.0/24"}}`))
	key := store.Key{Kind: store.Node, Name: "n1"}
	_, start, err := s.List(t.Context(), store.Node, "")
	if err != nil {
		t.Fatal(err)
	}
	events, err := s.Watch(t.Context(), store.Node, "", start)
	if err != nil {
		t.Fatal(err)
	}
	e, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	var node map[string]any
	if err := json.Unmarshal(e.Value, &node); err != nil {
		t.Fatal(err)
	}
	node["spec"].(map[string]any)["bgp"] = map[string]any{"ipv4Address": "192.168.0.11/24", "asNumber": 64513}
	value, err := json.Marshal(node)
	if err != nil {
		t.Fatal(err)
	}
	rev, err := s.Put(t.Context(), key, value, e.Revision)
	if err != nil || rev <= e.Revision {
		t.Fatalf("put: revision %d after %d, %v", rev, e.Revision, err)
	}
	if again, err := s.Put(t.Context(), key, value, rev); err != nil || again != rev {
		t.Errorf("the same again: revision %d after %d, %v", again, rev, err)
	}
	if _, err := s.Put(t.Context(), key, value, e.Revision); !fault.Is(err, fault.Conflict) {
		t.Errorf("put at an old revision: %v, want a conflict", err)
	}
	if ev := <-events; ev.Entry.Revision != rev || ev.Entry.Key != key {
		t.Errorf("watched %+v, want revision %d", ev, rev)
	}
	var o struct {
		Metadata struct{ Annotations, Labels map[string]string }
	}
	admin.Must(http.MethodGet, "/api/v1/nodes/n1", "", nil).Into(t, &o)
	if a := o.Metadata.Annotations; a["projectcalico.org/IPv4Address"] != "192.168.0.11/24" || a["projectcalico.org/ASNumber"] != "64513" || a["other"] != "1" {
		t.Errorf("annotations %v", a)
	}
	absent := store.Key{Kind: store.Node, Name: "n2"}
	for what, test := range map[string]struct {
		err  error
		kind fault.Kind
	}{
		"create a Node": {second(s.Put(t.Context(), absent, pack(absent, nil, 1), 0)), fault.Unsupported},
		"overwrite one": {second(s.Put(t.Context(), absent, pack(absent, nil, 1), store.AnyRevision)), fault.Unsupported},
		"update one":    {second(s.Put(t.Context(), absent, pack(absent, nil, 1), 5)), fault.Conflict},
		"delete it":     {s.Delete(t.Context(), absent, store.AnyRevision), fault.NotFound},
		"delete n1":     {s.Delete(t.Context(), key, store.AnyRevision), fault.Unsupported},
		"create n1":     {second(s.Put(t.Context(), key, value, 0)), fault.Conflict},
	} {
		if !fault.Is(test.err, test.kind) {
			t.Errorf("%s: %v, want %v", what, test.err, test.kind)
		}
	}
}

func second[T any](_ T, err error) error { return err }
