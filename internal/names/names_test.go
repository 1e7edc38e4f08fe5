// SPDX-License-Identifier: Apache-2.0

package names

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// vectors reads testdata/name, one recorded vector of Calico's a line.
func vectors[T any](t *testing.T, name string) []T {
	t.Helper()
	f, err := os.Open("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []T
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var v T
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all = append(all, v)
	}
	if lines.Err() != nil || len(all) == 0 {
		t.Fatalf("%s: %d vectors, %v", name, len(all), lines.Err())
	}
	return all
}

func TestInterfaces(t *testing.T) {
	type vector struct {
		Namespace, Pod, HostInterface string
		HostInterfacePrefixEniCali    string
		Endpoint                      string `json:"workloadEndpointOnNode-1"`
	}
	for _, v := range vectors[vector](t, "interfaces.jsonl") {
		if got := HostInterface(DefaultPrefix, v.Namespace, v.Pod); got != v.HostInterface {
			t.Errorf("HostInterface(%s, %s) = %s, want %s", v.Namespace, v.Pod, got, v.HostInterface)
		}
		if got := HostInterface("eni", v.Namespace, v.Pod); got != v.HostInterfacePrefixEniCali {
			t.Errorf("HostInterface(eni, %s, %s) = %s, want %s", v.Namespace, v.Pod, got, v.HostInterfacePrefixEniCali)
		}
		if got := WorkloadEndpoint("node-1", v.Pod, "eth0"); got != v.Endpoint {
			t.Errorf("WorkloadEndpoint(%s) = %s, want %s", v.Pod, got, v.Endpoint)
		}
	}
	if got := ContainerInterface("cali", "0123456789abcdef"); got != "cali0123456789a" {
		t.Errorf("outside Kubernetes: %s", got)
	}
	if got := ContainerInterface("cali", "abc"); got != "caliabc" {
		t.Errorf("short container id: %s", got)
	}
}

func TestFirstBlocks(t *testing.T) {
	type vector struct {
		Node  string
		Pools map[string]struct {
			FirstIndex string
			Blocks     []*string
		}
	}
	for _, v := range vectors[vector](t, "blocks.jsonl") {
		for name, want := range v.Pools {
			var bits int
			if _, err := fmt.Sscan(path.Base(name), &bits); err != nil {
				t.Fatalf("pool %q: %v", name, err)
			}
			pool := netip.MustParsePrefix(path.Dir(name))
			if got := FirstBlock(v.Node, pool, bits).String(); got != want.FirstIndex {
				t.Errorf("FirstBlock(%s, %s) = %s, want %s", v.Node, name, got, want.FirstIndex)
			}
			var wantBlocks, got []string
			for _, b := range want.Blocks {
				if b != nil {
					wantBlocks = append(wantBlocks, *b)
				}
			}
			for b := range BlockOrder(v.Node, pool, bits) {
				if got = append(got, b.String()); len(got) == 3 {
					break
				}
			}
			if diff := cmp.Diff(wantBlocks, got); diff != "" {
				t.Errorf("BlockOrder(%s, %s) -want +got:\n%s", v.Node, name, diff)
			}
		}
	}
}

func TestWholeBlockOrders(t *testing.T) {
	type vector struct {
		Node, Pool string
		BlockSize  int
		Order      []string
	}
	for _, v := range vectors[vector](t, "block-order.jsonl") {
		var got []string
		for b := range BlockOrder(v.Node, netip.MustParsePrefix(v.Pool), v.BlockSize) {
			got = append(got, b.String())
		}
		if diff := cmp.Diff(v.Order, got); diff != "" {
			t.Errorf("BlockOrder(%s, %s/%d) -want +got:\n%s", v.Node, v.Pool, v.BlockSize, diff)
		}
	}
	for b := range BlockOrder("n", netip.MustParsePrefix("10.0.0.0/24"), 23) {
		t.Errorf("a pool smaller than a block yields %s", b)
	}
}

// TestKeys reads the names out of the recorded etcd keys: the last element of
// a block's or affinity's key is the block's name.
func TestKeys(t *testing.T) {
	type vector struct {
		Kind, CIDR, Host, EtcdKey, Network, ContainerID, Handle string
	}
	seen := map[string]int{}
	for _, v := range vectors[vector](t, "keys.jsonl") {
		seen[v.Kind]++
		switch v.Kind {
		case "block", "affinity":
			block := netip.MustParsePrefix(v.CIDR)
			if got, want := Block(block), path.Base(v.EtcdKey); got != want {
				t.Errorf("Block(%s) = %s, want %s", v.CIDR, got, want)
			}
			if got, err := ParseBlock(Block(block)); err != nil || got != block {
				t.Errorf("ParseBlock(%s) = %s, %v", Block(block), got, err)
			}
			if v.Host == "" {
				continue
			}
			node, got, err := ParseAffinity(Affinity(v.Host, block))
			if err != nil || node != v.Host || got != block {
				t.Errorf("ParseAffinity(%s) = %s, %s, %v", Affinity(v.Host, block), node, got, err)
			}
		case "podHandle":
			if got := Handle(v.Network, v.ContainerID); got != v.Handle {
				t.Errorf("Handle(%s, %s) = %s, want %s", v.Network, v.ContainerID, got, v.Handle)
			}
		}
	}
	for _, kind := range []string{"block", "affinity", "podHandle"} {
		if seen[kind] == 0 {
			t.Errorf("no vector of kind %s", kind)
		}
	}
}

func TestRouterIDs(t *testing.T) {
	type vector struct{ Node, RouterID string }
	for _, v := range vectors[vector](t, "router-id.jsonl") {
		if got := RouterIDHash(v.Node).String(); got != v.RouterID {
			t.Errorf("RouterIDHash(%s) = %s, want %s", v.Node, got, v.RouterID)
		}
	}
}

func TestHandles(t *testing.T) {
	uid, ok := ParseReserveHandle(ReserveHandle("0A-b"))
	if !ok || uid != "0a-b" {
		t.Errorf("reserve handle of 0A-b reads back as %q, %v", uid, ok)
	}
	if _, ok := ParseReserveHandle(Handle("k8s-pod-network", "abc")); ok {
		t.Error("a pod's handle passes for a reserve")
	}
	got := []string{IPIPTunnelHandle("n"), VXLANTunnelHandle("n", false), VXLANTunnelHandle("n", true), WireGuardTunnelHandle("n")}
	want := []string{"ipip-tunnel-addr-n", "vxlan-tunnel-addr-n", "vxlan-v6-tunnel-addr-n", "wireguard-tunnel-addr-n"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tunnel handles -want +got:\n%s", diff)
	}
}

func FuzzParseAffinity(f *testing.F) {
	for _, seed := range []string{"n1/10.0.0.0-26", "n1/fd00::-122", "/10.0.0.0-26", "n1/10.0.0.1-26", "n1", "n1/-", "n1/10.0.0.0-026", "n1/0::-0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		node, block, err := ParseAffinity(name)
		if err != nil {
			return
		}
		again, same, err := ParseAffinity(Affinity(node, block))
		if err != nil || again != node || same != block || Affinity(node, block) != name {
			t.Errorf("%q reads as %s %s, which reads back as %s %s, %v", name, node, block, again, same, err)
		}
	})
}
