// SPDX-License-Identifier: Apache-2.0

package env

import (
	"encoding/json"
	"net/netip"
	"strconv"

	"github.com/ocicat-net/ocicat/api/meta"
	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/selector"
)

// DefaultPoolName is the name of the pool created at the first start.
const DefaultPoolName = "default-ipv4-ippool"

// AppliedAnnotation holds, on a pool that the environment wrote, the values
// it wrote, as JSON by field: a later start changes a field only if nobody
// else did.
const AppliedAnnotation = "ocicat.net/applied-env"

// DefaultPools are the pools to create if the cluster has none: one, or none
// where the environment says so. networks are the node's own; without
// CALICO_IPV4POOL_CIDR the first usual range that overlaps none of them is
// taken. If all overlap, or the given one does, the error is Conflict.
func (e Env) DefaultPools(networks []netip.Prefix) ([]*v3.IPPool, error) {
	if e.noDefaultPools || e.noPool4 {
		return nil, nil
	}
	pool := e.defaultPool()
	if pool.Spec.CIDR != "" {
		if hit := overlapping(pool.CIDRPrefix(), networks); hit.IsValid() {
			return nil, fault.Hint(fault.New(fault.Conflict, "environment variable CALICO_IPV4POOL_CIDR: %q: want no overlap with %s, a network of this node", pool.Spec.CIDR, hit),
				"Choose a CIDR that no node's network touches.")
		}
		pool.SetDefaults()
		return []*v3.IPPool{record(pool)}, nil
	}
	for _, cidr := range usualRanges() {
		if !overlapping(cidr, networks).IsValid() {
			pool.Spec.CIDR = cidr.String()
			pool.SetDefaults()
			return []*v3.IPPool{record(pool)}, nil
		}
	}
	return nil, fault.Hint(fault.New(fault.Conflict, "choose a default pool: 192.168.0.0/16 and 172.16.0.0/12 overlap this node's networks"),
		"Set CALICO_IPV4POOL_CIDR to a range that no node's network touches.")
}

func (e Env) defaultPool() *v3.IPPool {
	return &v3.IPPool{
		Type:     meta.Type{APIVersion: v3.APIVersion, Kind: v3.KindIPPool},
		Metadata: meta.Object{Name: DefaultPoolName},
		Spec:     e.pool,
	}
}

// usualRanges are the ranges a default pool is taken from, in order.
func usualRanges() []netip.Prefix {
	ranges := []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168}), 16)}
	for second := byte(16); second < 32; second++ {
		ranges = append(ranges, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, second}), 16))
	}
	return ranges
}

func overlapping(cidr netip.Prefix, networks []netip.Prefix) netip.Prefix {
	for _, network := range networks {
		if cidr.IsValid() && cidr.Overlaps(network.Masked()) {
			return network.Masked()
		}
	}
	return netip.Prefix{}
}

// record notes on the pool what the environment wrote.
func record(pool *v3.IPPool) *v3.IPPool {
	s := pool.Spec
	text, err := json.Marshal(map[string]string{
		"ipipMode": s.IPIPMode, "vxlanMode": s.VXLANMode, "nodeSelector": s.NodeSelector,
		"natOutgoing": strconv.FormatBool(s.NATOutgoing), "disableBGPExport": strconv.FormatBool(s.DisableBGPExport),
	})
	if err != nil {
		return pool // strings always marshal
	}
	pool.Metadata.Annotations = map[string]string{AppliedAnnotation: string(text)}
	return pool
}

// poolVariable names the variable behind a field of the pool.
var poolVariable = map[string]string{
	"spec.cidr":         "CALICO_IPV4POOL_CIDR",
	"spec.blockSize":    "CALICO_IPV4POOL_BLOCK_SIZE",
	"spec.nodeSelector": "CALICO_IPV4POOL_NODE_SELECTOR",
}

// checkPool validates the default pool, whether it will be created or not:
// a mistake shall show on every node, not only on the first.
func (e *Env) checkPool(set map[string]string) error {
	if e.noDefaultPools || e.noPool4 {
		return nil
	}
	pool := e.defaultPool()
	if pool.Spec.CIDR == "" {
		pool.Spec.CIDR = usualRanges()[0].String()
	}
	pool.SetDefaults()
	var errs []error
	for _, f := range pool.Validate() {
		if f.Level == meta.Notice {
			continue
		}
		name := poolVariable[f.Path]
		if name == "CALICO_IPV4POOL_BLOCK_SIZE" && set[name] == "" {
			name, f.Value, f.Want = "CALICO_IPV4POOL_CIDR", pool.Spec.CIDR, "room for one block of /"+f.Value
		}
		errs = append(errs, refuse(name, f.Value, fault.Hint(fault.New(fault.Invalid, "want %s", f.Want), "%s", f.Hint)))
	}
	if _, err := selector.Parse(e.pool.NodeSelector); err != nil {
		errs = append(errs, refuse("CALICO_IPV4POOL_NODE_SELECTOR", e.pool.NodeSelector, fault.New(fault.Invalid, "want a selector (%s)", err)))
	}
	return join(errs)
}
