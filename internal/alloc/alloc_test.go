// SPDX-License-Identifier: Apache-2.0

package alloc

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/fault"
)

var (
	block30 = netip.MustParsePrefix("10.0.0.0/30")
	start   = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
)

func ips(s ...string) []netip.Addr {
	var all []netip.Addr
	for _, a := range s {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}

func diffAddrs(t *testing.T, what string, want, got []netip.Addr) {
	t.Helper()
	if !slices.Equal(want, got) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestFirstInFirstOut(t *testing.T) {
	b := NewBlock(block30, "n1", start, 7)
	diffAddrs(t, "first", ips("10.0.0.0"), b.AssignNext(1, Attribute{Handle: "tunnel"}, nil))
	if n := b.ReleaseHandle("tunnel"); n != 1 {
		t.Errorf("released %d, want 1", n)
	}
	diffAddrs(t, "after the tunnel's", ips("10.0.0.1", "10.0.0.2"), b.AssignNext(2, Attribute{Handle: "a"}, nil))
	skip := func(a netip.Addr) bool { return a == netip.MustParseAddr("10.0.0.3") }
	diffAddrs(t, "past a reserved one", ips("10.0.0.0"), b.AssignNext(2, Attribute{Handle: "b"}, skip))
	diffAddrs(t, "the reserved one keeps its place", ips("10.0.0.3"), b.AssignNext(2, Attribute{Handle: "b"}, nil))
}

func TestReleaseIsAllOrNothing(t *testing.T) {
	b := NewBlock(block30, "n1", start, 7)
	a := b.AssignNext(2, Attribute{Handle: "a"}, nil)
	stale := uint64(6)
	before, _ := b.Encode()
	for name, list := range map[string][]Release{
		"wrong handle":     {{Addr: a[0]}, {Addr: a[1], Handle: "b"}},
		"stale allocation": {{Addr: a[0]}, {Addr: a[1], Sequence: &stale}},
	} {
		if _, _, err := b.Release(list); !fault.Is(err, fault.Conflict) {
			t.Errorf("%s: %v, want conflict", name, err)
		}
	}
	if _, _, err := b.Release([]Release{{Addr: netip.MustParseAddr("10.0.0.9")}}); !fault.Is(err, fault.Invalid) {
		t.Errorf("outside: %v, want invalid", err)
	}
	if after, _ := b.Encode(); string(after) != string(before) {
		t.Errorf("a refused release changed the block:\n%s\n%s", before, after)
	}
	freed, free, err := b.Release([]Release{{Addr: a[1]}, {Addr: a[0]}, {Addr: netip.MustParseAddr("10.0.0.3")}})
	if err != nil || freed["a"] != 2 {
		t.Errorf("freed %v, %v", freed, err)
	}
	diffAddrs(t, "not allocated", ips("10.0.0.3"), free)
	if want := []int{2, 3, 0, 1}; !slices.Equal(b.Unallocated, want) {
		t.Errorf("queue %v, want %v", b.Unallocated, want)
	}
}

func TestAssignNamesTheHolder(t *testing.T) {
	b := NewBlock(block30, "n1", start, 7)
	addr := netip.MustParseAddr("10.0.0.2")
	reserve := Attribute{Handle: "ocicat-reserve.x", Secondary: map[string]string{AttrType: TypeReserve, AttrNode: "n1"}}
	pod := Attribute{Handle: "k.c", Secondary: map[string]string{AttrNamespace: "shop", AttrPod: "web-0", AttrNode: "n1"}}
	if err := b.Assign(addr, reserve); err != nil {
		t.Fatal(err)
	}
	err := b.Assign(addr, pod)
	if want := "address 10.0.0.2 is held by the reserve on n1"; !fault.Is(err, fault.Conflict) || err.Error() != want {
		t.Errorf("error %v, want conflict %q", err, want)
	}
	if err := b.Reassign(addr, pod); err != nil {
		t.Fatal(err)
	}
	if who, _ := b.Holder(addr); who.String() != "pod shop/web-0 on n1" {
		t.Errorf("holder %s", who)
	}
	if len(b.Attributes) != 1 {
		t.Errorf("the reserve's attribute stayed: %v", b.Attributes)
	}
	if err := b.Reassign(netip.MustParseAddr("10.0.0.1"), pod); !fault.Is(err, fault.NotFound) {
		t.Errorf("reassign of a free address: %v", err)
	}
}

// TestRoundTrip reads objects with fields of newer releases, changes them and
// finds those fields written back.
func TestRoundTrip(t *testing.T) {
	block := `{"affinity":"host:n1","affinity_claim_time":"2026-11-22T10:00:00Z","allocations":[null,0,1,null],
		"attributes":[{"alternateOwnerAttrs":{"pod":"b"},"handle_id":"vm","secondary":{"pod":"a"}},{"releasedAt":"2026-11-22T10:00:00Z"}],
		"cidr":"10.0.0.0/30","deleted":false,"hostAffinity":"old","sequenceNumber":1700000000000000123,
		"sequenceNumberForAllocation":{"1":1700000000000000101,"2":1},"unallocated":[3,0]}`
	for _, v := range []struct {
		name, in string
		parse    func([]byte) (interface{ Encode() ([]byte, error) }, error)
	}{
		{"block", block, func(d []byte) (interface{ Encode() ([]byte, error) }, error) { return ParseBlock(d) }},
		{"block without anything", `{"affinity":null,"allocations":[null],"attributes":null,"cidr":"10.0.0.1/32","deleted":true,"sequenceNumber":0,"sequenceNumberForAllocation":null,"unallocated":[0]}`,
			func(d []byte) (interface{ Encode() ([]byte, error) }, error) { return ParseBlock(d) }},
		{"affinity", `{"deleted":false,"newer":1,"state":"pending"}`, func(d []byte) (interface{ Encode() ([]byte, error) }, error) { return ParseAffinity(d) }},
		{"handle", `{"block":{"10.0.0.0/30":2,"fd00::/122":1},"deleted":true,"newer":[1]}`, func(d []byte) (interface{ Encode() ([]byte, error) }, error) { return ParseHandle(d) }},
		{"config", `{"auto_allocate_blocks":true,"ipCooldownSeconds":60,"kubeVirtVMAddressPersistence":"Disabled","maxBlocksPerHost":14}`, func(d []byte) (interface{ Encode() ([]byte, error) }, error) { return ParseConfig(d) }},
	} {
		obj, err := v.parse([]byte(v.in))
		if err != nil {
			t.Errorf("%s: %v", v.name, err)
			continue
		}
		out, err := obj.Encode()
		if err != nil {
			t.Errorf("%s: %v", v.name, err)
			continue
		}
		var want, got any
		if json.Unmarshal([]byte(v.in), &want) != nil || json.Unmarshal(out, &got) != nil {
			t.Fatalf("%s: not JSON: %s", v.name, out)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s -want +got:\n%s", v.name, diff)
		}
	}
	for _, old := range []string{"", "{}", `{"state":""}`} {
		if a, err := ParseAffinity([]byte(old)); err != nil || a.State != Confirmed {
			t.Errorf("affinity %q reads as %v, %v, want confirmed", old, a, err)
		}
	}
}

func TestContradictionsAreRefused(t *testing.T) {
	good := `{"cidr":"10.0.0.0/31","allocations":[null,0],"unallocated":[0],"attributes":[{}]}`
	if _, err := ParseBlock([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []struct{ old, new, want string }{
		{`[null,0]`, `[null]`, "1 allocations for 2 addresses"},
		{`[null,0]`, `[null,1]`, "ordinal 1 refers to attribute 1 of 1"},
		{`[null,0]`, `[null,-2]`, "ordinal 1 refers to attribute -2"},
		{`"unallocated":[0]`, `"unallocated":[0,0]`, "ordinal 0 is free twice"},
		{`"unallocated":[0]`, `"unallocated":[1]`, "ordinal 1 is both free and held"},
		{`"unallocated":[0]`, `"unallocated":[2]`, "free ordinal 2 is outside"},
		{`10.0.0.0/31`, `10.0.0.1/31`, "host bits"},
		{`10.0.0.0/31`, `::/0`, "2 allocations for 0 addresses"},
	} {
		_, err := ParseBlock([]byte(strings.Replace(good, bad.old, bad.new, 1)))
		if !fault.Is(err, fault.Internal) || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: error %v, want %q", bad.new, err, bad.want)
		}
	}
}

func TestHandleCounts(t *testing.T) {
	h := &Handle{}
	other := netip.MustParsePrefix("10.0.0.4/30")
	h.Add(block30, 2)
	h.Add(other, 1)
	h.Remove(block30, 1)
	h.Remove(other, 5)
	if diff := cmp.Diff(map[netip.Prefix]int{block30: 1}, h.Blocks, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" || h.Empty() {
		t.Errorf("handle -want +got:\n%s", diff)
	}
	if h.Remove(block30, 1); !h.Empty() {
		t.Errorf("handle %v is not empty", h.Blocks)
	}
}

func TestConfigValidate(t *testing.T) {
	for _, c := range []struct {
		config Config
		ok     bool
	}{
		{DefaultConfig(), true},
		{Config{StrictAffinity: true}, true},
		{Config{StrictAffinity: true, MaxBlocks: 2}, true},
		{Config{}, false},
		{Config{AutoAllocate: true, MaxBlocks: 2}, false},
		{Config{AutoAllocate: true, CooldownSecs: -1}, false},
	} {
		err := c.config.Validate()
		if (err == nil) != c.ok || (err != nil && (!fault.Is(err, fault.Invalid) || fault.HintOf(err) == "")) {
			t.Errorf("%+v: %v, want valid %v", c.config, err, c.ok)
		}
	}
}

// TestBlockProperties runs random operations on a block beside a plain model:
// a queue of free addresses and a map of holders.
func TestBlockProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.IntRange(27, 32).Draw(t, "bits")
		p := netip.PrefixFrom(netip.MustParseAddr("10.0.0.0"), bits)
		b := NewBlock(p, "n", start, 100)
		var queue []netip.Addr
		holder := map[netip.Addr]string{}
		for i := range cidr.Size(p) {
			queue = append(queue, cidr.At(p, i))
		}
		handles := rapid.SampledFrom([]string{"a", "b", "c", ""})
		who := func() Attribute {
			h := handles.Draw(t, "handle")
			return Attribute{Handle: h, Secondary: map[string]string{"pod": h}}
		}
		addr := rapid.Map(rapid.IntRange(0, cidr.Size(p)-1), func(n int) netip.Addr { return cidr.At(p, n) })
		t.Repeat(map[string]func(*rapid.T){
			"assign next": func(t *rapid.T) {
				n, w := rapid.IntRange(0, 3).Draw(t, "n"), who()
				want := queue[:min(n, len(queue))]
				got := b.AssignNext(n, w, nil)
				if !slices.Equal(got, want) {
					t.Fatalf("assigned %v, want %v", got, want)
				}
				queue = slices.Clone(queue[len(want):])
				for _, a := range got {
					holder[a] = w.Handle
				}
			},
			"assign": func(t *rapid.T) {
				a, w := addr.Draw(t, "addr"), who()
				_, taken := holder[a]
				if err := b.Assign(a, w); fault.Is(err, fault.Conflict) != taken {
					t.Fatalf("assign %s: %v, taken %v", a, err, taken)
				}
				if !taken {
					holder[a] = w.Handle
					queue = slices.DeleteFunc(queue, func(q netip.Addr) bool { return q == a })
				}
			},
			"release": func(t *rapid.T) {
				a, h := addr.Draw(t, "addr"), handles.Draw(t, "handle")
				was, taken := holder[a]
				_, free, err := b.Release([]Release{{Addr: a, Handle: h}})
				switch {
				case !taken && (err != nil || len(free) != 1), taken && h != "" && h != was && !fault.Is(err, fault.Conflict):
					t.Fatalf("release %s of %q as %q: %v, %v", a, was, h, free, err)
				case taken && err == nil:
					delete(holder, a)
					queue = append(queue, a)
				}
			},
			"release handle": func(t *rapid.T) {
				h := handles.Draw(t, "handle")
				held := b.ByHandle(h)
				if n := b.ReleaseHandle(h); n != len(held) {
					t.Fatalf("released %d of %v", n, held)
				}
				for _, a := range held {
					delete(holder, a)
				}
				queue = append(queue, held...)
			},
			"": func(t *rapid.T) { checkAgainstModel(t, b, queue, holder) },
		})
	})
}

func checkAgainstModel(t *rapid.T, b *Block, queue []netip.Addr, holder map[netip.Addr]string) {
	b.Sequence++
	data, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseBlock(data)
	if err != nil {
		t.Fatalf("%s: %v", data, err)
	}
	if twice, _ := again.Encode(); string(twice) != string(data) {
		t.Fatalf("reads back as %s, not %s", twice, data)
	}
	var free []netip.Addr
	for _, n := range b.Unallocated {
		free = append(free, cidr.At(b.CIDR, n))
	}
	if !slices.Equal(free, queue) || b.InUse() != len(holder) || b.Empty() != (len(holder) == 0) {
		t.Fatalf("free %v in use %d, model %v and %v", free, b.InUse(), queue, holder)
	}
	used := map[string]bool{}
	for a, h := range holder {
		who, ok := b.Holder(a)
		if !ok || who.Handle != h || b.SequenceOf(a) == 0 || b.SequenceOf(a) >= b.Sequence {
			t.Fatalf("%s is held by %v (%v) since %d, model %q", a, who, ok, b.SequenceOf(a), h)
		}
		used[h] = true
	}
	if len(used) != len(b.Attributes) || len(b.SequenceFor) != len(holder) {
		t.Fatalf("%d attributes for %d holders, %d sequence numbers for %d addresses", len(b.Attributes), len(used), len(b.SequenceFor), len(holder))
	}
}

func FuzzParseBlock(f *testing.F) {
	empty, _ := NewBlock(block30, "n1", start, 1).Encode()
	f.Add(empty)
	f.Add([]byte(`{"cidr":"10.0.0.0/31","allocations":[null,0],"unallocated":[0],"attributes":[{"x":1}],"y":null}`))
	f.Add([]byte(`{"cidr":"fd00::/122"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ParseBlock(data)
		if err != nil {
			return
		}
		b.AssignNext(1, Attribute{Handle: "fuzz"}, nil)
		b.ReleaseHandle("fuzz")
		out, err := b.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseBlock(out); err != nil {
			t.Errorf("%s becomes %s: %v", data, out, err)
		}
	})
}

func FuzzParseObjects(f *testing.F) {
	for _, seed := range []string{`{"state":"pending"}`, `{"block":{"10.0.0.0/30":2}}`, `{"maxBlocksPerHost":3}`, ``, `[]`, `{"block":{"x":1}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if a, err := ParseAffinity(data); err == nil {
			mustEncode(t, a.Encode)
		}
		if h, err := ParseHandle(data); err == nil {
			mustEncode(t, h.Encode)
		}
		if c, err := ParseConfig(data); err == nil {
			mustEncode(t, c.Encode)
		}
	})
}

func mustEncode(t *testing.T, encode func() ([]byte, error)) {
	t.Helper()
	if out, err := encode(); err != nil {
		t.Errorf("%s: %v", out, err)
	}
}

func ExampleAttribute_String() {
	fmt.Println(Attribute{Handle: "k8s-pod-network.abc"})
	// Output: handle k8s-pod-network.abc
}
