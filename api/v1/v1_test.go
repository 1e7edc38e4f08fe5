// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/api/meta"
)

func TestDefaultsOfOcicatConfiguration(t *testing.T) {
	c := OcicatConfiguration{Metadata: meta.Object{Name: "default"}}
	c.SetDefaults()
	if c.Protocol() != 12 || c.Metric() != 0 || c.Reserve() != 16 || !c.PermGateway() {
		t.Errorf("defaults: protocol %d, metric %d, reserve %d, gateway %v", c.Protocol(), c.Metric(), c.Reserve(), c.PermGateway())
	}
	if c.Spec != (OcicatConfigurationSpec{}) {
		t.Error("defaults were written into the object")
	}
	if found := c.Validate(); len(found) > 0 {
		t.Error(found)
	}
}

func TestOcicatConfigurationFindings(t *testing.T) {
	number := func(n int) *int { return &n }
	long := func(n int64) *int64 { return &n }
	for path, spec := range map[string]OcicatConfigurationSpec{
		"spec.routeProtocol":   {RouteProtocol: number(4)},
		"spec.reserveSize":     {ReserveSize: number(-1)},
		"spec.peerPrefixLimit": {PeerPrefixLimit: number(0)},
		"spec.endpointMetric":  {EndpointMetric: long(1 << 32)},
	} {
		c := OcicatConfiguration{Metadata: meta.Object{Name: "default"}, Spec: spec}
		if found := c.Validate(); len(found) != 1 || found[0].Path != path || found[0].Level != meta.Wrong {
			t.Errorf("%s: %v", path, found)
		}
	}
	c := OcicatConfiguration{Metadata: meta.Object{Name: "other"}}
	if found := c.Validate(); len(found) != 1 || found[0].Path != "metadata.name" {
		t.Errorf("another name: %v", found)
	}
}

func TestStale(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	n := NodeStatus{Status: NodeReport{Heartbeat: now.Add(-StaleAfter)}}
	if n.Stale(now) || !n.Stale(now.Add(time.Second)) {
		t.Error("a report is stale from StaleAfter on, not before")
	}
}
