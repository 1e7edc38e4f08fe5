// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/test/kubernetes/cluster"
)

// upstream runs tests of Kubernetes' own suite on the product, none of which
// may be skipped.
func upstream(t *testing.T, o cluster.Options, s cluster.Suite) {
	t.Helper()
	c := cluster.Up(t, o)
	c.Install()
	t.Logf("%d passed in %v", s.Tests, c.Upstream(s).Round(time.Second))
}

// TestGranularChecks are upstream's four of pod to pod and node to pod traffic.
func TestGranularChecks(t *testing.T) {
	upstream(t, cluster.Options{}, cluster.GranularChecks)
}

// TestConformance are upstream's 47 that a network must pass to be conformant.
func TestConformance(t *testing.T) {
	upstream(t, cluster.Options{}, cluster.Conformance)
}

// TestServices are upstream's 35 of services, host ports and connection
// tracking, with the older of what nodes run.
func TestServices(t *testing.T) {
	upstream(t, cluster.Options{Proxy: "iptables", Containerd: "debian"}, cluster.Services)
}
