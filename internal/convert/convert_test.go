// SPDX-License-Identifier: Apache-2.0

package convert_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/api/meta"
	v1 "github.com/ocicat-net/ocicat/api/v1"
	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/convert"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

func TestPeersThatConcernTheNode(t *testing.T) {
	peers := []*v3.BGPPeer{
		{Metadata: meta.Object{Name: "tor"}, Spec: v3.BGPPeerSpec{PeerIP: "192.0.2.1:1790", ASNumber: 65000}},
		{Metadata: meta.Object{Name: "mine"}, Spec: v3.BGPPeerSpec{PeerIP: "192.0.2.2", ASNumber: 65001, Node: "n1"}},
		{Metadata: meta.Object{Name: "others"}, Spec: v3.BGPPeerSpec{PeerIP: "192.0.2.3", ASNumber: 65001, Node: "n2"}},
		{Metadata: meta.Object{Name: "selected"}, Spec: v3.BGPPeerSpec{PeerSelector: "all()"}},
		{Metadata: meta.Object{Name: "secret"}, Spec: v3.BGPPeerSpec{PeerIP: "192.0.2.4", ASNumber: 1, Password: &v3.BGPPassword{}}},
		{Metadata: meta.Object{Name: "six"}, Spec: v3.BGPPeerSpec{PeerIP: "2001:db8::1", ASNumber: 1}},
	}
	specs, problems := convert.Peers(peers, "n1", map[string]string{"mine": "key"})
	want := []cluster.PeerSpec{
		{Name: "tor", Addr: specs[0].Addr, Port: 1790, AS: 65000, Kind: speaker.Global},
		{Name: "mine", Addr: specs[1].Addr, AS: 65001, Kind: speaker.ByNode, Password: "key"},
	}
	if diff := cmp.Diff(want, specs, cmp.Comparer(func(a, b cluster.PeerSpec) bool { return a == b })); diff != "" {
		t.Errorf("specs (-want +got):\n%s", diff)
	}
	if len(problems) != 3 {
		t.Errorf("problems %v, want one each for selected, secret and six", problems)
	}
}

func TestPoolRefusesWhatCannotBe(t *testing.T) {
	for _, spec := range []v3.IPPoolSpec{{CIDR: "10.0.0.0", BlockSize: 26}, {CIDR: "10.0.0.0/28", BlockSize: 26}, {CIDR: "10.0.0.0/24", BlockSize: 33}} {
		if _, err := convert.Pool(&v3.IPPool{Spec: spec}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: %v", spec, err)
		}
	}
	pool, err := convert.Pool(&v3.IPPool{Spec: v3.IPPoolSpec{CIDR: "10.0.0.0/24", BlockSize: 26, AssignmentMode: v3.Manual, NATOutgoing: true}})
	if err != nil || !pool.Manual || !pool.NATOutgoing || pool.BlockSize != 26 {
		t.Errorf("%+v, %v", pool, err)
	}
}

func TestDefaults(t *testing.T) {
	if got := convert.BGP(nil); got.AS != 64512 || !got.Mesh {
		t.Errorf("no BGPConfiguration: %+v", got)
	}
	own := cluster.Settings{RouteProtocol: 80, PermGateway: false}
	if got := convert.Settings(nil, own); got != own {
		t.Errorf("no OcicatConfiguration: %+v", got)
	}
	on := true
	if got := convert.Settings(&v1.OcicatConfiguration{Spec: v1.OcicatConfigurationSpec{PermanentGateway: &on}}, own); !got.PermGateway || got.RouteProtocol != 80 {
		t.Errorf("one field set: %+v", got)
	}
}
