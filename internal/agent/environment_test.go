// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"testing"
	"time"

	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/env"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/resource"
	"github.com/ocicat-net/ocicat/internal/store"
)

// withEnvironment gives the agent's next start its variables.
func (n *node) withEnvironment(environ ...string) {
	n.t.Helper()
	e, _, err := env.Parse(append(environ, "CALICO_IPV4POOL_CIDR=172.16.0.0/16"), "k8s-master-1")
	if err != nil {
		n.t.Fatal(err)
	}
	n.cfg.DefaultPools, n.cfg.AppliedEnv, n.cfg.Environment = e.DefaultPools, e.PoolVariables, e
}

// storedPool is the default pool in the datastore.
func (n *node) storedPool() *v3.IPPool {
	n.t.Helper()
	entry, err := n.cfg.Store.Get(n.t.Context(), store.Key{Kind: store.IPPool, Name: env.DefaultPoolName})
	if err != nil {
		n.t.Fatal(err)
	}
	object, err := resource.Decode(entry)
	if err != nil {
		n.t.Fatal(err)
	}
	return object.(*v3.IPPool)
}

// TestEnvironmentIsRemembered starts an agent with changing variables: a
// change is written once, a block size never, and reported.
func TestEnvironmentIsRemembered(t *testing.T) {
	n := newNode(t)
	n.withEnvironment()
	n.start()
	remembered := func(name, want string) {
		t.Helper()
		nstest.Eventually(t, 5*time.Second, func() bool { return n.agent.Report().Status.AppliedEnvironment[name] == want }, name, " is remembered as ", want)
	}
	remembered("CALICO_IPV4POOL_CIDR", "172.16.0.0/16")
	nstest.Eventually(t, 5*time.Second, func() bool {
		_, err := n.cfg.Store.Get(t.Context(), store.Key{Kind: store.NodeStatus, Name: "k8s-master-1"})
		return err == nil
	}, "status published")
	n.stop()

	n.withEnvironment("CALICO_IPV4POOL_NAT_OUTGOING=false", "CALICO_IPV4POOL_BLOCK_SIZE=28")
	n.start()
	nstest.Eventually(t, 5*time.Second, func() bool { return !n.storedPool().Spec.NATOutgoing }, "natOutgoing is changed")
	nstest.Eventually(t, 5*time.Second, func() bool { return n.reports("OC5009") }, "the block size is reported")
	if size := n.storedPool().Spec.BlockSize; size != 26 {
		t.Errorf("block size is %d now", size)
	}
	remembered("CALICO_IPV4POOL_NAT_OUTGOING", "false")
}
