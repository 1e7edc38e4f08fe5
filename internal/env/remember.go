// SPDX-License-Identifier: Apache-2.0

package env

import (
	"encoding/json"
	"maps"
	"strconv"

	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/problem"
)

// poolField is a field of the default pool that a variable may change at a
// later start.
type poolField struct {
	variable, name string
	get            func(v3.IPPoolSpec) string
	set            func(to *v3.IPPoolSpec, from v3.IPPoolSpec)
}

// poolFields are those fields. CIDR and block size are not among them: they
// cannot be changed while addresses are in use.
func poolFields() []poolField {
	return []poolField{
		{"CALICO_IPV4POOL_IPIP", "ipipMode", func(s v3.IPPoolSpec) string { return s.IPIPMode }, func(to *v3.IPPoolSpec, from v3.IPPoolSpec) { to.IPIPMode = from.IPIPMode }},
		{"CALICO_IPV4POOL_VXLAN", "vxlanMode", func(s v3.IPPoolSpec) string { return s.VXLANMode }, func(to *v3.IPPoolSpec, from v3.IPPoolSpec) { to.VXLANMode = from.VXLANMode }},
		{"CALICO_IPV4POOL_NODE_SELECTOR", "nodeSelector", func(s v3.IPPoolSpec) string { return s.NodeSelector }, func(to *v3.IPPoolSpec, from v3.IPPoolSpec) { to.NodeSelector = from.NodeSelector }},
		{"CALICO_IPV4POOL_NAT_OUTGOING", "natOutgoing", func(s v3.IPPoolSpec) string { return strconv.FormatBool(s.NATOutgoing) }, func(to *v3.IPPoolSpec, from v3.IPPoolSpec) { to.NATOutgoing = from.NATOutgoing }},
		{"CALICO_IPV4POOL_DISABLE_BGP_EXPORT", "disableBGPExport", func(s v3.IPPoolSpec) string { return strconv.FormatBool(s.DisableBGPExport) }, func(to *v3.IPPoolSpec, from v3.IPPoolSpec) { to.DisableBGPExport = from.DisableBGPExport }},
	}
}

// AppliedFields are what the environment wrote into a pool, by field; nil
// where it wrote nothing, Invalid where its record cannot be read.
func AppliedFields(pool *v3.IPPool) (map[string]string, error) {
	text := pool.Metadata.Annotations[AppliedAnnotation]
	if text == "" {
		return nil, nil
	}
	var applied map[string]string
	if err := json.Unmarshal([]byte(text), &applied); err != nil {
		return nil, fault.New(fault.Invalid, "annotation %s of pool %s: %w", AppliedAnnotation, pool.Metadata.Name, err)
	}
	return applied, nil
}

// Remember writes into the default pool what changed in the environment since
// this node's last start, when its pool variables were last: a field whose
// variable has another value, or is set or unset anew, and which still holds
// what the environment wrote before. So nodes with old and new variables do
// not turn a pool to and fro, and what somebody edited stays. It returns the
// fields written; pool is changed in place. An unreadable record is Invalid:
// nothing is written then.
func (e Env) Remember(pool *v3.IPPool, last map[string]string) ([]string, error) {
	applied, err := AppliedFields(pool)
	if err != nil || applied == nil || pool.Metadata.Name != DefaultPoolName {
		return nil, err
	}
	applied = maps.Clone(applied)
	wanted := e.wanted()
	var written []string
	for _, f := range poolFields() {
		now, was := e.PoolVariables[f.variable], last[f.variable]
		recorded, known := applied[f.name]
		if now == was || !known || recorded != f.get(pool.Spec) || f.get(wanted) == recorded {
			continue
		}
		f.set(&pool.Spec, wanted)
		applied[f.name] = f.get(wanted)
		written = append(written, f.name)
	}
	if len(written) == 0 {
		return nil, nil
	}
	text, err := json.Marshal(applied)
	if err != nil {
		return nil, fault.New(fault.Internal, "record what the environment wrote: %w", err)
	}
	pool.Metadata.Annotations = maps.Clone(pool.Metadata.Annotations)
	pool.Metadata.Annotations[AppliedAnnotation] = string(text)
	return written, nil
}

// wanted is the default pool as the environment has it.
func (e Env) wanted() v3.IPPoolSpec {
	pool := e.defaultPool()
	pool.SetDefaults()
	return pool.Spec
}

// Differences reports every variable that is set and differs from the default
// pool, with those that are never changed.
func (e Env) Differences(pool *v3.IPPool) []problem.Problem {
	if pool.Metadata.Name != DefaultPoolName {
		return nil
	}
	fields := append(poolFields(),
		poolField{variable: "CALICO_IPV4POOL_CIDR", name: "cidr", get: func(s v3.IPPoolSpec) string { return s.CIDR }},
		poolField{variable: "CALICO_IPV4POOL_BLOCK_SIZE", name: "blockSize", get: func(s v3.IPPoolSpec) string { return strconv.Itoa(s.BlockSize) }})
	wanted := e.wanted()
	var list []problem.Problem
	for _, f := range fields {
		if e.PoolVariables[f.variable] == "" || e.noPool4 || f.get(wanted) == f.get(pool.Spec) {
			continue
		}
		list = append(list, problem.New(problem.EnvDiffers, f.variable, f.variable, shorten(f.get(wanted)), pool.Metadata.Name, f.name, f.get(pool.Spec)))
	}
	return list
}
