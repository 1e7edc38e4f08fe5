// SPDX-License-Identifier: Apache-2.0

package resource_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/resource"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/test/chaos"
)

func entry(kind store.Kind, name, value string) store.Entry {
	return store.Entry{Key: store.Key{Kind: kind, Name: name}, Value: []byte(value), Revision: 7}
}

func TestStoredPoolKeepsWhatANewerVersionAdded(t *testing.T) {
	chaos.Begin(t, "E12", "a pool of a newer version with fields we do not know, written by this one", "0 fields lost").
		Measuredf("4 of 4 unknown fields kept")
	before := `{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"a","uid":"u","future":{"x":1}},` +
		`"spec":{"cidr":"10.0.0.0/16","blockSize":26,"newMode":"Fast","allowedUses":["Workload"]},"status":{"conditions":[]}}`
	o, err := resource.Decode(entry(store.IPPool, "a", before))
	if err != nil {
		t.Fatal(err)
	}
	if o.ObjectMeta().ResourceVersion != "7" {
		t.Errorf("resource version %q, want that of the store", o.ObjectMeta().ResourceVersion)
	}
	o.(*v3.IPPool).Spec.Disabled = true
	after, err := resource.Encode(o, []byte(before))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"a","uid":"u","future":{"x":1}},` +
		`"spec":{"cidr":"10.0.0.0/16","blockSize":26,"newMode":"Fast","allowedUses":["Workload"],"disabled":true,` +
		`"ipipMode":"Never","vxlanMode":"Never","nodeSelector":"all()","assignmentMode":"Automatic"},"status":{"conditions":[]}}`
	if !resource.Equal(after, []byte(want)) {
		t.Errorf("stored\n%s\nwant\n%s", after, want)
	}
}

func TestStoredShapeIsCalicos(t *testing.T) {
	p := &v3.IPPool{Spec: v3.IPPoolSpec{CIDR: "10.77.3.0/24", NATOutgoing: true}}
	p.Type.APIVersion, p.Type.Kind = v3.APIVersion, v3.KindIPPool
	p.Metadata.Name, p.Metadata.ResourceVersion = "bp6", "12"
	p.SetDefaults()
	resource.Create(p, "u", time.Date(2026, 11, 22, 10, 0, 0, 5, time.UTC))
	got, err := resource.Encode(p, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"apiVersion":"projectcalico.org/v3","kind":"IPPool","metadata":{"creationTimestamp":"2026-11-22T10:00:00Z","name":"bp6","uid":"u"},` +
		`"spec":{"allowedUses":["Workload","Tunnel"],"assignmentMode":"Automatic","blockSize":26,"cidr":"10.77.3.0/24","ipipMode":"Never","natOutgoing":true,"nodeSelector":"all()","vxlanMode":"Never"}}`
	if !resource.Equal(got, []byte(want)) {
		t.Errorf("stored\n%s\nwant\n%s", got, want)
	}
	if p.Metadata.ResourceVersion != "12" {
		t.Error("encoding changed the object")
	}
}

// TestIPAMConfigShape compares with the values recorded from Calico.
func TestIPAMConfigShape(t *testing.T) {
	off, on := false, true
	for _, test := range []struct {
		spec v3.IPAMConfigurationSpec
		want string
	}{
		{v3.IPAMConfigurationSpec{}, `{"auto_allocate_blocks": true}`},
		{v3.IPAMConfigurationSpec{AutoAllocateBlocks: &on, StrictAffinity: true}, `{"auto_allocate_blocks": true, "strict_affinity": true}`},
		{v3.IPAMConfigurationSpec{AutoAllocateBlocks: &off, StrictAffinity: true}, `{"strict_affinity": true}`},
		{v3.IPAMConfigurationSpec{AutoAllocateBlocks: &on, StrictAffinity: true, MaxBlocksPerHost: 5}, `{"auto_allocate_blocks": true, "maxBlocksPerHost": 5, "strict_affinity": true}`},
		{v3.IPAMConfigurationSpec{AutoAllocateBlocks: &on, IPCooldownSeconds: 300}, `{"auto_allocate_blocks": true, "ipCooldownSeconds": 300}`},
	} {
		c := &v3.IPAMConfiguration{Spec: test.spec}
		c.Type.APIVersion, c.Type.Kind, c.Metadata.Name = v3.APIVersion, v3.KindIPAMConfiguration, "default"
		got, err := resource.Encode(c, nil)
		if err != nil || !resource.Equal(got, []byte(test.want)) {
			t.Errorf("%+v is stored as %s, %v; want %s", test.spec, got, err, test.want)
		}
		rules, err := alloc.ParseConfig(got)
		if err != nil || rules.StrictAffinity != test.spec.StrictAffinity || rules.AutoAllocate != c.AutoAllocate() || rules.MaxBlocks != test.spec.MaxBlocksPerHost {
			t.Errorf("%s means %+v to IPAM, %v", got, rules, err)
		}
		back, err := resource.Decode(entry(store.IPAMConfig, "default", test.want))
		if err != nil {
			t.Fatal(err)
		}
		c.SetDefaults()
		c.Metadata.ResourceVersion = "7"
		if diff := cmp.Diff(resource.Object(c), back); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.want, diff)
		}
	}
	kept, err := resource.Encode(&v3.IPAMConfiguration{}, []byte(`{"strict_affinity":true,"future":1}`))
	if err != nil || !resource.Equal(kept, []byte(`{"auto_allocate_blocks":true,"future":1}`)) {
		t.Errorf("an unknown rule is not kept: %s, %v", kept, err)
	}
}

func TestQuarantine(t *testing.T) {
	chaos.Begin(t, "E8", "objects of an unknown version, another kind or name, no JSON, wrong types, empty", "each is OC5002 by name, alone").
		Measuredf("7 of 7 named")
	for name, test := range map[string]struct {
		entry store.Entry
		kind  fault.Kind
		text  string
	}{
		"version":  {entry(store.IPPool, "a", `{"apiVersion":"projectcalico.org/v9","kind":"IPPool","metadata":{"name":"a"}}`), fault.Unsupported, `IPPool a: stored as apiVersion "projectcalico.org/v9": want projectcalico.org/v3: ignored, the others go on`},
		"kind":     {entry(store.IPPool, "a", `{"apiVersion":"projectcalico.org/v3","kind":"Node","metadata":{"name":"a"}}`), fault.Invalid, `IPPool a: stored as kind "Node": ignored, the others go on`},
		"name":     {entry(store.IPPool, "a", `{"apiVersion":"projectcalico.org/v3","kind":"IPPool","metadata":{"name":"b"}}`), fault.Invalid, `IPPool a: stored with the name "b": ignored, the others go on`},
		"no JSON":  {entry(store.Node, "n", `nonsense`), fault.Invalid, `Node n: invalid character 'o' in literal null (expecting 'u'): ignored, the others go on`},
		"type":     {entry(store.IPPool, "a", `{"apiVersion":"projectcalico.org/v3","kind":"IPPool","metadata":{"name":"a"},"spec":{"blockSize":"x"}}`), fault.Invalid, ""},
		"IPAM":     {entry(store.IPAMConfig, "default", `[]`), fault.Invalid, ""},
		"no value": {entry(store.BGPPeer, "p", ``), fault.Invalid, ""},
	} {
		_, err := resource.Decode(test.entry)
		if !fault.Is(err, test.kind) {
			t.Errorf("%s: %v is %v, want %v", name, err, fault.KindOf(err), test.kind)
			continue
		}
		p := resource.Quarantined(test.entry.Key, err)
		if p.Code != problem.UnknownObject || test.text != "" && p.Text != test.text {
			t.Errorf("%s: problem %s %q", name, p.Code, p.Text)
		}
	}
}

func TestReplaceKeepsWhatIsNotTheUsers(t *testing.T) {
	stored := &v3.Node{Status: &v3.NodeStatus{PodCIDRs: []string{"10.0.0.0/24"}}}
	stored.Metadata.UID, stored.Metadata.Annotations = "u", map[string]string{"ocicat.net/x": "1", "mine": "2"}
	fresh := &v3.Node{}
	fresh.Metadata.Annotations = map[string]string{"other": "3"}
	resource.Replace(fresh, stored)
	if diff := cmp.Diff(map[string]string{"ocicat.net/x": "1", "other": "3"}, fresh.Metadata.Annotations); diff != "" || fresh.Metadata.UID != "u" || fresh.Status == nil {
		t.Errorf("%+v\n%s", fresh, diff)
	}
}

func FuzzStored(f *testing.F) {
	kinds := resource.Kinds()
	f.Add(0, "a", []byte(`{"apiVersion":"projectcalico.org/v3","kind":"IPPool","metadata":{"name":"a"},"spec":{"cidr":"10.0.0.0/16","new":{"a":[1]}},"x":null}`))
	f.Add(2, "default", []byte(`{"auto_allocate_blocks":true,"y":1e3}`))
	f.Add(4, "p", []byte(`{"apiVersion":"projectcalico.org/v3","kind":"BGPPeer","metadata":{"name":"p"},"spec":{"asNumber":"1.1"}}`))
	f.Add(5, "n", []byte(`{"apiVersion":"projectcalico.org/v3","kind":"Node","metadata":{"name":"n","creationTimestamp":null},"spec":{"bgp":{"asNumber":1,"z":2}},"status":null}`))
	f.Fuzz(func(t *testing.T, kind int, name string, value []byte) {
		if kind < 0 || kind >= len(kinds) {
			return
		}
		e := store.Entry{Key: store.Key{Kind: kinds[kind].Stored, Name: name}, Value: value, Revision: 1}
		o, err := resource.Decode(e)
		if err != nil {
			return
		}
		_ = resource.Validate(o)
		again, err := resource.Encode(o, value)
		if err != nil {
			t.Fatalf("read but not written: %v", err)
		}
		e.Value = again
		back, err := resource.Decode(e)
		if err != nil {
			t.Fatalf("written but not read: %v\n%s", err, again)
		}
		a, errA := json.Marshal(o)
		b, errB := json.Marshal(back)
		if errA != nil || errB != nil || string(a) != string(b) {
			t.Fatalf("changed by writing:\n%s\n%s", a, b)
		}
	})
}
