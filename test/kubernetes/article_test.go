// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/test/kubernetes/cluster"
)

// errAwaited is what was seen instead of what is awaited.
func errAwaited(seen string, err error) error {
	if err != nil {
		return fmt.Errorf("%w: %s", err, seen)
	}
	return fmt.Errorf("%s", seen)
}

// TestArticle is the article's manifest, unchanged, on the product, and its walk.
func TestArticle(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			p := newPlugin(t)
			p.c = cluster.Up(t, v.options)
			t.Logf("nodes Ready after %.1f s", p.c.Install().Seconds())
			from, to := p.c.Article(t)
			begin := time.Now()
			walk(t, p, from, to)
			t.Logf("walked in %.1f s", time.Since(begin).Seconds())
		})
	}
}

// router is the configuration of the gateway between the racks: it reflects
// what nodes announce, with itself as the next hop.
const router = `
router id 192.168.0.2;
protocol device {}
protocol kernel { ipv4 { export all; }; }
protocol bgp rack0 { local 192.168.0.2 as 64512; neighbor range 192.168.0.0/24 as 64512; direct; passive; rr client; ipv4 { import all; export all; next hop self; }; }
protocol bgp rack1 { local 192.168.1.2 as 64512; neighbor range 192.168.1.0/24 as 64512; direct; passive; rr client; ipv4 { import all; export all; next hop self; }; }
`

// noMesh ends the full mesh.
const noMesh = `{apiVersion: projectcalico.org/v3, kind: BGPConfiguration, metadata: {name: default}, spec: {nodeToNodeMeshEnabled: false}}`

// gateway has a node peer with the gateway of its rack.
const gateway = `{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: gateway-%s}, spec: {node: %[1]s, peerIP: 192.168.%d.2, asNumber: 64512}}`

// TestRacks is the article's manifest on three nodes in two racks, with a
// router between them that the nodes peer with.
func TestRacks(t *testing.T) {
	c := cluster.Up(t, cluster.Options{Nodes: 3, Racks: 2})
	c.Router(router)
	c.Install()
	c.Apply(noMesh)
	for i, node := range c.Names {
		c.Apply(fmt.Sprintf(gateway, node, i%2))
	}
	c.Article(t)
}
