// SPDX-License-Identifier: Apache-2.0

package v3

import (
	"strconv"

	"github.com/ocicat-net/ocicat/api/meta"
)

// KindIPAMConfiguration is the kind of an IPAMConfiguration; the older name
// IPAMConfig is read as well.
const KindIPAMConfiguration = "IPAMConfiguration"

// IPAMConfiguration holds the cluster's rules of address assignment. Its only
// name is "default".
type IPAMConfiguration struct {
	meta.Type
	// Metadata names the object.
	Metadata meta.Object `json:"metadata"`
	// Spec holds the rules.
	Spec IPAMConfigurationSpec `json:"spec"`
}

// IPAMConfigurationSpec holds the rules of address assignment.
type IPAMConfigurationSpec struct {
	// StrictAffinity keeps nodes from borrowing addresses of blocks that other
	// nodes own.
	StrictAffinity bool `json:"strictAffinity"`
	// AutoAllocateBlocks lets nodes take blocks on their own; default true.
	// Without it StrictAffinity must be set.
	AutoAllocateBlocks *bool `json:"autoAllocateBlocks,omitempty"`
	// MaxBlocksPerHost limits the blocks of one node; 0 means 20, the limit
	// that guards against runaways. More than 0 needs StrictAffinity.
	MaxBlocksPerHost int `json:"maxBlocksPerHost,omitempty"`
	// IPCooldownSeconds is how long a released address rests before it is
	// given again; 0 is not at all.
	IPCooldownSeconds int `json:"ipCooldownSeconds,omitempty"`
	// KubeVirtVMAddressPersistence is Enabled or Disabled: whether a virtual
	// machine keeps its address from one pod to the next. Not supported yet.
	KubeVirtVMAddressPersistence string `json:"kubeVirtVMAddressPersistence,omitempty"`
}

// TypeMeta returns the object's kind and version.
func (c *IPAMConfiguration) TypeMeta() *meta.Type { return &c.Type }

// ObjectMeta returns the object's name and labels.
func (c *IPAMConfiguration) ObjectMeta() *meta.Object { return &c.Metadata }

// SetDefaults fills what was left out.
func (c *IPAMConfiguration) SetDefaults() {
	if c.Spec.AutoAllocateBlocks == nil {
		yes := true
		c.Spec.AutoAllocateBlocks = &yes
	}
}

// AutoAllocate is spec.autoAllocateBlocks with its default.
func (c *IPAMConfiguration) AutoAllocate() bool {
	return c.Spec.AutoAllocateBlocks == nil || *c.Spec.AutoAllocateBlocks
}

// Selectors lists the fields that hold selectors: none.
func (c *IPAMConfiguration) Selectors() []meta.Field { return nil }

// Validate reports what is wrong with the configuration on its own.
func (c *IPAMConfiguration) Validate() []meta.Finding {
	s := c.Spec
	found := checkOnlyName(c.Metadata.Name)
	if !s.StrictAffinity && !c.AutoAllocate() {
		found = append(found, meta.Finding{Path: "spec.autoAllocateBlocks", Value: "false", Want: "true, as spec.strictAffinity is false"})
	}
	if s.MaxBlocksPerHost < 0 {
		found = append(found, meta.Finding{Path: "spec.maxBlocksPerHost", Value: strconv.Itoa(s.MaxBlocksPerHost), Want: "0 or more"})
	}
	if s.MaxBlocksPerHost > 0 && !s.StrictAffinity {
		found = append(found, meta.Finding{Path: "spec.maxBlocksPerHost", Value: strconv.Itoa(s.MaxBlocksPerHost), Want: "0, as spec.strictAffinity is false"})
	}
	if s.IPCooldownSeconds < 0 {
		found = append(found, meta.Finding{Path: "spec.ipCooldownSeconds", Value: strconv.Itoa(s.IPCooldownSeconds), Want: "0 or more"})
	}
	found = append(found, checkEnum("spec.kubeVirtVMAddressPersistence", s.KubeVirtVMAddressPersistence, "Enabled", "Disabled")...)
	if s.KubeVirtVMAddressPersistence == "Enabled" {
		found = append(found, unsupported("spec.kubeVirtVMAddressPersistence", "Enabled", "Disabled", "Virtual machines are not known here; their pods get an address each."))
	}
	return found
}

// checkOnlyName is for kinds with a single object per cluster.
func checkOnlyName(name string) []meta.Finding {
	if name == "default" {
		return nil
	}
	return []meta.Finding{{Path: "metadata.name", Value: name, Want: "the name default: there is one object of this kind"}}
}
