// SPDX-License-Identifier: Apache-2.0

package v3

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/ocicat-net/ocicat/api/meta"
)

// KindBGPConfiguration is the kind of a BGPConfiguration.
const KindBGPConfiguration = "BGPConfiguration"

// DefaultAS is the AS number of a cluster that configures none.
const DefaultAS ASNumber = 64512

// BGPConfiguration holds the cluster's BGP settings, under the name "default".
// Settings of one node, under "node.NAME", are not supported yet.
type BGPConfiguration struct {
	meta.Type
	// Metadata names the object.
	Metadata meta.Object `json:"metadata"`
	// Spec holds the settings.
	Spec BGPConfigurationSpec `json:"spec"`
}

// BGPConfigurationSpec holds the cluster's BGP settings.
type BGPConfigurationSpec struct {
	// LogSeverityScreen is the log level of Calico's BGP daemon. It has no
	// effect: the agent's own level is set by its flag.
	LogSeverityScreen string `json:"logSeverityScreen,omitempty"`
	// NodeToNodeMeshEnabled makes every node a peer of every other; default
	// true.
	NodeToNodeMeshEnabled *bool `json:"nodeToNodeMeshEnabled,omitempty"`
	// ASNumber is the AS of nodes that have none of their own; default 64512.
	ASNumber *ASNumber `json:"asNumber,omitempty"`
	// ListenPort is the TCP port nodes listen on and mesh peers dial; default
	// 179.
	ListenPort int `json:"listenPort,omitempty"`
	// BindMode is None (default, all addresses) or NodeIP. Not
	// supported yet.
	BindMode string `json:"bindMode,omitempty"`
	// NodeMeshPassword is the secret that holds the mesh's MD5 password. Not
	// supported yet.
	NodeMeshPassword *BGPPassword `json:"nodeMeshPassword,omitempty"`
	// NodeMeshMaxRestartTime is the graceful restart time of mesh sessions. Not
	// supported yet.
	NodeMeshMaxRestartTime string `json:"nodeMeshMaxRestartTime,omitempty"`
	// ServiceLoadBalancerIPs are ranges of service addresses to announce. Not
	// supported yet.
	ServiceLoadBalancerIPs []CIDRBlock `json:"serviceLoadBalancerIPs,omitempty"`
	// ServiceExternalIPs are ranges of service addresses to announce. Not
	// supported yet.
	ServiceExternalIPs []CIDRBlock `json:"serviceExternalIPs,omitempty"`
	// ServiceClusterIPs are ranges of service addresses to announce. Not
	// supported yet.
	ServiceClusterIPs []CIDRBlock `json:"serviceClusterIPs,omitempty"`
	// ServiceLoadBalancerAggregation is Enabled or Disabled. Not
	// supported yet.
	ServiceLoadBalancerAggregation string `json:"serviceLoadBalancerAggregation,omitempty"`
	// Communities give names to BGP communities. Not
	// supported yet.
	Communities []Community `json:"communities,omitempty"`
	// PrefixAdvertisements attach communities to prefixes. Not
	// supported yet.
	PrefixAdvertisements []PrefixAdvertisement `json:"prefixAdvertisements,omitempty"`
	// IgnoredInterfaces are patterns of devices whose routes are not announced. Not
	// supported yet.
	IgnoredInterfaces []string `json:"ignoredInterfaces,omitempty"`
	// LocalWorkloadPeeringIPV4 is the address pods peer with. Not
	// supported yet.
	LocalWorkloadPeeringIPV4 string `json:"localWorkloadPeeringIPV4,omitempty"`
	// LocalWorkloadPeeringIPV6 is the address pods peer with. Not
	// supported yet.
	LocalWorkloadPeeringIPV6 string `json:"localWorkloadPeeringIPV6,omitempty"`
	// ProgramClusterRoutes is Enabled or Disabled: whether BGP routes of other
	// nodes go into the kernel. Not
	// supported yet.
	ProgramClusterRoutes string `json:"programClusterRoutes,omitempty"`
}

// CIDRBlock is one range of addresses.
type CIDRBlock struct {
	// CIDR is the range.
	CIDR string `json:"cidr"`
}

// Community gives a BGP community a name.
type Community struct {
	// Name is what PrefixAdvertisements use.
	Name string `json:"name"`
	// Value is the community, as "64512:100" or "64512:1:2".
	Value string `json:"value"`
}

// PrefixAdvertisement attaches communities to the routes of a prefix.
type PrefixAdvertisement struct {
	// CIDR is the prefix.
	CIDR string `json:"cidr"`
	// Communities are names or values.
	Communities []string `json:"communities,omitempty"`
}

// BGPPassword names the secret that holds a password.
type BGPPassword struct {
	// SecretKeyRef is a key of a Kubernetes secret.
	SecretKeyRef *SecretKeyRef `json:"secretKeyRef,omitempty"`
}

// SecretKeyRef is a key of a Kubernetes secret.
type SecretKeyRef struct {
	// Name is the secret's name.
	Name string `json:"name"`
	// Key is the key in the secret.
	Key string `json:"key"`
	// Optional allows the secret to be missing.
	Optional bool `json:"optional,omitempty"`
}

// TypeMeta returns the object's kind and version.
func (c *BGPConfiguration) TypeMeta() *meta.Type { return &c.Type }

// ObjectMeta returns the object's name and labels.
func (c *BGPConfiguration) ObjectMeta() *meta.Object { return &c.Metadata }

// SetDefaults does nothing: what is left out keeps its default also when a
// later version changes it.
func (c *BGPConfiguration) SetDefaults() {}

// Mesh is spec.nodeToNodeMeshEnabled with its default.
func (c *BGPConfiguration) Mesh() bool {
	return c.Spec.NodeToNodeMeshEnabled == nil || *c.Spec.NodeToNodeMeshEnabled
}

// AS is spec.asNumber with its default.
func (c *BGPConfiguration) AS() ASNumber {
	if c.Spec.ASNumber == nil {
		return DefaultAS
	}
	return *c.Spec.ASNumber
}

// Selectors lists the fields that hold selectors: none.
func (c *BGPConfiguration) Selectors() []meta.Field { return nil }

// Validate reports what is wrong with the configuration on its own.
func (c *BGPConfiguration) Validate() []meta.Finding {
	s := c.Spec
	var found []meta.Finding
	if strings.HasPrefix(c.Metadata.Name, "node.") {
		found = append(found, unsupported("metadata.name", c.Metadata.Name, "the name default", "Settings of one node come with the BGP issue; a node's AS is spec.bgp.asNumber of its Node."))
	} else {
		found = append(found, checkOnlyName(c.Metadata.Name)...)
	}
	if s.ASNumber != nil {
		found = append(found, checkAS("spec.asNumber", *s.ASNumber)...)
	}
	if s.ListenPort < 0 || s.ListenPort > 65535 {
		found = append(found, meta.Finding{Path: "spec.listenPort", Value: strconv.Itoa(s.ListenPort), Want: "a port from 1 to 65535"})
	}
	found = append(found, checkEnum("spec.bindMode", s.BindMode, "None", "NodeIP")...)
	found = append(found, checkEnum("spec.serviceLoadBalancerAggregation", s.ServiceLoadBalancerAggregation, "Enabled", "Disabled")...)
	found = append(found, checkEnum("spec.programClusterRoutes", s.ProgramClusterRoutes, "Enabled", "Disabled", "EnabledIPIPOnly")...)
	for _, list := range []struct {
		path   string
		blocks []CIDRBlock
	}{
		{"spec.serviceLoadBalancerIPs", s.ServiceLoadBalancerIPs},
		{"spec.serviceExternalIPs", s.ServiceExternalIPs},
		{"spec.serviceClusterIPs", s.ServiceClusterIPs},
	} {
		for i, block := range list.blocks {
			_, wrong := checkPrefix(fmt.Sprintf("%s[%d].cidr", list.path, i), block.CIDR)
			found = append(found, wrong...)
		}
	}
	return append(found, s.limits()...)
}

// limits says what this version does not do of what the configuration asks for.
func (s BGPConfigurationSpec) limits() []meta.Finding {
	var found []meta.Finding
	for _, f := range []struct {
		set  bool
		path string
	}{
		{s.BindMode == "NodeIP", "spec.bindMode"},
		{s.NodeMeshMaxRestartTime != "", "spec.nodeMeshMaxRestartTime"},
		{len(s.ServiceLoadBalancerIPs) > 0, "spec.serviceLoadBalancerIPs"},
		{len(s.ServiceExternalIPs) > 0, "spec.serviceExternalIPs"},
		{len(s.ServiceClusterIPs) > 0, "spec.serviceClusterIPs"},
		{len(s.Communities) > 0, "spec.communities"},
		{len(s.PrefixAdvertisements) > 0, "spec.prefixAdvertisements"},
		{len(s.IgnoredInterfaces) > 0, "spec.ignoredInterfaces"},
		{s.LocalWorkloadPeeringIPV4 != "", "spec.localWorkloadPeeringIPV4"},
		{s.LocalWorkloadPeeringIPV6 != "", "spec.localWorkloadPeeringIPV6"},
		{s.ServiceLoadBalancerAggregation == "Disabled", "spec.serviceLoadBalancerAggregation"},
		{s.ProgramClusterRoutes != "" && s.ProgramClusterRoutes != "Enabled", "spec.programClusterRoutes"},
	} {
		if f.set {
			found = append(found, unsupported(f.path, "", "it left out", withBGP))
		}
	}
	if s.NodeMeshPassword != nil {
		found = append(found, unsupported("spec.nodeMeshPassword", "", "it left out", passwordHint))
	}
	if s.LogSeverityScreen != "" && s.LogSeverityScreen != "Info" {
		found = append(found, notice("spec.logSeverityScreen", s.LogSeverityScreen, "the agent's --log-level decides", ""))
	}
	return found
}

const passwordHint = "Secrets come with the Kubernetes issue; outside Kubernetes a password stands in the file named by the agent's configuration."
