// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/ocicat-net/ocicat/internal/cniwire"
)

// TestAnnotate: what annotations ask for, where the runtime did not hand them
// over; the pod's own go before its namespace's, and the runtime's before both.
func TestAnnotate(t *testing.T) {
	notes := map[string]string{annotationIPs: `["172.16.196.7"]`, annotationMAC: "0E:1C:2C:F6:2A:F9", annotationPools: `["a"]`}
	var req cniwire.AddRequest
	if err := Annotate(&req, notes); err != nil {
		t.Fatal(err)
	}
	if !req.Annotated || !req.PoolsNoted || !slices.Equal(req.Pools, []string{"a"}) || req.MAC != "0e:1c:2c:f6:2a:f9" || len(req.IPs) != 1 || req.IPs[0].String() != "172.16.196.7" {
		t.Errorf("%+v", req)
	}
	if err := AnnotateByNamespace(&req, map[string]string{annotationPools: `["of-the-namespace"]`}); err != nil || req.Pools[0] != "a" {
		t.Errorf("the namespace's pools take the place of the pod's: %v, %v", req.Pools, err)
	}
	given := cniwire.AddRequest{IPs: []netip.Addr{netip.MustParseAddr("172.16.196.9")}, MAC: "02:00:00:00:00:01", Pools: []string{"of-the-network"}}
	if err := Annotate(&given, map[string]string{annotationIPs: notes[annotationIPs], annotationMAC: notes[annotationMAC]}); err != nil || given.IPs[0].String() != "172.16.196.9" || given.MAC != "02:00:00:00:00:01" {
		t.Errorf("what the runtime asked for is lost: %+v, %v", given, err)
	}
	if err := AnnotateByNamespace(&given, map[string]string{annotationPools: `["of-the-namespace"]`}); err != nil || given.Pools[0] != "of-the-namespace" {
		t.Errorf("the namespace's pools do not go before the network's: %v, %v", given.Pools, err)
	}
	for _, wrong := range []map[string]string{
		{annotationIPs: "172.16.196.7"}, {annotationIPs: `["172.16.196.7","172.16.196.8"]`}, {annotationIPs: `["here"]`},
		{annotationMAC: "here"}, {annotationPools: "a"}, {annotationPrefix + "floatingIPs": `["1.2.3.4"]`},
	} {
		if err := Annotate(new(cniwire.AddRequest), wrong); cniwire.CodeOf(err) != cniwire.CodeConfig {
			t.Errorf("%v: %v, want code %d", wrong, err, cniwire.CodeConfig)
		}
	}
}
