// SPDX-License-Identifier: Apache-2.0

package core_test

import (
	"net/netip"
	"testing"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/host"
)

// A route through a node whose Node has just arrived stays until the speaker
// was asked about that peer: the speaker's last word is older than the Node.
func TestRouteThroughAPeerTheSpeakerDoesNotKnowYetStays(t *testing.T) {
	old, fresh := netip.MustParseAddr("192.168.0.12"), netip.MustParseAddr("192.168.0.20")
	s := &cluster.Snapshot{
		StoreSynced: true, EndpointsSynced: true, Learned: learned{},
		Nodes: map[cluster.NodeName]cluster.Node{
			"old":   {Name: "old", Address: netip.PrefixFrom(old, 24)},
			"fresh": {Name: "fresh", Address: netip.PrefixFrom(fresh, 24)},
		},
	}
	s.BGP.Mesh = true
	for _, c := range []struct {
		name            string
		unsynced, asked []netip.Addr
		over            bool
		want            bool // the route through fresh may go
	}{
		{"not asked about", nil, []netip.Addr{old}, false, false},
		{"asked, not synced", []netip.Addr{fresh}, []netip.Addr{old, fresh}, false, false},
		{"asked, synced", nil, []netip.Addr{old, fresh}, false, true},
		{"nobody is waited for", nil, nil, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.Unsynced, s.Asked = map[netip.Addr]bool{}, map[netip.Addr]bool{}
			for _, a := range c.unsynced {
				s.Unsynced[a] = true
			}
			for _, a := range c.asked {
				s.Asked[a] = true
			}
			if c.over {
				s.Asked = nil
			}
			route := host.Route{Dst: netip.MustParsePrefix("172.16.3.64/26"), Via: fresh, Dev: "ens160", Proto: host.ProtoBird}
			if got := core.Deletable(s, route); got != c.want {
				t.Errorf("deletable %v, want %v", got, c.want)
			}
		})
	}
}
