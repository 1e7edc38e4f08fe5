// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"strings"
	"testing"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
)

func TestValidKeys(t *testing.T) {
	for _, key := range []store.Key{
		{Kind: store.Node, Name: "k8s-node-1"},
		{Kind: store.Node, Name: "worker-a.example.com"},
		{Kind: store.IPPool, Name: "default-ipv4-ippool"},
		{Kind: store.Block, Name: "172.16.109.64-26"},
		{Kind: store.Block, Name: "fd00:10:244::-122"},
		{Kind: store.Affinity, Name: "k8s-node-1/172.16.109.64-26"},
		{Kind: store.Affinity, Name: strings.Repeat("n", 253) + "/fd00:10:244:1f2:3:4:5:40-122"},
		{Kind: store.Handle, Name: "Calico_Net.9c56a698"},
		{Kind: store.Handle, Name: ".2310d641"},
		{Kind: store.IPAMConfig, Name: "default"},
	} {
		if err := key.Validate(); err != nil {
			t.Errorf("%v: %v", key, err)
		}
	}
}

func TestInvalidKeys(t *testing.T) {
	for _, key := range []store.Key{
		{},
		{Kind: "Pod", Name: "a"},
		{Kind: store.Node},
		{Kind: store.Node, Name: "a/b"},
		{Kind: store.Node, Name: "a b"},
		{Kind: store.Node, Name: "a\n"},
		{Kind: store.Node, Name: "a\x00"},
		{Kind: store.Node, Name: "\xff"},
		{Kind: store.Node, Name: strings.Repeat("n", store.MaxName+1)},
		{Kind: store.Block, Name: "10.0.0.0"},
		{Kind: store.Block, Name: "10.0.0.0/26"},
		{Kind: store.Block, Name: "n/10.0.0.0-26"},
		{Kind: store.Affinity, Name: "10.0.0.0-26"},
		{Kind: store.Affinity, Name: "/10.0.0.0-26"},
		{Kind: store.Affinity, Name: "a/b/10.0.0.0-26"},
		{Kind: store.Handle, Name: "a/b"},
		{Kind: store.IPAMConfig, Name: "other"},
	} {
		if err := key.Validate(); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v, want an invalid error", key, err)
		}
	}
}
