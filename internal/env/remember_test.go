// SPDX-License-Identifier: Apache-2.0

package env

import (
	"strings"
	"testing"

	v3 "github.com/ocicat-net/ocicat/api/v3"
)

// started is the environment of a node's start.
func started(t *testing.T, environ ...string) Env {
	t.Helper()
	e, _, err := Parse(append(environ, "CALICO_IPV4POOL_CIDR=10.0.0.0/16"), "n")
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (e Env) firstPool(t *testing.T) *v3.IPPool {
	t.Helper()
	pools, err := e.DefaultPools(nil)
	if err != nil {
		t.Fatal(err)
	}
	return pools[0]
}

// TestRollingChange rolls a changed variable over two nodes, one of which
// restarts with the old value in between: the pool is changed once.
func TestRollingChange(t *testing.T) {
	old := started(t, "CALICO_IPV4POOL_NODE_SELECTOR=zone == 'a'")
	changed := started(t, "CALICO_IPV4POOL_NODE_SELECTOR=zone == 'b'")
	pool := old.firstPool(t)
	first, second := old.PoolVariables, old.PoolVariables // of the two nodes' last starts
	writes := 0
	start := func(e Env, last *map[string]string) {
		fields, err := e.Remember(pool, *last)
		if err != nil {
			t.Fatal(err)
		}
		writes += len(fields)
		*last = e.PoolVariables
	}
	start(changed, &first)
	start(old, &second)
	start(changed, &first)
	start(changed, &second)
	if writes != 1 || pool.Spec.NodeSelector != "zone == 'b'" {
		t.Errorf("%d writes, selector %q, want one and zone b", writes, pool.Spec.NodeSelector)
	}
	pool.Spec.NodeSelector = "edited()"
	start(old, &first)
	if writes != 1 || pool.Spec.NodeSelector != "edited()" {
		t.Errorf("an edit was undone: %q", pool.Spec.NodeSelector)
	}
}

func TestCIDRIsNeverChanged(t *testing.T) {
	old := started(t)
	pool := old.firstPool(t)
	changed := started(t, "CALICO_IPV4POOL_BLOCK_SIZE=28", "CALICO_IPV4POOL_NAT_OUTGOING=false")
	fields, err := changed.Remember(pool, old.PoolVariables)
	if err != nil || strings.Join(fields, ",") != "natOutgoing" || pool.Spec.BlockSize != 26 || pool.Spec.NATOutgoing {
		t.Errorf("%v, %v, %+v", fields, err, pool.Spec)
	}
	differ := changed.Differences(pool)
	if len(differ) != 1 || !strings.Contains(differ[0].Text, `CALICO_IPV4POOL_BLOCK_SIZE asks for "28", but pool default-ipv4-ippool has blockSize "26"`) {
		t.Errorf("%v", differ)
	}
}

func TestPoolsWithoutRecordStay(t *testing.T) {
	pool := started(t).firstPool(t)
	changed := started(t, "CALICO_IPV4POOL_NAT_OUTGOING=false")
	pool.Metadata.Annotations[AppliedAnnotation] = "{"
	if fields, err := changed.Remember(pool, nil); err == nil || len(fields) > 0 {
		t.Errorf("unreadable record: %v, %v", fields, err)
	}
	delete(pool.Metadata.Annotations, AppliedAnnotation)
	if fields, err := changed.Remember(pool, nil); err != nil || len(fields) > 0 || !pool.Spec.NATOutgoing {
		t.Errorf("no record: %v, %v", fields, err)
	}
}
