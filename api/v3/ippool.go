// SPDX-License-Identifier: Apache-2.0

package v3

import (
	"fmt"
	"net/netip"
	"strconv"

	"github.com/ocicat-net/ocicat/api/meta"
)

// KindIPPool is the kind of an IPPool.
const KindIPPool = "IPPool"

// IPPool is a range of addresses pods are given addresses from.
type IPPool struct {
	meta.Type
	// Metadata names the pool.
	Metadata meta.Object `json:"metadata"`
	// Spec is what the pool should be.
	Spec IPPoolSpec `json:"spec"`
}

// IPPoolSpec is what an IPPool should be.
type IPPoolSpec struct {
	// CIDR is the range, with host bits zero. It cannot be changed. IPv6 is not
	// supported yet.
	CIDR string `json:"cidr"`
	// BlockSize is the prefix length of the blocks nodes take from the pool:
	// 20 to 32 for IPv4 (default 26), 116 to 128 for IPv6 (default 122). It
	// cannot be changed.
	BlockSize int `json:"blockSize,omitempty"`
	// IPIPMode says when traffic between nodes is encapsulated in IPIP: Never
	// (default), Always or CrossSubnet. Only Never is supported yet.
	IPIPMode string `json:"ipipMode,omitempty"`
	// VXLANMode is the same for VXLAN. Only one of the two may be enabled; only
	// Never is supported yet.
	VXLANMode string `json:"vxlanMode,omitempty"`
	// NATOutgoing gives what the pool's pods send to an address in no pool the
	// node's address as its source. Connections that exist keep theirs.
	NATOutgoing bool `json:"natOutgoing,omitempty"`
	// Disabled stops new addresses being given from the pool; those in use,
	// and their routes, stay.
	Disabled bool `json:"disabled,omitempty"`
	// DisableBGPExport keeps the pool's blocks from being announced.
	DisableBGPExport bool `json:"disableBGPExport,omitempty"`
	// NodeSelector chooses the nodes that may use the pool; default all().
	NodeSelector string `json:"nodeSelector,omitempty"`
	// NamespaceSelector chooses the Kubernetes namespaces that may use it;
	// empty means all. Without Kubernetes such a pool must be named.
	NamespaceSelector string `json:"namespaceSelector,omitempty"`
	// AllowedUses are Workload, Tunnel and LoadBalancer; default Workload and
	// Tunnel.
	AllowedUses []string `json:"allowedUses,omitempty"`
	// AssignmentMode is Automatic (default) or Manual: only addresses asked
	// for by name.
	AssignmentMode string `json:"assignmentMode,omitempty"`
}

// Modes of encapsulation, uses of a pool and modes of assignment.
const (
	Never       = "Never"
	Always      = "Always"
	CrossSubnet = "CrossSubnet"

	UseWorkload     = "Workload"
	UseTunnel       = "Tunnel"
	UseLoadBalancer = "LoadBalancer"

	Automatic = "Automatic"
	Manual    = "Manual"
)

// Default block sizes and the bounds of spec.blockSize.
const (
	DefaultBlockSize4 = 26
	DefaultBlockSize6 = 122
	minBlock4         = 20
	maxBlock4         = 32
	minBlock6         = 116
	maxBlock6         = 128
)

// TypeMeta returns the object's kind and version.
func (p *IPPool) TypeMeta() *meta.Type { return &p.Type }

// ObjectMeta returns the object's name and labels.
func (p *IPPool) ObjectMeta() *meta.Object { return &p.Metadata }

// SetDefaults fills what was left out. It does not guess a block size for a
// CIDR that does not parse.
func (p *IPPool) SetDefaults() {
	s := &p.Spec
	if cidr, err := netip.ParsePrefix(s.CIDR); err == nil && s.BlockSize == 0 {
		s.BlockSize = DefaultBlockSize6
		if cidr.Addr().Is4() {
			s.BlockSize = DefaultBlockSize4
		}
	}
	setDefault(&s.IPIPMode, Never)
	setDefault(&s.VXLANMode, Never)
	setDefault(&s.NodeSelector, "all()")
	setDefault(&s.AssignmentMode, Automatic)
	if len(s.AllowedUses) == 0 {
		s.AllowedUses = []string{UseWorkload, UseTunnel}
	}
}

func setDefault(field *string, value string) {
	if *field == "" {
		*field = value
	}
}

// Selectors lists the fields that hold selectors.
func (p *IPPool) Selectors() []meta.Field {
	return []meta.Field{
		{Path: "spec.nodeSelector", Value: p.Spec.NodeSelector},
		{Path: "spec.namespaceSelector", Value: p.Spec.NamespaceSelector},
	}
}

// Validate reports what is wrong with the pool on its own, after SetDefaults.
func (p *IPPool) Validate() []meta.Finding {
	s := p.Spec
	found := meta.CheckName("metadata.name", p.Metadata.Name)
	found = append(found, checkEnum("spec.ipipMode", s.IPIPMode, Never, Always, CrossSubnet)...)
	found = append(found, checkEnum("spec.vxlanMode", s.VXLANMode, Never, Always, CrossSubnet)...)
	found = append(found, checkEnum("spec.assignmentMode", s.AssignmentMode, Automatic, Manual)...)
	for i, use := range s.AllowedUses {
		path := fmt.Sprintf("spec.allowedUses[%d]", i)
		if use == "" {
			found = append(found, meta.Finding{Path: path, Want: "Workload, Tunnel or LoadBalancer"})
		}
		found = append(found, checkEnum(path, use, UseWorkload, UseTunnel, UseLoadBalancer)...)
	}
	if enabled(s.IPIPMode) && enabled(s.VXLANMode) {
		found = append(found, meta.Finding{Path: "spec.vxlanMode", Value: s.VXLANMode, Want: "Never, as spec.ipipMode is " + s.IPIPMode})
	}
	cidr, wrong := checkPrefix("spec.cidr", s.CIDR)
	if found = append(found, wrong...); wrong == nil {
		found = append(found, checkPoolCIDR(cidr)...)
		found = append(found, s.checkSizes(cidr)...)
	}
	return append(found, s.limits(cidr)...)
}

// limits says what this version does not do of what the pool asks for.
func (s IPPoolSpec) limits(cidr netip.Prefix) []meta.Finding {
	var found []meta.Finding
	if enabled(s.IPIPMode) {
		found = append(found, unsupported("spec.ipipMode", s.IPIPMode, Never, withEncap))
	}
	if enabled(s.VXLANMode) {
		found = append(found, unsupported("spec.vxlanMode", s.VXLANMode, Never, withEncap))
	}
	if cidr.IsValid() && cidr.Addr().Is6() {
		found = append(found, unsupported("spec.cidr", s.CIDR, "an IPv4 CIDR", "IPv6 comes with a later issue."))
	}
	return found
}

// checkSizes refuses block sizes the pool's family or length does not allow,
// and IPIP for IPv6.
func (s IPPoolSpec) checkSizes(cidr netip.Prefix) []meta.Finding {
	var found []meta.Finding
	low, high := minBlock6, maxBlock6
	if cidr.Addr().Is4() {
		low, high = minBlock4, maxBlock4
	} else if enabled(s.IPIPMode) {
		found = append(found, meta.Finding{Path: "spec.ipipMode", Value: s.IPIPMode, Want: "Never, as IPIP carries IPv4 only"})
	}
	if s.BlockSize < low || s.BlockSize > high {
		found = append(found, meta.Finding{
			Path: "spec.blockSize", Value: strconv.Itoa(s.BlockSize),
			Want: fmt.Sprintf("a prefix length from %d to %d", low, high),
		})
	}
	if s.BlockSize < cidr.Bits() {
		found = append(found, meta.Finding{
			Path: "spec.blockSize", Value: strconv.Itoa(s.BlockSize),
			Want: fmt.Sprintf("at least %d, for one block must fit into %s", cidr.Bits(), cidr),
		})
	}
	return found
}

// checkPoolCIDR refuses ranges no pod can have an address in.
func checkPoolCIDR(cidr netip.Prefix) []meta.Finding {
	for _, special := range []struct{ cidr, name string }{
		{"169.254.0.0/16", "link-local"}, {"fe80::/10", "link-local"},
		{"127.0.0.0/8", "loopback"}, {"::1/128", "loopback"},
		{"224.0.0.0/4", "multicast"}, {"ff00::/8", "multicast"},
	} {
		if cidr.Overlaps(netip.MustParsePrefix(special.cidr)) {
			return []meta.Finding{{
				Path: "spec.cidr", Value: cidr.String(),
				Want: fmt.Sprintf("no overlap with the %s range %s", special.name, special.cidr),
			}}
		}
	}
	return nil
}

func enabled(mode string) bool { return mode == Always || mode == CrossSubnet }

// ValidateUpdate reports changes of fields that cannot be changed. Both pools
// have their defaults set.
func (p *IPPool) ValidateUpdate(old *IPPool) []meta.Finding {
	var found []meta.Finding
	const hint = "Blocks were cut from it. Make a new pool, disable this one, and move the pods."
	if p.Spec.CIDR != old.Spec.CIDR {
		found = append(found, meta.Finding{Path: "spec.cidr", Value: p.Spec.CIDR, Want: "no change from " + old.Spec.CIDR, Hint: hint})
	}
	if p.Spec.BlockSize != old.Spec.BlockSize {
		found = append(found, meta.Finding{Path: "spec.blockSize", Value: strconv.Itoa(p.Spec.BlockSize), Want: "no change from " + strconv.Itoa(old.Spec.BlockSize), Hint: hint})
	}
	return found
}

// CIDRPrefix is spec.cidr as a value; invalid when it does not parse.
func (p *IPPool) CIDRPrefix() netip.Prefix {
	cidr, err := netip.ParsePrefix(p.Spec.CIDR)
	if err != nil {
		return netip.Prefix{}
	}
	return cidr
}
